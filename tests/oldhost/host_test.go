// Package oldhost runs the filter natively in a host with exactly the functions and
// restrictions of Envoy 1.32, the oldest that the filter supports and of which no
// package registry has a build. Its source is proxy-wasm-cpp-host as of Envoy 1.32.
package oldhost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// During these phases a call of any other function ends the VM.
var (
	duringStart = []string{
		"env.proxy_log", "fd_write", "args_sizes_get", "args_get", "environ_sizes_get", "environ_get",
		"fd_prestat_get", "fd_prestat_dir_name", "clock_time_get", "random_get",
	}
	duringAllocation = []string{"env.proxy_log", "fd_write", "clock_time_get"}
)

var errRestricted = errors.New("restricted_callback")

// host is a thread of an Envoy with one VM. It is used by one goroutine.
type host struct {
	t      testing.TB
	ctx    context.Context
	module api.Module
	memory api.Memory
	// err is set when the VM has ended.
	err error

	configuration string
	// properties are those of the node, by their path, joined with dots.
	properties map[string]string
	// clusters has the base URL of each cluster.
	clusters map[string]string

	// allowed are the functions that may be called; nil means all.
	allowed []string
	// current is the context of the current callback, and effective the one that
	// calls are made in, if it is not 0.
	current, effective uint32
	contexts           map[uint32]*contextOf
	lastContext        uint32
	// after is what is to be done after the current callback.
	after []func()

	lastCall uint32
	answers  chan *answer
	// answer is the response of the current callback.
	answer *answer

	// shared is the shared data.
	shared map[string]sharedValue

	// calls are the functions that the module has called since it was set to a list, each with
	// what it is about: see about.
	calls []string

	metrics     map[uint32]*metric
	metricNames map[string]uint32
	log         []string
}

// sharedValue is a value in the shared data. Each change changes its version.
type sharedValue struct {
	data    []byte
	version uint32
}

// contextOf is a plugin context or a stream.
type contextOf struct {
	id, parent uint32
	headers    [][2]string
	paused     bool
	resumed    time.Time
	response   *response
	marks      map[string]string
	// tick is the next tick of a plugin context, zero if there is none.
	tick   time.Time
	period time.Duration
}

// response is one by the filter.
type response struct {
	status  uint32
	headers [][2]string
	body    string
	at      time.Time
}

// answer is a response of a cluster.
type answer struct {
	in, token uint32
	headers   [][2]string
	body      []byte
}

type metric struct {
	name  string
	value int64
}

// compiled are modules by their content, because it takes seconds to compile one.
var compiled = wazero.NewCompilationCache()

// newHost returns a host in which no module has been loaded.
func newHost(t testing.TB) *host {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return &host{
		t: t, ctx: ctx, contexts: map[uint32]*contextOf{}, metrics: map[uint32]*metric{}, metricNames: map[string]uint32{}, shared: map[string]sharedValue{},
		properties: map[string]string{}, clusters: map[string]string{}, answers: make(chan *answer, 100),
	}
}

// load instantiates a module and starts the VM.
func (h *host) load(binary []byte) error {
	runtime := wazero.NewRuntimeWithConfig(h.ctx, wazero.NewRuntimeConfig().WithCompilationCache(compiled))
	h.t.Cleanup(func() {
		if err := runtime.Close(context.Background()); err != nil {
			h.t.Error(err)
		}
	})
	modules := map[string]wazero.HostModuleBuilder{}
	for _, f := range functions {
		from, name := "wasi_snapshot_preview1", f.name
		if strings.HasPrefix(name, "env.") {
			from, name = "env", strings.TrimPrefix(name, "env.")
		}
		if modules[from] == nil {
			modules[from] = runtime.NewHostModuleBuilder(from)
		}
		modules[from].NewFunctionBuilder().WithGoModuleFunction(h.hostFunction(f), types(f.parameters), types(f.results)).Export(name)
	}
	for _, m := range modules {
		if _, err := m.Instantiate(h.ctx); err != nil {
			return err
		}
	}
	code, err := runtime.CompileModule(h.ctx, binary)
	if err != nil {
		return err
	}
	if h.module, err = runtime.InstantiateModule(h.ctx, code, wazero.NewModuleConfig().WithName("").WithStartFunctions()); err != nil {
		return err
	}
	h.memory = h.module.Memory()
	if h.module.ExportedFunction("malloc") == nil && h.module.ExportedFunction("proxy_on_memory_allocate") == nil {
		return errors.New("the module has no function to allocate memory")
	}
	h.allowed = duringStart
	h.call(0, "_initialize")
	h.allowed = nil
	return h.err
}

