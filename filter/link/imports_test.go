package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tetratelabs/wazero"
)

// oldest has the functions of WASI that Envoy 1.32 has and allows at every time at
// which Go calls them.
var oldest = []string{
	"args_get", "args_sizes_get", "clock_time_get", "environ_get", "environ_sizes_get", "fd_write", "proc_exit", "random_get",
}

// importsOf returns the names of the functions that a module imports from WASI, sorted.
func importsOf(t *testing.T, binary []byte) (names []string) {
	t.Helper()
	runtime := wazero.NewRuntime(t.Context())
	defer runtime.Close(t.Context())
	compiled, err := runtime.CompileModule(t.Context(), binary)
	if err != nil {
		t.Fatal("the module is not valid:", err)
	}
	for _, f := range compiled.ImportedFunctions() {
		if from, name, _ := f.Import(); from == wasi {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// TestReplacements calls each function that replaces an import, directly and by the
// table, beside functions that are still imported.
func TestReplacements(t *testing.T) {
	const (
		opCallIndirect = 0x11
		nevents        = 16 // an address
		unchanged      = 99
	)
	functions := []struct {
		from, name string
		signature  *funcType
		arguments  []uint32
		want       uint32
		wantEvents uint32
		wantCalls  []string
	}{
		{"env", "first", signature(1, 1), is(5), 1000, unchanged, []string{"first 5"}},
		{wasi, "fd_close", signature(1, 1), is(3), wasiBADF, unchanged, nil},
		{wasi, "poll_oneoff", signature(4, 1), is(0, 0, 1, nevents), wasiSuccess, 0, nil},
		{"env", "poll_oneoff", signature(4, 1), is(1, 2, 3, 4), 1001, unchanged, []string{"poll_oneoff 1 2 3 4"}},
		{wasi, "sched_yield", signature(0, 1), nil, wasiSuccess, unchanged, nil},
		{wasi, "fd_fdstat_get", signature(2, 1), is(1, 0), wasiBADF, unchanged, nil},
		{wasi, "random_get", signature(2, 1), is(32, 4), wasiSuccess, unchanged, nil},
		{wasi, "fd_fdstat_set_flags", signature(2, 1), is(1, 0), wasiNOSYS, unchanged, nil},
		{wasi, "fd_prestat_get", signature(2, 1), is(3, 0), wasiBADF, unchanged, nil},
		{wasi, "fd_prestat_dir_name", signature(3, 1), is(3, 0, 0), wasiBADF, unchanged, nil},
	}
	m := &module{}
	*m.need(5) = []byte{1, 0, 1} // a memory of one page
	m.exports = []export{{"memory", kindMemory, 0}}
	for _, f := range functions {
		m.importFunction(f.from, f.name, *f.signature)
	}
	*m.need(sectionTable) = []byte{1, 0x70, 0, byte(len(functions))}
	elements := []byte{1, 0, opI32Const, 0, opEnd, byte(len(functions))}
	for i, f := range functions {
		var direct, indirect code
		direct.arguments(len(f.arguments))
		direct.op(opCall, uint32(i))
		indirect.arguments(len(f.arguments))
		indirect.op(opI32Const, uint32(i))
		indirect.op(opCallIndirect, m.typeIndex(*f.signature), 0)
		m.exports = append(m.exports, export{f.from + " " + f.name, kindFunction, m.addFunction(*f.signature, direct)},
			export{f.from + " " + f.name + " by the table", kindFunction, m.addFunction(*f.signature, indirect)})
		elements = append(elements, byte(i))
	}
	*m.need(sectionElement) = elements
	var begin code
	begin.op(opI32Const, 7)
	begin.op(opCall, 0)
	begin.op(opDrop)
	*m.need(sectionStart) = appendU32(nil, m.addFunction(*signature(0, 0), begin))

	parsed, err := parse(m.encode())
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.replaceImports(); err != nil {
		t.Fatal(err)
	}
	binary := parsed.encode()
	if diff := cmp.Diff([]string{"random_get"}, importsOf(t, binary)); diff != "" {
		t.Errorf("the imports of WASI differ (-want +got):\n%s", diff)
	}
	e := load(t, binary, nil)
	if diff := cmp.Diff([]string{"first 7"}, e.calls); diff != "" {
		t.Errorf("the start function made unexpected calls (-want +got):\n%s", diff)
	}
	e.answer["first"], e.answer["poll_oneoff"] = 1000, 1001
	memory := e.module.Memory()
	for _, f := range functions {
		for _, name := range []string{f.from + " " + f.name, f.from + " " + f.name + " by the table"} {
			memory.WriteUint32Le(nevents, unchanged)
			if got := e.call(name, f.arguments, f.wantCalls...); got != f.want {
				t.Errorf("%s returned %d, want %d", name, got, f.want)
			}
			if events, _ := memory.ReadUint32Le(nevents); events != f.wantEvents {
				t.Errorf("%s wrote %d events, want %d", name, events, f.wantEvents)
			}
		}
	}
}

// importFunction adds an imported function.
func (m *module) importFunction(from, name string, s funcType) {
	m.importItem(from, name, append([]byte{kindFunction}, appendU32(nil, m.typeIndex(s))...))
	m.functions = append(m.functions, m.typeIndex(s))
}

// TestRenumbering checks sections with an index of a function in each form.
func TestRenumbering(t *testing.T) {
	// The first function becomes 200, the second 0 and the third 1.
	index := []uint32{200, 0, 1}
	for _, c := range []struct {
		name     string
		copy     func(*copier)
		in, want string
	}{
		{"an active segment", (*copier).elements, "\x00\x41\x05\x0b\x02\x00\x02", "\x00\x41\x05\x0b\x02\xc8\x01\x01"},
		{"a passive segment", (*copier).elements, "\x01\x00\x01\x01", "\x01\x00\x01\x00"},
		{"an active segment of another table", (*copier).elements, "\x02\x01\x23\x00\x0b\x00\x01\x02", "\x02\x01\x23\x00\x0b\x00\x01\x01"},
		{"a declaration", (*copier).elements, "\x03\x00\x01\x02", "\x03\x00\x01\x01"},
		{"an active segment of expressions", (*copier).elements, "\x04\x41\x00\x0b\x02\xd2\x00\x0b\xd0\x70\x0b", "\x04\x41\x00\x0b\x02\xd2\xc8\x01\x0b\xd0\x70\x0b"},
		{"a passive segment of expressions", (*copier).elements, "\x05\x70\x01\xd2\x02\x0b", "\x05\x70\x01\xd2\x01\x0b"},
		{"an active segment of expressions for another table", (*copier).elements, "\x06\x01\x41\x00\x0b\x70\x01\xd2\x02\x0b", "\x06\x01\x41\x00\x0b\x70\x01\xd2\x01\x0b"},
		{"a declaration of expressions", (*copier).elements, "\x07\x70\x01\xd2\x02\x0b", "\x07\x70\x01\xd2\x01\x0b"},
		{"a global", (*copier).global, "\x70\x00\xd2\x00\x0b", "\x70\x00\xd2\xc8\x01\x0b"},
		{"a padded index", (*copier).function, "\x82\x80\x00", "\x01"},
		{"a body of a new size", (*copier).body, "\x07\x01\x02\x7f\x10\x00\x0b\x0b", "\x08\x01\x02\x7f\x10\xc8\x01\x0b\x0b"},
		{"numbers that look like calls", (*copier).body,
			"\x2f\x00\x41\x90\x10\x42\x90\x10\x43\x10\x00\x10\x00\x44\x10\x00\x10\x00\x10\x00\x10\x00\x28\x02\x10\x0e\x02\x10\x10\x10\x1c\x01\x7f\x11\x10\x00\xfc\x08\x10\x00\xfc\x02\x02\x40\x0b\x12\x02\x0b",
			"\x2f\x00\x41\x90\x10\x42\x90\x10\x43\x10\x00\x10\x00\x44\x10\x00\x10\x00\x10\x00\x10\x00\x28\x02\x10\x0e\x02\x10\x10\x10\x1c\x01\x7f\x11\x10\x00\xfc\x08\x10\x00\xfc\x02\x02\x40\x0b\x12\x01\x0b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			copier := newCopier([]byte(c.in), index)
			c.copy(copier)
			if copier.err != nil {
				t.Fatal(copier.err)
			}
			if len(copier.rest) > 0 {
				t.Errorf("%q was not read", copier.rest)
			}
			if got := copier.finish(); !bytes.Equal(got, []byte(c.want)) {
				t.Errorf("%q became %q, want %q", c.in, got, c.want)
			}
		})
	}
}

func TestModulesThatCannotBeRenumbered(t *testing.T) {
	with := func(id byte, body string) func(*module) {
		return func(m *module) { *m.need(id) = []byte(body) }
	}
	body := func(instructions string) func(*module) {
		return func(m *module) { m.addFunction(*signature(0, 0), code{bytes: []byte(instructions)}) }
	}
	for _, c := range []struct {
		change func(*module)
		want   string
	}{
		{body("\x06"), "reading the code section: unknown instruction 0x6"},
		{body("\xfd\x00"), "reading the code section: unknown instruction 0xfd"},
		{body("\xfc\x12"), "reading the code section: unknown instruction 0xfc 18"},
		{body("\x10\xff\x01"), "reading the code section: function 255 is used, but there are "},
		{body("\x44\x00"), "reading the code section: unexpected end"},
		{body("\x28\x42\x01\x00"), "reading the code section: a second memory is not supported"},
		{body("\x02\x64\x00"), "reading the code section: references to types are not supported"},
		{with(sectionElement, "\x01\x08"), "reading the element section: unknown kind 8 of an element segment"},
		{with(sectionElement, "\x01\x01\x00\xff\xff\xff\xff\x0f"), "reading the element section: unexpected end"},
		{with(sectionStart, "\x7f"), "reading the start section: function 127 is used, but there are "},
		{with(sectionTable, "\x01\x40\x00"), "reading the table section: tables with an initial value are not supported"},
	} {
		m := tiny(func(m *module) {
			m.importFunction(wasi, "sched_yield", *signature(0, 1))
		})
		c.change(m)
		if _, err := rewrite(m.encode()); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("the error is %v, want %q", err, c.want)
		}
	}

	wrong := tiny(func(m *module) {
		m.importFunction(wasi, "sched_yield", *signature(1, 1))
	})
	refuses(t, wrong, "the import sched_yield is a function (i32) -> (i32), want () -> (i32)")
}

// TestNamesAreRemoved checks that no section with the old indices of functions remains.
func TestNamesAreRemoved(t *testing.T) {
	m := tiny(func(m *module) {
		m.importFunction(wasi, "sched_yield", *signature(0, 1))
	})
	m.sections = append(m.sections, section{sectionCustom, []byte("\x04name\x01\x05\x01\x00\x02xx")}, section{sectionCustom, []byte("\x04note.")})
	rewritten := mustRewrite(t, m.encode())
	if bytes.Contains(rewritten, []byte("\x04name")) || !bytes.HasSuffix(rewritten, []byte("\x04note.")) {
		t.Error("the section with names remains, or another one does not")
	}
	load(t, rewritten, nil)
}
