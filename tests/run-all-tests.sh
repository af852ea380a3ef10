#!/usr/bin/env bash
# Runs the six stories on the cluster that kubectl reaches, one after the
# other, and fails if one of them does. See lib.sh for what is needed.
set -uo pipefail
cd "$(dirname "$0")" || exit 2
failed=()
for story in control-plane filter-loading targeting identity many-pods observability; do
  printf '\n== %s\n' "$story"
  "./story-$story.sh" || failed+=("$story")
done
if [ ${#failed[@]} -gt 0 ]; then
  printf '\nfailed: %s\n' "${failed[*]}"
  exit 1
fi
printf '\nall stories passed\n'
