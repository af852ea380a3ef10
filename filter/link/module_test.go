package main

import (
	"bytes"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

func TestInvalidModules(t *testing.T) {
	long := strings.Repeat("\x80", 9)
	for _, c := range []struct{ name, body, want string }{
		{"the type section", "\x01\x00", "reading the type section: unexpected end"},
		{"a section longer than the module", "\x01\x7f\x00", "reading the module: unexpected end"},
		{"a number of six bytes", "\x01" + long, "reading the module: a number does not fit into 32 bits"},
		{"a number of 33 bits", "\x01\xff\xff\xff\xff\x1f", "reading the module: a number does not fit into 32 bits"},
		{"sections in the wrong order", "\x03\x01\x00\x01\x01\x00", "unknown or misplaced section with id 1"},
		{"a duplicate section", "\x01\x01\x00\x01\x01\x00", "unknown or misplaced section with id 1"},
		{"an unknown section", "\x0e\x01\x00", "unknown or misplaced section with id 14"},
		{"data after the last item", "\x01\x05\x01\x60\x00\x00\x00", "reading the type section: unexpected data after the last item"},
		{"a type that is not a function", "\x01\x03\x01\x5f\x00", "reading the type section: unsupported form 0x5f of a type: not a function"},
		{"a type of two bytes", "\x01\x06\x01\x60\x02\x64\x00\x00", "reading the type section: references to types are not supported"},
		{"an import of unknown kind", "\x02\x04\x01\x00\x00\x05", "reading the import section: unknown kind 5 of an import"},
		{"a function of an unknown type", "\x03\x02\x01\x00", "reading the function section: a function has type 0, but there are 0 types"},
		{"an export of an unknown function", "\x07\x05\x01\x01f\x00\x00", `reading the export section: export "f" is function 0, but there are 0 functions`},
		{"an export of unknown kind", "\x07\x05\x01\x01f\x05\x00", `reading the export section: export "f" has unknown kind 5`},
		{"more globals than bytes", "\x06\x05\xff\xff\xff\xff\x0f", "reading the global section: unexpected end"},
		{"a function without a body", "\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00", "the module declares 1 functions and has 0 bodies"},
	} {
		if _, err := parse([]byte(string(header) + c.body)); err == nil || err.Error() != c.want {
			t.Errorf("%s: the error is %q, want %q", c.name, err, c.want)
		}
	}
	for _, text := range []string{"", "\x00asm", "\x00asm\x02\x00\x00\x00", "#!/bin/sh\n"} {
		if _, err := rewrite([]byte(text)); err == nil || err.Error() != "not a Wasm module of version 1" {
			t.Errorf("%q: the error is %q", text, err)
		}
	}
}

func TestTruncatedModules(t *testing.T) {
	whole := tiny().encode()
	mustRewrite(t, whole)
	for n := range whole {
		if _, err := rewrite(whole[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are accepted", n, len(whole))
		}
	}
}

// TestPaddedNumbers checks numbers that are encoded in more bytes than necessary, as
// compilers do for numbers that they set later.
func TestPaddedNumbers(t *testing.T) {
	whole := tiny().encode()
	m, err := parse(whole)
	if err != nil {
		t.Fatal(err)
	}
	padded := bytes.Clone(header)
	for _, s := range m.sections {
		n := len(s.body)
		padded = append(padded, s.id, byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)|0x80, byte(n>>21)|0x80, byte(n>>28))
		padded = append(padded, s.body...)
	}
	if !bytes.Equal(mustRewrite(t, padded), mustRewrite(t, whole)) {
		t.Error("equal modules were rewritten differently")
	}
}

// TestDeclaredSizesAllocateNothing checks that a size declared in a module does not
// determine how much memory is allocated.
func TestDeclaredSizesAllocateNothing(t *testing.T) {
	const huge = "\xff\xff\xff\xff\x0f"
	for _, id := range []string{"\x01", "\x02", "\x03", "\x06", "\x07", "\x0a"} {
		data := []byte(string(header) + id + "\x05" + huge)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := parse(data)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("section %q: a list of four billion items was read", id)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
			t.Errorf("section %q: a module of %d bytes allocated %d bytes of memory", id, len(data), took)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Add(tiny().encode())
	f.Add(tiny(func(m *module) {
		m.importItem("other", "a table", []byte{1, 0x70, 1, 2, 3})
		m.importItem("other", "a memory", []byte{2, 1, 1, 0x80, 1})
		m.importItem("other", "a global", []byte{3, 0x7f, 1})
		m.importItem("other", "a tag", []byte{4, 0, 0})
		m.globals = 1
	}).encode())
	f.Add(tiny(func(m *module) {
		m.importFunction(wasi, "poll_oneoff", *signature(4, 1))
		*m.need(sectionTable) = []byte{1, 0x70, 0, 1}
		*m.need(sectionElement) = []byte{1, 0, opI32Const, 0, opEnd, 1, 0}
	}).encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parse(data)
		if err != nil {
			if _, again := rewrite(data); again == nil || again.Error() != err.Error() {
				t.Fatalf("parsing fails with %v, rewriting with %v", err, again)
			}
			return
		}
		encoded := m.encode()
		again, err := parse(encoded)
		if err != nil {
			t.Fatal("the encoded module cannot be parsed:", err)
		}
		if !reflect.DeepEqual(m, again) {
			t.Fatal("the encoded module is parsed differently")
		}
		if rewritten, err := rewrite(data); err == nil {
			if _, err := parse(rewritten); err != nil {
				t.Fatal("the rewritten module cannot be parsed:", err)
			}
		}
	})
}
