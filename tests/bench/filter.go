package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/hfidtest"
)

// requestPath is the path of every request whose cost is measured.
const requestPath = "/api/v1/shop/0007"

// chain is one listener of the Envoy that is measured.
type chain struct {
	name string
	// filter is the only filter before the router; nil means none.
	filter *envoytest.Filter
	// set is the name of the policies that the filter gets; empty if it gets none.
	set string
}

// filterBench is what the measurements of the filter need.
type filterBench struct {
	config
	// folder has the modules and the files of the Envoys.
	folder   string
	policies *policyServer
}

// filterCosts measures what the filter adds to requests, how precise its
// delays are, and what it adds to an Envoy's memory and start.
func filterCosts(ctx context.Context, c config) ([]row, error) {
	return withFilter(c, func(b *filterBench) ([]row, error) {
		requests, err := b.requests(ctx)
		if err != nil {
			return nil, err
		}
		precision, err := b.precision(ctx)
		if err != nil {
			return nil, err
		}
		footprint, err := b.footprint(ctx)
		return append(append(requests, precision...), footprint...), err
	})
}

// pushToFault measures from a push to the first faulted request.
func pushToFault(ctx context.Context, c config) ([]row, error) {
	return withFilter(c, func(b *filterBench) ([]row, error) { return b.pushes(ctx) })
}

func withFilter(c config, measure func(*filterBench) ([]row, error)) (rows []row, err error) {
	folder, err := os.MkdirTemp("", "hfi-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	b := &filterBench{config: c, folder: folder, policies: newPolicyServer()}
	defer b.policies.close()
	if err := b.modules(); err != nil {
		return nil, err
	}
	return measure(b)
}

// modules puts the modules into the folder: the filter as users get it, the same built
// by the go command alone, without filter/compile and filter/link, a module of Go with
// three exports, and one that does nothing.
func (b *filterBench) modules() error {
	if err := os.WriteFile(b.module("empty"), envoytest.EmptyModule(), 0o600); err != nil {
		return err
	}
	for name, source := range map[string]string{"unlinked": "./filter", "go": "./tests/bench/baremodule"} {
		compiler := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", b.module(name), source)
		compiler.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
		if output, err := compiler.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w: %s", source, err, output)
		}
	}
	return hfidtest.CompileModule(b.module("hfi"))
}

func (b *filterBench) module(name string) string { return filepath.Join(b.folder, name+".wasm") }

// hfi returns a chain with the filter, which gets a set from the policy server.
func (b *filterBench) hfi(name, module, set string) chain {
	filter := envoytest.Wasm{Name: name, File: b.module(module), Configuration: map[string]any{
		"control_plane_cluster": "policies", "control_plane_address": set,
	}}.Filter()
	return chain{name, &filter, set}
}

