#!/usr/bin/env bash
# Story 2: the filter in the sidecars. See lib.sh for what is needed.
. "$(dirname "$0")/lib.sh"

# By the log of the sidecar, since it last started.
said() { kubectl -n "$DEMO" logs "$1" -c istio-proxy | grep -q 'Received config update from control plane'; }
all_said() { local pod; for pod in $(all_pods); do said "$pod" || { echo "$pod has not said so"; return 1; }; done; }
fresh() {
  kubectl -n "$DEMO" delete wasmplugin hfi --ignore-not-found
  kubectl -n "$DEMO" rollout restart "deployment/$FRONTEND" "deployment/$CATALOG"
  kubectl -n "$DEMO" rollout status "deployment/$FRONTEND" --timeout=120s
  kubectl -n "$DEMO" rollout status "deployment/$CATALOG" --timeout=120s
}
load() { kubectl apply -f "$here/../deploy/istio/namespace.yaml" && within "$LOAD" loaded; }
everywhere() { local pod; for pod in $(all_pods); do answers "$pod" "$1" 1 || return 1; done; }
update() {
  "$HFI" apply --no-wait -f - <<POLICY
metadata: {name: us2}
spec: {selector: {namespace: "$DEMO"}, rules: [{fault: {abort: {status: 418}}}]}
POLICY
  curl -sSf -X POST "$HFI_SERVER/v1/webhook" && within 5 everywhere 418
}
clean() { remove us2 && everywhere 200; }

scenario "new pods without the filter" fresh
scenario "a WasmPlugin loads it into every sidecar within $LOAD s" load
scenario "every sidecar's log says that it received its policies" within 10 all_said
scenario "a new policy is in force everywhere within 5 s" update
scenario "without it, requests pass" clean
finish
