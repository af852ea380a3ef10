#!/usr/bin/env bash
# Builds real servers of Kubernetes or Istio from the Go module proxy.
#
#   tools/istio/build.sh kube|mesh FOLDER
# kube/go.mod and mesh/go.mod have the versions. Without a cache, on two cores, kube
# takes about eleven minutes and mesh about eight; afterwards seconds.
set -euo pipefail
set=$1
out=$(mkdir -p "$2" && cd "$2" && pwd)
cd "$(dirname "$0")/$set"
flags="-s -w"
if [ "$set" = kube ]; then
  # Without this the servers report version v0.0.0, and clients warn of it.
  version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
  IFS=. read -r major minor _ <<<"${version#v}"
  stamp=k8s.io/component-base/version
  flags="$flags -X $stamp.gitVersion=$version -X $stamp.gitMajor=$major -X $stamp.gitMinor=$minor"
fi
for program in $(go list -f '{{.ImportPath}}' tool); do
  echo "building ${program##*/}" >&2
  go build -ldflags "$flags" -o "$out/${program##*/}" "$program"
done
if [ "$set" = mesh ]; then
  # The installation files of Istio: its CRDs, the injector's templates and values, and
  # the bootstrap of sidecars.
  istio=$(go list -m -f '{{.Dir}}' istio.io/istio)
  install -m 644 -D -t "$out/../istio" "$istio"/manifests/charts/base/files/crd-all.gen.yaml \
    "$istio"/manifests/charts/istio-control/istio-discovery/{values.yaml,files/injection-template.yaml,files/gateway-injection-template.yaml} \
    "$istio"/tools/packaging/common/envoy_bootstrap.json
fi
