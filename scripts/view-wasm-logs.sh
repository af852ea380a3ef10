#!/usr/bin/env bash
# Shows what the filter in a pod's sidecar says: who it is, what it received,
# what is wrong. The filter's information needs Envoy's log level "info" for
# the component wasm, which a pod has by the annotation
# sidecar.istio.io/componentLogLevel: wasm:info.
#
#   scripts/view-wasm-logs.sh POD [NAMESPACE] [kubectl logs flags, such as --tail=50 or -f]
set -euo pipefail
pod=${1:?usage: view-wasm-logs.sh POD [NAMESPACE] [FLAGS]}
kubectl -n "${2:-demo}" logs "$pod" -c istio-proxy "${@:3}" | grep --line-buffered 'wasm log: hfi: ' ||
  { echo "the filter in $pod has said nothing" >&2; exit 1; }
