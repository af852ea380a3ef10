#!/usr/bin/env bash
# Shows the filter's metrics in a pod's sidecar, as Prometheus scrapes them.
# It asks the port that Istio opens for that, through the API server.
#
#   scripts/wasm-stats.sh POD [NAMESPACE]
set -euo pipefail
pod=${1:?usage: wasm-stats.sh POD [NAMESPACE]}
kubectl get --raw "/api/v1/namespaces/${2:-demo}/pods/$pod:15090/proxy/stats/prometheus" | grep -E '^hfi_|^envoy_wasm' ||
  { echo "the sidecar of $pod has no metrics of the filter: is it loaded?" >&2; exit 1; }
