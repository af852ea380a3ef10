package group

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func id(n int) string { return fmt.Sprintf("%016x", n) }

func example() Record {
	return Record{
		Leader: id(1), Confirmations: 7, ConfirmedAt: 1_700_000_000_123, Tag: `"v1:a"`, Revision: "1:2",
		Members: []Member{{ID: id(1), Queue: 9, Beat: 4, Tag: `"v1:a"`}, {ID: id(2), Beat: 1 << 31, Left: true}},
	}
}

func TestRecord(t *testing.T) {
	for name, want := range map[string]Record{"example": example(), "empty": {Members: []Member{}}} {
		got, err := Read(want.Encode())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	full := example()
	for i := range 2 * MaxMembers {
		if m := full.Join(id(i)); m != nil {
			m.Tag = strings.Repeat("x", MaxText)
		}
	}
	got, err := Read(full.Encode())
	if err != nil || len(got.Members) != MaxMembers || got.Join(id(9999)) != nil || got.Join(id(1)) == nil {
		t.Errorf("a full record has %d members: %v", len(got.Members), err)
	}
	got.Remove(func(m *Member) bool { return m.ID != id(1) })
	if len(got.Members) != 1 || got.Member(id(1)) == nil || got.Member(id(2)) != nil {
		t.Errorf("after Remove: %+v", got.Members)
	}
	long := Record{Tag: strings.Repeat("x", MaxText+1)}
	if got, err := Read(long.Encode()); err != nil || got.Tag != "" {
		t.Errorf("a text that is too long: %q, %v", got.Tag, err)
	}
}

func TestInvalidRecords(t *testing.T) {
	good := example()
	data := good.Encode()
	for n := range data {
		if _, err := Read(data[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are a record", n, len(data))
		}
	}
	twice, control, name := example(), example(), example()
	twice.Members[1].ID = id(1)
	control.Tag = "a\nb"
	name.Leader = "x"
	for what, data := range map[string][]byte{
		"a byte too many": append(good.Encode(), 0), "a member twice": twice.Encode(), "a control character": control.Encode(),
		"a leader that is no ID": name.Encode(), "very long": append([]byte(version), make([]byte, 1<<20)...),
	} {
		if _, err := Read(data); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func FuzzRead(f *testing.F) {
	one := example()
	f.Add(one.Encode())
	f.Add([]byte(version))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := Read(data); err == nil {
			again, err := Read(r.Encode())
			if err != nil || !reflect.DeepEqual(r, again) {
				t.Errorf("%+v and %+v, %v", r, again, err)
			}
		}
		if p, valid := ReadProgram(data); valid {
			again, valid := ReadProgram(p.Encode())
			if !valid || !reflect.DeepEqual(p, again) {
				t.Errorf("%+v and %+v", p, again)
			}
		}
	})
}

func TestProgram(t *testing.T) {
	for _, body := range []string{"", "x", strings.Repeat("y", 5000)} {
		want := Program{Tag: `"v1:a"`, Revision: "1:2", Commit: strings.Repeat("c", 40), Encoded: []byte(body)}
		data := want.Encode()
		if got, valid := ReadProgram(data); !valid || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v", got, valid)
		}
		if _, valid := ReadProgram(data[:20]); valid {
			t.Error("a truncated head is valid")
		}
	}
	for _, data := range []string{"", "hfp0\x00\x00\x00", "hfp1", "hfp1\x01\x01\x00\x00"} {
		if _, valid := ReadProgram([]byte(data)); valid {
			t.Errorf("%q is valid", data)
		}
	}
}

func TestShareable(t *testing.T) {
	for text, want := range map[string]bool{`"v1:a"`: true, "": true, "a\x00": false, "ü": false, strings.Repeat("x", MaxText): true, strings.Repeat("x", MaxText+1): false} {
		if Shareable(text) != want {
			t.Errorf("Shareable(%q) is %v", text, !want)
		}
	}
}

// TestWatch checks that a member is dead after some looks without a new beat, and lives again with one.
func TestWatch(t *testing.T) {
	r := example()
	r.Join(id(3))
	var w Watch
	beats := func(members ...int) {
		for _, n := range members {
			r.Member(id(n)).Beat++
		}
	}
	look := func(want bool) {
		t.Helper()
		if changed := w.Look(&r, id(1)); changed != want {
			t.Errorf("a look says changed: %v", changed)
		}
	}
	lives := func(n int, want bool) {
		t.Helper()
		if w.Lives(r.Member(id(n))) != want {
			t.Errorf("VM %d lives: %v", n, !want)
		}
	}
	look(true) // VM 3 is new; VM 2 has left before
	lives(2, false)
	lives(3, true)
	for range missesUntilDead - 1 {
		look(false)
		lives(3, true)
	}
	look(true)
	lives(3, false)
	if w.Beats(id(3)) {
		t.Error("the beat of VM 3 has changed")
	}
	lives(1, true) // itself
	if w.Misses(id(3)) != missesUntilDead || w.Misses(id(1)) != 0 || w.Misses(id(9)) != 0 {
		t.Errorf("misses: %d", w.Misses(id(3)))
	}
	beats(3)
	look(true)
	lives(3, true)
	if !w.Beats(id(3)) || w.Beats(id(2)) || w.Beats(id(9)) {
		t.Error("the beat of VM 3 has not changed, or that of another one has")
	}
	r.Member(id(3)).Left = true
	beats(3)
	look(true)
	lives(3, false)
	look(false)
	r.Remove(func(m *Member) bool { return m.ID == id(3) })
	look(false)
	if len(w.seen) != 1 {
		t.Errorf("it remembers %d members", len(w.seen))
	}
}
