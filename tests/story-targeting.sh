#!/usr/bin/env bash
# Policies affect their targets only. See lib.sh for what is needed.
. "$(dirname "$0")/lib.sh"

# targets SERVICE NAMESPACE FRONTEND CATALOG: checks the statuses of the two workloads
# with a policy for SERVICE and NAMESPACE.
targets() {
  local pod
  abort story-targeting "$1" "$2" 418 100 || return 1
  for pod in $(pods "$FRONTEND"); do answers "$pod" "$3" 50 || return 1; done
  for pod in $(pods "$CATALOG"); do answers "$pod" "$4" 50 || return 1; done
}

scenario "the filter is in every sidecar" plugin
scenario "a policy for $FRONTEND affects no request of $CATALOG" targets "$FRONTEND" "$DEMO" 418 200
scenario "a policy for $CATALOG affects no request of $FRONTEND" targets "$CATALOG" "$DEMO" 200 418
scenario "* selects every service of the namespace" targets '*' "$DEMO" 418 418
scenario "an empty selector selects every service" targets '' '' 418 418
scenario "a policy for another namespace affects none of them" targets '*' hfi-elsewhere 200 200
scenario "the policy is deleted" remove story-targeting
finish
