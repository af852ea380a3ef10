#!/usr/bin/env bash
# Every filter knows its workload. See lib.sh for what is needed.
. "$(dirname "$0")/lib.sh"

# The filter of every pod reports the pod's workload.
identities() {
  local pod service
  for service in "$FRONTEND" "$CATALOG"; do
    for pod in $(pods "$service"); do
      filter "$pod" | grep "\"service\":\"$service\"" | grep -q "\"namespace\":\"$DEMO\"" ||
        { echo "the filter in $pod reports $(filter "$pod")"; return 1; }
    done
  done
}

scenario "the filter is in every sidecar" plugin
scenario "every filter knows its workload, namespace and pod" identities
finish
