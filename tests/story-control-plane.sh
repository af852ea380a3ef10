#!/usr/bin/env bash
# The control plane on Kubernetes. See lib.sh for what is needed.
. "$(dirname "$0")/lib.sh"

ready() { kubectl -n "$CONTROL" rollout status deployment/hfi-control-plane --timeout=60s; }
two() { [ "$(kubectl -n "$CONTROL" get deployment hfi-control-plane -o jsonpath='{.status.readyReplicas}')" = 2 ]; }
back() { abort story-control-plane nobody "$DEMO" 503 100 && ask /v1/policies/story-control-plane | grep -q '"name":"story-control-plane"'; }
gone() { remove story-control-plane && ! ask /v1/policies/story-control-plane; }

# Requests to every pod continue while a replica is deleted, and none fails.
kill_one() {
  local victim pod senders=()
  victim=$(kubectl -n "$CONTROL" get pods -l app.kubernetes.io/name=hfi-control-plane -o jsonpath='{.items[0].metadata.name}')
  for pod in $(all_pods); do
    for _ in $(seq 20); do send "$pod" 20; sleep 0.3; done >"$work/statuses-$pod" &
    senders+=($!)
  done
  kubectl -n "$CONTROL" delete pod "$victim" --wait=false
  for _ in $(seq 20); do within 30 ask /v1/policies || return 1; sleep 0.2; done
  wait "${senders[@]}"
  ! grep -Hvx 200 "$work"/statuses-*
}

scenario "both replicas are ready within 60 s" ready
scenario "two replicas are ready" two
scenario "GET /health responds" ask /health
scenario "GET /ready responds, with the state of etcd" eval 'ask /ready | grep -q "\"etcd\""'
scenario "a policy created with the command line is served" back
scenario "the command line deletes it" gone
scenario "no request of an application fails while a replica is deleted, and the control plane responds" kill_one
scenario "both replicas are ready again" ready
finish
