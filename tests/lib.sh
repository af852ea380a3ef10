# Functions of the story scripts. Source it; it needs kubectl, curl, git and hfi.
#
# They work on any cluster that kubectl reaches: only the API server has to be
# reachable. They require the following, where environment variables can override
# the defaults in parentheses:
#
#   HFI_REPO   URL of the policy repository, to which this machine can push
#   CONTROL    namespace of the control plane (boifi); for another
#              one HFID_KUBE_CONTROL_PLANE must be set too
#   DEMO       namespace with sidecars (demo)
#   FRONTEND   a Deployment there with three replicas that answer GET / on PORT
#              with 200, in plain text or with permissive mutual TLS
#   CATALOG    another one, with one replica (productcatalog)
#   PORT       the port that their containers listen on (8080)
#   HFI        the command line (hfi)
#   LOAD       limit for the loading of the filter, in seconds (30)
#
# The daemon must not manage the WasmPlugin of DEMO (HFID_KUBE_NAMESPACES). There is
# no script about drift: that requires etcdctl on the cluster's etcd, which cannot be
# reached through the API server. tests/istio has that story.
#
# shellcheck shell=bash
set -euo pipefail
: "${CONTROL:=boifi}" "${LOAD:=30}" "${DEMO:=demo}" "${FRONTEND:=frontend}" "${CATALOG:=productcatalog}" "${PORT:=8080}" "${HFI:=hfi}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
failures=0

for program in kubectl curl git "$HFI"; do
  command -v "$program" >/dev/null || { echo "$program is missing" >&2; exit 2; }
done
: "${HFI_REPO:?say which repository to push policies to}"
export HFI_REPO

# The API server, without TLS and credentials, for curl and hfi.
work=$(mktemp -d)
kubectl proxy --port=0 >"$work/proxy" 2>&1 &
proxy=$!
ended() {
  kill "$proxy" 2>/dev/null || true
  wait "$proxy" 2>/dev/null || true
  rm -rf "$work"
}
trap ended EXIT
for _ in $(seq 100); do
  grep -q 'Starting to serve' "$work/proxy" && break
  sleep 0.1
done
api=http://$(grep -o '127\.0\.0\.1:[0-9]*' "$work/proxy")/api/v1/namespaces
export HFI_SERVER=$api/$CONTROL/services/hfi-control-plane:http/proxy

# millis: the time in milliseconds, or in whole seconds if date supports no more.
millis() {
  local now
  now=$(date +%s%N)
  case $now in *N) now=${now%N}000000000 ;; esac
  echo $((now / 1000000))
}

# since MILLIS: the seconds since then, with milliseconds.
since() {
  local took=$(($(millis) - $1))
  printf '%d.%03d s' $((took / 1000)) $((took % 1000))
}

# scenario TEXT COMMAND...: runs the command and prints its result, and the figure
# that the command may have set.
scenario() {
  local text=$1 word=ok began
  shift
  began=$(millis)
  figure=
  "$@" >"$work/said" 2>&1 || word=FAIL
  printf '%-5s %s (%s)%s\n' "$word" "$text" "$(since "$began")" "${figure:+: $figure}"
  if [ "$word" = FAIL ]; then
    sed 's/^/      /' "$work/said"
    failures=$((failures + 1))
  fi
}

# finish: the script's exit code.
finish() { [ "$failures" = 0 ]; }

# within SECONDS COMMAND...: retries until the command succeeds.
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || { echo "not in time: $*"; return 1; }
    sleep 0.2
  done
}

ask() { curl -sSf -m 20 "$HFI_SERVER$1"; }

# labels DEPLOYMENT: the label selector of its pods, which is cached.
labels() {
  [ -s "$work/labels-$1" ] || kubectl -n "$DEMO" get deployment "$1" \
    -o go-template='{{range $key, $value := .spec.selector.matchLabels}}{{$key}}={{$value}},{{end}}' >"$work/labels-$1" || return 1
  sed 's/,$//' "$work/labels-$1"
}

# pods DEPLOYMENT: the names of its ready pods that are not being deleted.
pods() {
  local selector
  selector=$(labels "$1") || return 1
  kubectl -n "$DEMO" get pods -l "$selector" \
    -o go-template='{{range $p := .items}}{{if not .metadata.deletionTimestamp}}{{range .status.conditions}}{{if and (eq .type "Ready") (eq .status "True")}}{{$p.metadata.name}}{{"\n"}}{{end}}{{end}}{{end}}{{end}}'
}

all_pods() { pods "$FRONTEND"; pods "$CATALOG"; }

# Without this check a scenario about every pod would succeed without any pod.
for name in "$FRONTEND" "$CATALOG"; do
  [ -n "$(labels "$name")" ] || { echo "namespace $DEMO has no Deployment $name that selects its pods by labels" >&2; exit 2; }
done

# send POD COUNT: sends COUNT requests through the pod's sidecar and prints their statuses.
send() {
  curl -sS -m 120 -o /dev/null -w '%{http_code}\n' "$api/$DEMO/pods/$1:$PORT/proxy/?request=[1-$2]"
}

# answers POD STATUS COUNT: checks that each of COUNT requests gets this status.
answers() {
  local other
  other=$(send "$1" "$3" | grep -vcx "$2") || true
  [ "$other" = 0 ] || { echo "$1 did not respond with $2 to $other of $3 requests"; return 1; }
}

# stat POD METRIC: the sum of a metric of the pod's sidecar, as Prometheus scrapes it.
stat() {
  curl -sSf -m 20 "$api/$DEMO/pods/$1:15090/proxy/stats/prometheus" |
    awk -v name="$2" '{ split($1, part, "{") } part[1] == name { sum += $NF } END { print sum + 0 }'
}

# abort NAME SERVICE NAMESPACE STATUS PERCENTAGE: creates a policy, and waits until
# every filter has it.
abort() {
  "$HFI" apply -f - <<POLICY && settled
metadata: {name: $1}
spec:
  selector: {service: "$2", namespace: "$3"}
  rules: [{fault: {percentage: $5, abort: {status: $4}}}]
POLICY
}

remove() { "$HFI" delete "$1" && settled; }

# settled: waits until every filter has the head of the repository.
settled() { "$HFI" wait "$(git ls-remote "$HFI_REPO" refs/heads/main | cut -f1)" --timeout 60s; }

# filter POD: the daemon's data about the filter in a pod, as JSON in one line.
filter() { "$HFI" get filters -o json | tr -d ' \n' | grep -o '{[^{}]*"pod":"'"$1"'"[^{}]*' | head -1; }

# loaded: checks that the filter of every ready pod is connected and current.
loaded() {
  local pod
  for pod in $(all_pods); do
    filter "$pod" | grep -q '"state":"Current"' || { echo "$pod has no filter that is current"; return 1; }
  done
}

# manifest: prints the WasmPlugin for DEMO, with the control plane in CONTROL.
manifest() { sed "s/^  namespace: demo\$/  namespace: $DEMO/; s/hfi-control-plane\.boifi/hfi-control-plane.$CONTROL/g" "$here/../deploy/istio/namespace.yaml"; }

# plugin: applies the WasmPlugin and waits until the filter is in every pod. Its VMs,
# one for each of Envoy's workers, do not start at the same moment.
plugin() { manifest | kubectl apply -f - && within 120 loaded && sleep 1 && within 10 loaded; }
