// Package oldhost runs the filter natively in a host with exactly the functions and
// restrictions of Envoy 1.32, the oldest that the filter supports and of which no
// package registry has a build. Its source is proxy-wasm-cpp-host as of Envoy 1.32.
package oldhost

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/boifi/hfi/internal/testtool"
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
		if result := f.call(h, arguments); f.results != "" {
			stack[0] = uint64(result)
		}
	}
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

func (h *host) newContext(parent uint32) *contextOf {
	h.lastContext++
	c := &contextOf{id: h.lastContext, parent: parent, marks: map[string]string{}}
	h.contexts[c.id] = c
	h.callback(c.id, "proxy_on_context_create", uint64(c.id), uint64(parent))
	return c
}

// startPlugin starts a plugin context with a configuration, and returns its ID.
func (h *host) startPlugin(configuration string) uint32 {
	h.t.Helper()
	h.configuration = configuration
	c := h.newContext(0)
	if h.callback(c.id, "proxy_on_vm_start", uint64(c.id), 0) != 1 {
		h.t.Fatal("the VM does not start")
	}
	if h.callback(c.id, "proxy_on_configure", uint64(c.id), uint64(len(configuration))) != 1 {
		h.t.Fatal("the plugin is not configured")
	}
	return c.id
}

// request begins a stream with these headers of a GET request.
func (h *host) request(plugin uint32, path string, more ...[2]string) *contextOf {
	h.t.Helper()
	c := h.newContext(plugin)
	c.headers = append([][2]string{{":method", "GET"}, {":path", path}, {":authority", "example.com"}}, more...)
	c.paused = h.callback(c.id, "proxy_on_request_headers", uint64(c.id), uint64(len(c.headers)), 1) != 0
	if c.response != nil && !c.paused {
		h.t.Fatal("a request continues after its response")
	}
	return c
}

// end ends a stream.
func (h *host) end(c *contextOf) {
	h.t.Helper()
	h.callback(c.id, "proxy_on_done", uint64(c.id))
	h.callback(c.id, "proxy_on_log", uint64(c.id))
	h.callback(c.id, "proxy_on_delete", uint64(c.id))
	delete(h.contexts, c.id)
}

// handle handles what is due: responses of clusters, and ticks.
func (h *host) handle() {
	h.t.Helper()
	for {
		select {
		case a := <-h.answers:
			if h.contexts[a.in] == nil {
				continue
			}
			h.answer = a
			h.callback(a.in, "proxy_on_http_call_response", uint64(a.in), uint64(a.token), uint64(len(a.headers)), uint64(len(a.body)), 0)
			h.answer = nil
		default:
			now := time.Now()
			for _, c := range h.contexts {
				if !c.tick.IsZero() && !c.tick.After(now) {
					c.tick = now.Add(c.period)
					h.callback(c.id, "proxy_on_tick", uint64(c.id))
				}
			}
			return
		}
	}
}

// until handles what is due until a condition holds.
func (h *host) until(what string, condition func() bool) {
	h.t.Helper()
	testtool.Within(h.t, testtool.WaitLimit, what, func() error {
		h.handle()
		if !condition() {
			return errors.New("not yet")
		}
		return nil
	})
}

// ask sends a request to a cluster.
func (h *host) ask(in uint32, base string, headers [][2]string, limit time.Duration) (token uint32) {
	h.lastCall++
	token = h.lastCall
	go func() {
		a := &answer{in: in, token: token, headers: [][2]string{{":status", "503"}}}
		defer func() {
			select {
			case h.answers <- a:
			case <-h.ctx.Done():
			}
		}()
		ctx, cancel := context.WithTimeout(h.ctx, limit)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, header(headers, ":method"), base+header(headers, ":path"), http.NoBody)
		if err != nil {
			return
		}
		for _, pair := range headers {
			if !strings.HasPrefix(pair[0], ":") {
				request.Header.Add(pair[0], pair[1])
			}
		}
		got, err := http.DefaultClient.Do(request)
		if err != nil {
			return
		}
		defer got.Body.Close()
		body, err := io.ReadAll(got.Body)
		if err != nil {
			return
		}
		a.headers, a.body = [][2]string{{":status", fmt.Sprint(got.StatusCode)}}, body
		for name, values := range got.Header {
			for _, value := range values {
				a.headers = append(a.headers, [2]string{strings.ToLower(name), value})
			}
		}
	}()
	return token
}

func header(headers [][2]string, name string) string {
	for _, pair := range headers {
		if pair[0] == name {
			return pair[1]
		}
	}
	return ""
}

// said reports whether a line of the log contains a text.
func (h *host) said(text string) bool {
	return slices.ContainsFunc(h.log, func(line string) bool { return strings.Contains(line, text) })
}

// value returns the value of a metric.
func (h *host) value(name string) int64 {
	if m := h.metrics[h.metricNames[name]]; m != nil {
		return m.value
	}
	return 0
}

// bytes returns a copy of the module's memory.
func (h *host) bytes(address, size uint64) []byte {
	data, ok := h.memory.Read(uint32(address), uint32(size))
	if !ok {
		panic(fmt.Errorf("an argument is outside the memory: %d bytes at %d", size, address))
	}
	return bytes.Clone(data)
}

func (h *host) set32(address uint64, value uint32) {
	if !h.memory.WriteUint32Le(uint32(address), value) {
		panic(fmt.Errorf("a result is outside the memory: %d", address))
	}
}

// give writes data that the module receives, in memory that it allocates.
func (h *host) give(data []byte, pointer, size uint64) uint32 {
	var at uint32
	if len(data) > 0 {
		before := h.allowed
		h.allowed = duringAllocation
		at = h.call(0, "proxy_on_memory_allocate", uint64(len(data)))
		h.allowed = before
		if h.err != nil {
			panic(h.err)
		}
		if at == 0 || !h.memory.Write(at, data) {
			panic(errors.New("the module allocates no memory"))
		}
	}
	h.set32(pointer, at)
	h.set32(size, uint32(len(data)))
	return statusOK
}

// pairs decodes a list of headers, encode encodes one.
func pairs(data []byte) (list [][2]string) {
	if len(data) == 0 {
		return nil
	}
	n := binary.LittleEndian.Uint32(data)
	sizes, text := data[4:4+8*n], data[4+8*n:]
	for ; n > 0; n-- {
		name, value := binary.LittleEndian.Uint32(sizes), binary.LittleEndian.Uint32(sizes[4:])
		list = append(list, [2]string{string(text[:name]), string(text[name+1 : name+1+value])})
		sizes, text = sizes[8:], text[name+value+2:]
	}
	return list
}

func encode(list [][2]string) []byte {
	data := binary.LittleEndian.AppendUint32(nil, uint32(len(list)))
	for _, pair := range list {
		data = binary.LittleEndian.AppendUint32(data, uint32(len(pair[0])))
		data = binary.LittleEndian.AppendUint32(data, uint32(len(pair[1])))
	}
	for _, pair := range list {
		data = append(append(append(append(data, pair[0]...), 0), pair[1]...), 0)
	}
	return data
}
