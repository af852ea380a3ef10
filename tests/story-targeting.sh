#!/usr/bin/env bash
# Policies touch their targets only. See lib.sh for what is needed.
. "$(dirname "$0")/lib.sh"

# targets SERVICE NAMESPACE FRONTEND CATALOG: the statuses that the two then give.
targets() {
  local pod
  abort story-targeting "$1" "$2" 418 100 || return 1
  for pod in $(pods "$FRONTEND"); do answers "$pod" "$3" 50 || return 1; done
  for pod in $(pods "$CATALOG"); do answers "$pod" "$4" 50 || return 1; done
}

scenario "the filter is in every sidecar" plugin
scenario "a policy for $FRONTEND touches no request of $CATALOG" targets "$FRONTEND" "$DEMO" 418 200
scenario "a policy for $CATALOG touches no request of $FRONTEND" targets "$CATALOG" "$DEMO" 200 418
scenario "* is every service of the namespace" targets '*' "$DEMO" 418 418
scenario "an empty selector is every service" targets '' '' 418 418
scenario "another namespace is none of them" targets '*' hfi-elsewhere 200 200
scenario "the policy is gone" remove story-targeting
finish