func types(letters string) (types []api.ValueType) {
	for _, letter := range letters {
		types = append(types, map[rune]api.ValueType{'i': api.ValueTypeI32, 'l': api.ValueTypeI64}[letter])
	}
	return types
}

func (h *host) hostFunction(f function) api.GoModuleFunc {
	return func(_ context.Context, _ api.Module, stack []uint64) {
		if h.allowed != nil && !slices.Contains(h.allowed, f.name) {
			panic(fmt.Errorf("%w: %s", errRestricted, f.name))
		}
		if f.call == nil {
			panic(fmt.Errorf("this host does not implement %s", f.name))
		}
		arguments := slices.Clone(stack[:len(f.parameters)])
		for i, letter := range f.parameters {
			if letter == 'i' { // The upper half is not defined.
				arguments[i] = uint64(uint32(arguments[i]))
			}
		}
		if h.calls != nil {
			h.calls = append(h.calls, f.name+h.about(f.name, arguments))
		}
		if result := f.call(h, arguments); f.results != "" {
			stack[0] = uint64(result)
		}
	}
}

// about returns the name of the header or property that a call is about, or "".
func (h *host) about(function string, arguments []uint64) string {
	switch function {
	case "env.proxy_get_header_map_value":
		return " " + string(h.bytes(arguments[1], arguments[2]))
	case "env.proxy_get_property", "env.proxy_set_property":
		return " " + strings.ReplaceAll(string(h.bytes(arguments[0], arguments[1])), "\x00", ".")
	}
	return ""
}

// call calls a callback in a context. If the VM has ended, or the module does not
// have the callback, it returns 0.
func (h *host) call(in uint32, callback string, arguments ...uint64) uint32 {
	f := h.module.ExportedFunction(callback)
	if f == nil || h.err != nil {
		return 0
	}
	current, effective := h.current, h.effective
	h.current, h.effective = in, 0
	results, err := f.Call(h.ctx, arguments...)
	h.current, h.effective = current, effective
	if err != nil && h.err == nil {
		h.err = fmt.Errorf("the VM ended in %s: %w", callback, err)
	}
	if err != nil || len(results) == 0 {
		return 0
	}
	return uint32(results[0])
}

// callback calls a callback from the event loop.
func (h *host) callback(in uint32, name string, arguments ...uint64) uint32 {
	h.t.Helper()
	result := h.call(in, name, arguments...)
	for len(h.after) > 0 {
		next := h.after[0]
		h.after = h.after[1:]
		next()
	}
	h.alive()
	return result
}

// alive fails the test if the VM has ended.
func (h *host) alive() {
	h.t.Helper()
	if h.err != nil {
		h.t.Fatalf("%v\nits log ends with\n%s", h.err, strings.Join(h.log[max(0, len(h.log)-20):], "\n"))
	}
}

// effectiveContext is the context that the module makes calls in.
func (h *host) effectiveContext() *contextOf {
	if c := h.contexts[h.effective]; c != nil {
		return c
	}
	return h.contexts[h.current]
}

// root returns the plugin context of a context.
func (h *host) root(c *contextOf) *contextOf {
	if c != nil && c.parent != 0 {
		return h.contexts[c.parent]
	}
	return c
}