// requests measures the added CPU time per request in one Envoy, whose listeners
// have different filters, compared with the listener without a filter.
func (b *filterBench) requests(ctx context.Context) ([]row, error) {
	empty := envoytest.Wasm{Name: "empty", File: b.module("empty")}.Filter()
	idleNative := envoytest.NativeFault{}.Filter()
	otherPath := envoytest.AlwaysAbort(503)
	otherPath.Headers = []map[string]any{{"name": ":path", "string_match": map[string]any{"exact": "/other"}}}
	nativePath := otherPath.Filter()
	chains := []chain{
		{"none", nil, ""},
		{"empty", &empty, ""},
		{"native-idle", &idleNative, ""},
		{"native-path", &nativePath, ""},
		b.hfi("unlinked", "unlinked", "none"),
		b.hfi("idle", "hfi", "none"),
		b.hfi("path", "hfi", "other-path"),
		b.hfi("one", "hfi", "one"),
		b.hfi("thousand", "hfi", "thousand"),
		b.hfi("dry-run", "hfi", "dry-run"),
	}
	e, err := b.envoy(ctx, 1, chains...)
	if err != nil {
		return nil, err
	}
	none, added, err := b.added(ctx, e, chains)
	if err := errors.Join(err, e.Stop()); err != nil {
		return nil, err
	}
	microseconds := func(d time.Duration) string { return fmt.Sprintf("%.1f µs", d.Seconds()*1e6) }
	micro := func(name string) string { return microseconds(added[name]) }
	over := func(name, of string) float64 { return added[name].Seconds() / added[of].Seconds() }
	information := func(figure, name string) row {
		return row{figure + ", added CPU time per request", micro(name), "", true, false}
	}
	bounded := func(figure, name, of string, bound float64) row {
		ratio := over(name, of)
		return row{figure, fmt.Sprintf("%.2f (%s, %s)", ratio, micro(name), micro(of)), fmt.Sprintf("≤ %g", bound), ratio <= bound, false}
	}
	return []row{
		{"no filter at all, CPU time per request", microseconds(none), "", true, false},
		information("Envoy's own fault filter, without a fault", "native-idle"),
		information("Envoy's own fault filter, for another path", "native-path"),
		information("a Wasm module that does nothing, the minimum", "empty"),
		information("hfi without policies, built by the go command alone", "unlinked"),
		bounded("hfi without policies, relative to the minimum", "idle", "empty", 1.2),
		bounded("hfi with a policy for another path, relative to the minimum", "path", "empty", 3),
		information("hfi with a policy for the request's path and for a header that the request lacks", "one"),
		bounded("that policy among 1000 for other paths, relative to it alone", "thousand", "one", 1.2),
		bounded("hfi with a policy that matches, in a dry run, relative to the minimum", "dry-run", "empty", 3.5),
	}, nil
}

// added returns the cost of a request with the first chain, and the additional cost
// with each other chain, by its name.
func (b *filterBench) added(ctx context.Context, e *envoytest.Envoy, chains []chain) (first time.Duration, added map[string]time.Duration, err error) {
	var loads []envoytest.Load
	for _, c := range chains {
		loads = append(loads, envoytest.Load{
			Request:     envoytest.Request{URL: e.ListenerURL(c.name) + requestPath, Header: http.Header{"User-Agent": {"bench"}}},
			Connections: b.connections, Requests: b.warmUp,
		})
	}
	// V8 later recompiles frequently used code with optimizations, so the first requests cost more.
	if _, err := e.Costs(ctx, 1, loads...); err != nil {
		return 0, nil, err
	}
	for i := range loads {
		loads[i].Requests = b.requestsOfARound
	}
	first, costs, err := e.AddedCosts(ctx, b.rounds, loads...)
	if err != nil {
		return 0, nil, err
	}
	added = map[string]time.Duration{}
	for i, c := range chains {
		added[c.name] = costs[i]
	}
	return first, added, nil
}

// envoy starts an Envoy with a listener for each chain, whose routes respond
// without an upstream, and waits until the filters have their policies.
func (b *filterBench) envoy(ctx context.Context, workers int, chains ...chain) (*envoytest.Envoy, error) {
	config := envoytest.Config{
		Node: envoytest.Workload("shop", "demo", "shop-0"), Concurrency: workers, LogLevel: "warning",
		Arguments: []string{"--component-log-level", "wasm:info"},
		Clusters:  []envoytest.Cluster{{Name: "policies", Address: b.policies.address()}},
	}
	for _, c := range chains {
		listener := envoytest.Listener{Name: c.name, Routes: []envoytest.Route{{Status: 200}}}
		if c.filter != nil {
			listener.Filters = []envoytest.Filter{*c.filter}
		}
		config.Listeners = append(config.Listeners, listener)
	}
	folder, err := os.MkdirTemp(b.folder, "envoy-")
	if err != nil {
		return nil, err
	}
	e, err := envoytest.Start(config, folder)
	if err != nil {
		return nil, err
	}
	// The main thread has a VM too, which gets policies but no requests.
	if err := b.policies.awaitTaken(ctx, chains, workers+1); err != nil {
		return nil, errors.Join(err, e.Stop())
	}
	return e, nil
}
