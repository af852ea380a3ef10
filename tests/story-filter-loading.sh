#!/usr/bin/env bash
# The filter is loaded into the sidecars, and policies reach it. See lib.sh for what is needed.
. "$(dirname "$0")/lib.sh"
clone=$work/clone

# The filter logs at level info, and Istio's sidecars log only warnings and errors
# without this annotation of their pods. It stays on the Deployments.
annotations='{"kubectl.kubernetes.io/restartedAt": "'$(date -u +%FT%TZ)'", "sidecar.istio.io/componentLogLevel": "misc:error,wasm:info"}'
fresh() {
  local name
  kubectl -n "$DEMO" delete wasmplugin hfi --ignore-not-found || return 1
  for name in "$FRONTEND" "$CATALOG"; do
    kubectl -n "$DEMO" patch deployment "$name" --type=merge -p '{"spec": {"template": {"metadata": {"annotations": '"$annotations"'}}}}' || return 1
  done
  for name in "$FRONTEND" "$CATALOG"; do
    kubectl -n "$DEMO" rollout status "deployment/$name" --timeout=120s || return 1
  done
}

# condition STATUS: waits until the WasmPlugin's condition Loaded has this status.
condition() { kubectl -n "$DEMO" wait "--for=condition=Loaded=$1" wasmplugin/hfi --timeout=60s; }
everywhere() { local pod; for pod in $(all_pods); do answers "$pod" "$1" 1 || return 1; done; }

# The control plane serves its filter under its SHA-256, and nothing under this one.
broken() {
  manifest | sed "s#/v1/filter\.wasm\$#/v1/filter/$(printf '%064d' 0).wasm#" | kubectl apply -f - && condition False || return 1
  kubectl -n "$DEMO" get wasmplugin hfi -o jsonpath='{.status.conditions[?(@.type=="Loaded")].reason}' | grep -qx UnreachableURL && everywhere 200
}
load() { manifest | kubectl apply -f - && within "$LOAD" loaded; }

# In the log of the sidecar since its last start.
said() { kubectl -n "$DEMO" logs "$1" -c istio-proxy | grep -q 'Received config update from control plane'; }
all_said() { local pod; for pod in $(all_pods); do said "$pod" || { echo "$pod has not logged it"; return 1; }; done; }

# pushed STATUS: pushes, sends a webhook as a git server does, and waits until every
# pod responds with this status.
pushed() {
  local sidecars began pod
  sidecars=$(all_pods)
  began=$(millis)
  git -C "$clone" push -q && curl -sSf -m 20 -X POST "$HFI_SERVER/v1/webhook" || return 1
  for pod in $sidecars; do
    until answers "$pod" "$1" 1; do [ $(($(millis) - began)) -lt 5000 ] || return 1; done
  done
  figure="$(since "$began") from git push to the last pod"
}
change() {
  git clone -q -b main "$HFI_REPO" "$clone" && mkdir -p "$clone/policies" || return 1
  cat >"$clone/policies/story-filter-loading.yaml" <<POLICY
metadata: {name: story-filter-loading}
spec: {selector: {namespace: "$DEMO"}, rules: [{fault: {abort: {status: 418}}}]}
POLICY
  git -C "$clone" add policies && git -C "$clone" commit -q -m "Abort everything" && pushed 418
}
rollback() { git -C "$clone" revert --no-edit HEAD && pushed 200 && settled; }

scenario "new pods without the filter" fresh
scenario "a WasmPlugin with a wrong URL reports the reason, and requests pass" broken
scenario "with the correct URL it is in every sidecar within $LOAD s" load
scenario "the WasmPlugin reports that it is loaded" condition True
scenario "every sidecar's log says that it received its policies" within 10 all_said
scenario "a pushed policy is in force everywhere within 5 s" change
scenario "git revert and a push, and requests pass again within 5 s" rollback
finish
