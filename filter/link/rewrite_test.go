package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOnlyWhatTheFilterNeedsIsExported(t *testing.T) {
	original := tiny(func(m *module) {
		*m.need(5) = []byte{1, 0, 1} // one memory of one page or more
		m.exports = append(m.exports, export{name: "memory", kind: 2})
	})
	names := func(binary []byte) []string { return load(t, binary, nil).exported() }

	var want []string
	for _, name := range names(original.encode()) {
		if !strings.HasPrefix(name, "hfi_") && name != "proxy_on_log" && name != "proxy_on_done" {
			want = append(want, name)
		}
	}
	if diff := cmp.Diff(want, names(mustRewrite(t, original.encode()))); diff != "" {
		t.Errorf("the exports differ (-want +got):\n%s", diff)
	}
	for _, name := range []string{"memory", "proxy_abi_version_0_2_0", "malloc", "_start", "main", "__main_void"} {
		if !slices.Contains(want, name) {
			t.Errorf("the test's module does not export %s", name)
		}
	}
}

func TestMissingAndWrongExports(t *testing.T) {
	for _, want := range interfaceExports {
		if !want.need {
			continue
		}
		t.Run(want.name, func(t *testing.T) {
			without := tiny()
			without.exports = slices.DeleteFunc(without.exports, func(e export) bool { return e.name == want.name })
			refuses(t, without, "the module has no export "+want.name)

			wrong := tiny()
			i := slices.IndexFunc(wrong.exports, func(e export) bool { return e.name == want.name })
			wrong.exports[i].index = wrong.addFunction(funcType{params: i32 + "\x7e"}, code{})
			refuses(t, wrong, "the export "+want.name+" is a function (i32, i64) -> (), want "+want.signature.String())

			wrong.exports[i] = export{name: want.name, kind: 3, index: wrong.addGlobal()}
			refuses(t, wrong, "the export "+want.name+" is a global, want a function")
		})
	}
	none := tiny()
	none.exports = slices.DeleteFunc(none.exports, func(e export) bool { return strings.HasPrefix(e.name, "proxy_abi") })
	refuses(t, none, "the module has no export proxy_abi_version_0_2_0 or proxy_abi_version_0_2_1")
}

func refuses(t *testing.T, m *module, want string) {
	t.Helper()
	rewritten, err := rewrite(m.encode())
	if err == nil || err.Error() != want {
		t.Errorf("the error is %q, want %q", err, want)
	}
	if rewritten != nil {
		t.Error("there is an error as well as a module")
	}
}

func TestRewritingTwiceFails(t *testing.T) {
	once := mustRewrite(t, tiny().encode())
	if _, err := rewrite(once); err == nil || !strings.Contains(err.Error(), "no export proxy_on_done") {
		t.Errorf("the error is %v", err)
	}
}

func TestRewritingIsDeterministic(t *testing.T) {
	original := tiny().encode()
	first := mustRewrite(t, original)
	for range 20 {
		if !bytes.Equal(first, mustRewrite(t, original)) {
			t.Fatal("equal modules were rewritten differently")
		}
	}
}

// TestImportsOfEveryKind checks that imports, which come first in every index, are counted.
func TestImportsOfEveryKind(t *testing.T) {
	other := &module{}
	*other.need(4) = []byte{1, 0x70, 1, 2, 3} // a table of two to three functions
	*other.need(5) = []byte{1, 1, 1, 0x80, 1} // a memory of one to 128 pages
	// Two constants of type i64: a wrapper that used one of them would be invalid.
	*other.need(sectionGlobal) = []byte{2, 0x7e, 0, 0x42, 0, opEnd, 0x7e, 0, 0x42, 0, opEnd}
	other.exports = []export{{"a table", 1, 0}, {"a memory", 2, 0}, {"a global", 3, 0}, {"another", 3, 1}}

	original := tiny(func(m *module) {
		m.importItem("other", "a table", []byte{1, 0x70, 1, 2, 3})
		m.importItem("other", "a memory", []byte{2, 1, 1, 0x80, 1})
		m.importItem("other", "a global", []byte{3, 0x7e, 0})
		m.importItem("other", "another", []byte{3, 0x7e, 0})
		m.globals = 2
		m.addGlobal()
	})
	e := load(t, mustRewrite(t, original.encode()), map[string][]byte{"other": other.encode()})
	e.answer[exportState] = stateRules
	e.call("proxy_on_request_headers", is(2, 9, 1))
	e.call("proxy_on_tick", is(1), "proxy_on_tick 1", "hfi_state")
	e.call("proxy_on_request_headers", is(2, 9, 1), "hfi_on_request_headers 2 9 1")
}

// TestModuleWithoutFunctionsAndGlobals rewrites a module that only exports its imports.
func TestModuleWithoutFunctionsAndGlobals(t *testing.T) {
	m := &module{}
	m.sections = []section{{sectionCustom, []byte("\x04note")}}
	for _, f := range append(slices.Clone(interfaceExports), interfaceExport{name: "proxy_abi_version_0_2_1", signature: signature(0, 0)}) {
		if f.signature == nil {
			continue
		}
		m.exports = append(m.exports, export{name: f.name, index: uint32(len(m.functions))})
		m.importFunction("env", f.name, *f.signature)
	}
	e := load(t, mustRewrite(t, m.encode()), nil)
	e.answer[exportState] = stateRules
	e.call("proxy_on_tick", is(1), "proxy_on_tick 1", "hfi_state")
	e.call("proxy_on_request_headers", is(2, 9, 1), "hfi_on_request_headers 2 9 1")
}

func TestOtherSectionsAreCopied(t *testing.T) {
	original := tiny(func(m *module) {
		*m.need(5) = []byte{1, 0, 1}
		*m.need(11) = []byte("\x01\x00\x41\x08\x0b\x05hello") // at address 8
		m.exports = append(m.exports, export{name: "memory", kind: 2})
	})
	original.sections = append(original.sections, section{sectionCustom, []byte("\x04note of the author")})
	rewritten := mustRewrite(t, original.encode())
	if !bytes.HasSuffix(rewritten, []byte("\x00\x13\x04note of the author")) {
		t.Error("the custom section has moved")
	}
	if text, _ := load(t, rewritten, nil).module.Memory().Read(8, 5); string(text) != "hello" {
		t.Errorf("the memory starts with %q", text)
	}
}
