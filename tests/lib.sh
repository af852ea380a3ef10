# What the stories' scripts share. Source it; it needs kubectl, curl, git and hfi.
#
# They work on any cluster that kubectl reaches, through the API server alone:
# nothing has to be reachable but that. What they take for given, each to be
# set otherwise in the environment:
#
#   HFI_REPO   the policy repository, as this machine may push to it
#   CONTROL    namespace of the control plane (boifi), told so by
#              HFID_KUBE_CONTROL_PLANE if it is another
#   DEMO       namespace with sidecars (demo)
#   FRONTEND   a Deployment there of three replicas that answer GET / on PORT
#              with 200, by a Service in plain text or permissive mutual TLS
#   CATALOG    another, of one (productcatalog)
#   PORT       the port that their containers listen on (8080)
#   HFI        the command line (hfi)
#   LOAD       how many seconds a filter may take to load (30)
#
# The daemon must not keep the WasmPlugin of DEMO itself (HFID_KUBE_NAMESPACES).
# Drift has no story here: to make some takes etcdctl on the cluster's etcd,
# which is not to be reached through the API server. The mesh's own tests have it.
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

# millis: the time in milliseconds, or in whole seconds where date knows no more.
millis() {
  local now
  now=$(date +%s%N)
  case $now in *N) now=${now%N}000000000 ;; esac
  echo $((now / 1000000))
}

# since MILLIS: the seconds since then, to the millisecond.
since() {
  local took=$(($(millis) - $1))
  printf '%d.%03d s' $((took / 1000)) $((took % 1000))
}

# scenario TEXT COMMAND...: runs the command and prints how it went, and the
# figure that the command may have left.
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

# within SECONDS COMMAND...: tries until the command succeeds.
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || { echo "not in time: $*"; return 1; }
    sleep 0.2
  done
}

ask() { curl -sSf -m 20 "$HFI_SERVER$1"; }

# labels DEPLOYMENT: what its pods are selected by, asked for once.
labels() {
  [ -s "$work/labels-$1" ] || kubectl -n "$DEMO" get deployment "$1" \
    -o go-template='{{range $key, $value := .spec.selector.matchLabels}}{{$key}}={{$value}},{{end}}' >"$work/labels-$1" || return 1
  sed 's/,$//' "$work/labels-$1"
}

# pods DEPLOYMENT: the names of its ready pods that nobody is ending.
pods() {
  local selector
  selector=$(labels "$1") || return 1
  kubectl -n "$DEMO" get pods -l "$selector" \
    -o go-template='{{range $p := .items}}{{if not .metadata.deletionTimestamp}}{{range .status.conditions}}{{if and (eq .type "Ready") (eq .status "True")}}{{$p.metadata.name}}{{"\n"}}{{end}}{{end}}{{end}}{{end}}'
}

all_pods() { pods "$FRONTEND"; pods "$CATALOG"; }

# Without this a scenario about every pod would hold for none.
for name in "$FRONTEND" "$CATALOG"; do
  [ -n "$(labels "$name")" ] || { echo "namespace $DEMO has no Deployment $name that selects its pods by labels" >&2; exit 2; }
done

# send POD COUNT: the statuses of so many requests through the pod's sidecar.
send() {
  curl -sS -m 120 -o /dev/null -w '%{http_code}\n' "$api/$DEMO/pods/$1:$PORT/proxy/?request=[1-$2]"
}

# answers POD STATUS COUNT: every one of so many requests gets that status.
answers() {
  local other
  other=$(send "$1" "$3" | grep -vcx "$2") || true
  [ "$other" = 0 ] || { echo "$1 answered $other of $3 requests otherwise than by $2"; return 1; }
}

# stat POD METRIC: the sum of a metric of the pod's sidecar, as Prometheus sees it.
stat() {
  curl -sSf -m 20 "$api/$DEMO/pods/$1:15090/proxy/stats/prometheus" |
    awk -v name="$2" '{ split($1, part, "{") } part[1] == name { sum += $NF } END { print sum + 0 }'
}

# abort NAME SERVICE NAMESPACE STATUS PERCENTAGE: makes a policy, and waits
# until every filter has it.
abort() {
  "$HFI" apply -f - <<POLICY && settled
metadata: {name: $1}
spec:
  selector: {service: "$2", namespace: "$3"}
  rules: [{fault: {percentage: $5, abort: {status: $4}}}]
POLICY
}

remove() { "$HFI" delete "$1" && settled; }

# settled: every filter has what git has.
settled() { "$HFI" wait "$(git ls-remote "$HFI_REPO" refs/heads/main | cut -f1)" --timeout 60s; }

# filter POD: what the daemon knows of the filter in a pod, in JSON on one line.
filter() { "$HFI" get filters -o json | tr -d ' \n' | grep -o '{[^{}]*"pod":"'"$1"'"[^{}]*' | head -1; }

# loaded: the filter of every ready pod is connected and current.
loaded() {
  local pod
  for pod in $(all_pods); do
    filter "$pod" | grep -q '"state":"Current"' || { echo "$pod has no filter that is current"; return 1; }
  done
}

# manifest: the WasmPlugin for DEMO, with the control plane in CONTROL.
manifest() { sed "s/^  namespace: demo\$/  namespace: $DEMO/; s/hfi-control-plane\.boifi/hfi-control-plane.$CONTROL/g" "$here/../deploy/istio/namespace.yaml"; }

# plugin: the filter is in every pod. Its instances, one for each of Envoy's
# workers, do not start at the very same moment.
plugin() { manifest | kubectl apply -f - && within 120 loaded && sleep 1 && within 10 loaded; }
