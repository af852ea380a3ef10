#!/usr/bin/env bash
# Each pod draws independently, and a new one gets the policies. See lib.sh for what is needed.
. "$(dirname "$0")/lib.sh"

# Of 1,000 requests at 30 %, 80 are more than five standard deviations.
share() {
  local aborted
  aborted=$(send "$1" 1000 | grep -cx 418) || true
  echo "$1 aborted $aborted of 1000"
  [ "$aborted" -ge 220 ] && [ "$aborted" -le 380 ]
}
three() { [ "$(pods "$FRONTEND" | wc -l)" = 3 ]; }
restart() {
  local victim
  victim=$(pods "$FRONTEND" | head -1)
  pods "$FRONTEND" >"$work/before"
  kubectl -n "$DEMO" delete pod "$victim" && within 60 three && within 120 loaded
}
new_share() { share "$(pods "$FRONTEND" | grep -vxFf "$work/before")"; }

scenario "the filter is in every sidecar" plugin
scenario "$FRONTEND has three pods" three
scenario "a policy for 30 %" abort story-many-pods "$FRONTEND" "$DEMO" 418 30
for pod in $(pods "$FRONTEND"); do
  scenario "$pod aborts 30 % of its own 1,000 requests" share "$pod"
done
scenario "a replaced pod has the filter and its policies again" restart
scenario "the new pod aborts 30 %" new_share
scenario "the policy is deleted" remove story-many-pods
finish
