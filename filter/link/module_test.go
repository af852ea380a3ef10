package main

import (
	"bytes"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

func TestWhatIsNoModuleIsRefusedWithAReason(t *testing.T) {
	long := strings.Repeat("\x80", 9)
	for _, c := range []struct{ name, body, want string }{
		{"the type section", "\x01\x00", "reading the type section: it ends too early"},
		{"a section of more than there is", "\x01\x7f\x00", "reading the module: it ends too early"},
		{"a number of six bytes", "\x01" + long, "reading the module: a number in it does not fit 32 bits"},
		{"a number of 33 bits", "\x01\xff\xff\xff\xff\x1f", "reading the module: a number in it does not fit 32 bits"},
		{"sections in disorder", "\x03\x01\x00\x01\x01\x00", "the module has an unknown or misplaced section, of id 1"},
		{"a section twice", "\x01\x01\x00\x01\x01\x00", "the module has an unknown or misplaced section, of id 1"},
		{"an unknown section", "\x0e\x01\x00", "the module has an unknown or misplaced section, of id 14"},
		{"a list that goes on", "\x01\x05\x01\x60\x00\x00\x00", "reading the type section: it goes on after its last item"},
		{"a type of no function", "\x01\x03\x01\x5f\x00", "reading the type section: it has a type of form 0x5f, which is no function's"},
		{"a type of two bytes", "\x01\x06\x01\x60\x02\x64\x00\x00", "reading the type section: it has a reference to a type of the module, which this command does not read"},
		{"an import of something else", "\x02\x04\x01\x00\x00\x05", "reading the import section: it has an import of unknown kind 5"},
		{"a function of no type", "\x03\x02\x01\x00", "reading the function section: it has a function of type 0, and there are 0 types"},
		{"an export of no function", "\x07\x05\x01\x01f\x00\x00", `reading the export section: its export "f" is of function 0, and there are 0 functions`},
		{"an export of something else", "\x07\x05\x01\x01f\x05\x00", `reading the export section: its export "f" is of unknown kind 5`},
		{"more globals than bytes", "\x06\x05\xff\xff\xff\xff\x0f", "reading the global section: it ends too early"},
		{"a function without a body", "\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00", "the module declares 1 functions and has bodies for 0"},
	} {
		if _, err := parse([]byte(string(header) + c.body)); err == nil || err.Error() != c.want {
			t.Errorf("%s: the error is %q, want %q", c.name, err, c.want)
		}
	}
	for _, text := range []string{"", "\x00asm", "\x00asm\x02\x00\x00\x00", "#!/bin/sh\n"} {
		if _, err := rewrite([]byte(text)); err == nil || err.Error() != "this is not a Wasm module of version 1" {
			t.Errorf("%q: the error is %q", text, err)
		}
	}
}

func TestEveryBeginningOfAModuleIsRefused(t *testing.T) {
	whole := tiny().encode()
	mustRewrite(t, whole)
	for n := range whole {
		if _, err := rewrite(whole[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes pass for a module", n, len(whole))
		}
	}
}

// Compilers leave room in numbers that they fill in later.
func TestNumbersMayTakeMoreBytesThanTheyNeed(t *testing.T) {
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
		t.Error("the same module came out in two ways")
	}
}

// What a module says about its size must not have memory taken for it.
func TestAFewBytesCannotAskForMuchMemory(t *testing.T) {
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
			t.Errorf("section %q: a module of %d bytes took %d bytes of memory", id, len(data), took)
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
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parse(data)
		if err != nil {
			if _, again := rewrite(data); again == nil || again.Error() != err.Error() {
				t.Fatalf("reading fails with %v, rewriting with %v", err, again)
			}
			return
		}
		encoded := m.encode()
		again, err := parse(encoded)
		if err != nil {
			t.Fatal("what was written cannot be read:", err)
		}
		if !reflect.DeepEqual(m, again) {
			t.Fatal("what was written reads differently")
		}
		if rewritten, err := rewrite(data); err == nil {
			if _, err := parse(rewritten); err != nil {
				t.Fatal("what was rewritten cannot be read:", err)
			}
		}
	})
}
