#!/usr/bin/env bash
# Shows what a pod's sidecar says.
#
#   scripts/view-logs.sh POD [NAMESPACE] [kubectl logs flags, such as --tail=50 or -f]
set -euo pipefail
pod=${1:?usage: view-logs.sh POD [NAMESPACE] [FLAGS]}
exec kubectl -n "${2:-demo}" logs "$pod" -c istio-proxy "${@:3}"
