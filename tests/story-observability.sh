#!/usr/bin/env bash
# Faults are counted, and policies have a status. See lib.sh for what is needed.
. "$(dirname "$0")/lib.sh"

count() {
  local pod before
  pod=$(pods "$FRONTEND" | head -1)
  before=$(stat "$pod" "$1")
  answers "$pod" "$2" 30 || return 1
  sleep 1 # the filter writes its metrics within a second
  [ $(($(stat "$pod" "$1") - before)) = 30 ] || { echo "30 requests did not raise $1 by 30"; return 1; }
}
slow() {
  "$HFI" apply -f - <<POLICY && settled && count hfi_faults_delays_total 200
metadata: {name: story-observability-delay}
spec: {selector: {service: "$FRONTEND", namespace: "$DEMO"}, rules: [{fault: {delay_ms: 5}}]}
POLICY
}
summary() { ask /v1/policies/status | tr -d ' \n' | grep -q '"name":"story-observability","namespace":"'"$DEMO"'","target_service":"'"$FRONTEND"'","rules_count":1,"fault_types":\["abort"\],"active":true'; }
passes() { local pod; for pod in $(pods "$FRONTEND"); do answers "$pod" 200 20 || return 1; done; }

scenario "the filter is in every sidecar" plugin
scenario "kubectl get wasmplugins shows it" eval 'kubectl get wasmplugins -n "$DEMO" | grep -qw hfi'
scenario "a policy is created" abort story-observability "$FRONTEND" "$DEMO" 418 100
scenario "/v1/policies/status has it" summary
scenario "every abort is counted where Prometheus scrapes the sidecar" count hfi_faults_aborts_total 418
scenario "the policy is deleted" remove story-observability
scenario "requests pass" passes
scenario "every delay is counted" slow
scenario "that policy is deleted" remove story-observability-delay
finish
