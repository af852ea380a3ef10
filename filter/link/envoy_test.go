package main

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

// envoy runs a module as Envoy does. Its host records every call of the module.
type envoy struct {
	t      *testing.T
	ctx    context.Context
	module api.Module
	calls  []string          // "name argument argument…", in order; for proxy_log, the message
	answer map[string]uint32 // the results of host functions; 0 if missing
	// during is called in a host function.
	during map[string]func()
}

// load compiles a module, which validates it, and instantiates it after the modules
// that it imports from, by name.
func load(t *testing.T, binary []byte, others map[string][]byte) *envoy {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	runtime := wazero.NewRuntime(ctx)
	t.Cleanup(func() {
		if err := runtime.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	e := &envoy{t: t, ctx: ctx, answer: map[string]uint32{}, during: map[string]func(){}}
	compiled, err := runtime.CompileModule(ctx, binary)
	if err != nil {
		t.Fatal("the module is not valid:", err)
	}
	wasi_snapshot_preview1.MustInstantiate(ctx, runtime)
	for name, other := range others {
		if _, err := runtime.InstantiateWithConfig(ctx, other, wazero.NewModuleConfig().WithName(name)); err != nil {
			t.Fatal(err)
		}
	}
	host := runtime.NewHostModuleBuilder("env")
	for _, f := range compiled.ImportedFunctions() {
		if module, name, _ := f.Import(); module == "env" {
			host.NewFunctionBuilder().WithGoModuleFunction(e.hostFunction(name, len(f.ParamTypes()), len(f.ResultTypes())), f.ParamTypes(), f.ResultTypes()).Export(name)
		}
	}
	if _, err := host.Instantiate(ctx); err != nil {
		t.Fatal(err)
	}
	// The clock and random numbers are the only functions of WASI in Envoy.
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions().WithSysWalltime().WithSysNanotime()
	if e.module, err = runtime.InstantiateModule(ctx, compiled, config); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *envoy) hostFunction(name string, params, results int) api.GoModuleFunc {
	return func(_ context.Context, caller api.Module, stack []uint64) {
		if name == "proxy_log" {
			text, ok := caller.Memory().Read(uint32(stack[1]), uint32(stack[2]))
			if !ok {
				e.t.Error("a log message is outside the memory")
			}
			e.calls = append(e.calls, string(text))
		} else {
			call := name
			for _, argument := range stack[:params] {
				call += fmt.Sprint(" ", argument)
			}
			e.calls = append(e.calls, call)
		}
		if during := e.during[name]; during != nil {
			during()
		}
		if results > 0 {
			stack[0] = uint64(e.answer[name])
		}
	}
}

// call calls a callback, checks the calls that the module makes, and returns the result,
// or 0 if the callback has none.
func (e *envoy) call(callback string, arguments []uint32, wantCalls ...string) uint32 {
	e.t.Helper()
	f := e.module.ExportedFunction(callback)
	if f == nil {
		e.t.Fatalf("%s is not exported", callback)
	}
	var stack []uint64
	for _, a := range arguments {
		stack = append(stack, uint64(a))
	}
	e.calls = nil
	results, err := f.Call(e.ctx, stack...)
	if err != nil {
		e.t.Fatalf("%s%v trapped: %v", callback, arguments, err)
	}
	if diff := cmp.Diff(wantCalls, e.calls); diff != "" {
		e.t.Errorf("%s%v made unexpected calls (-want +got):\n%s", callback, arguments, diff)
	}
	if len(results) == 0 {
		return 0
	}
	return uint32(results[0])
}

// is returns a list of arguments.
func is(arguments ...uint32) []uint32 { return arguments }

// exported returns the names of the module's exports, sorted.
func (e *envoy) exported() []string {
	var names []string
	for name := range e.module.ExportedFunctionDefinitions() {
		names = append(names, name)
	}
	for name := range e.module.ExportedMemoryDefinitions() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// tiny assembles a module with every function that has a signature in interfaceExports.
// Each only calls the host function of the same name, so that the host records the call.
// change can modify the module before the functions are added.
func tiny(change ...func(*module)) *module {
	m := &module{}
	for _, c := range change {
		c(m)
	}
	var functions []interfaceExport
	for _, e := range interfaceExports {
		if e.signature != nil {
			functions = append(functions, e)
		}
	}
	for _, name := range []string{"proxy_abi_version_0_2_0", "main", "__main_void", "proxy_on_log"} {
		functions = append(functions, interfaceExport{name: name, signature: signature(0, 0)})
	}
	imported := map[string]uint32{}
	for _, f := range functions {
		imported[f.name] = uint32(len(m.functions))
		m.importFunction("env", f.name, *f.signature)
	}
	for _, f := range functions {
		var body code
		body.arguments(len(f.signature.params))
		body.op(opCall, imported[f.name])
		m.exports = append(m.exports, export{name: f.name, kind: kindFunction, index: m.addFunction(*f.signature, body)})
	}
	return m
}

func (m *module) importItem(from, name string, description []byte) {
	item := appendSized(appendSized(nil, []byte(from)), []byte(name))
	m.push(sectionImport, append(item, description...))
}

// mustRewrite returns the rewritten module.
func mustRewrite(t *testing.T, original []byte) []byte {
	t.Helper()
	rewritten, err := rewrite(original)
	if err != nil {
		t.Fatal(err)
	}
	return rewritten
}

// start returns the rewritten tiny module with a state and one plugin context, 1.
func start(t *testing.T, state uint32) *envoy {
	t.Helper()
	e := load(t, mustRewrite(t, tiny().encode()), nil)
	e.answer[exportState] = state
	e.call("proxy_on_context_create", is(1, 0), "proxy_on_context_create 1 0")
	e.call("proxy_on_configure", is(1, 0), "proxy_on_configure 1 0", "hfi_state")
	return e
}
