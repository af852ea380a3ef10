package program

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/boifi/hfi/schema"
)

// TestNewerPolicyIsSkipped checks that a policy with a feature that the reader lacks is
// reported and never applies, whatever follows in it, and that the others do.
func TestNewerPolicyIsSkipped(t *testing.T) {
	policies := []*schema.Policy{rules(t, "a", `{"fault": {"delay_ms": 1}}`), rules(t, "b", `{"fault": {"delay_ms": 2}}`)}
	encoded := encode(t, policies...)
	// The features of "b" are the byte after the selector.
	at := bytes.Index(encoded, []byte("\x01b\x01*\x01*\x00\x00"))
	if at < 0 {
		t.Fatalf("the encoding is %q", encoded)
	}
	encoded[at+7] = 64
	for i := at + 9; i < len(encoded); i++ {
		encoded[i] = 0xff
	}
	program, err := Read(encoded, frontend)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(program.Unsupported, []string{"b"}) || program.InForce() != 1 || program.Rules[0].Delay == 0 || program.Rules[1].Share != 0 {
		t.Errorf("the program is %+v", program)
	}
}

// TestUnknownSectionIsSkipped checks that an older filter reads a newer daemon's program.
func TestUnknownSectionIsSkipped(t *testing.T) {
	encoded := encode(t, everything(t)...)
	for _, newer := range [][]byte{append(slices.Clone(encoded), 9, 3, 'n', 'e', 'w'), slices.Concat(encoded[:4], []byte{200, 1, 'x'}, encoded[4:])} {
		if _, err := Read(newer, frontend); err != nil {
			t.Error(err)
		}
	}
}

// TestReadRefuses checks the errors for programs that are not valid.
func TestReadRefuses(t *testing.T) {
	encoded := encode(t, everything(t)...)
	newer := slices.Clone(encoded)
	newer[3] = 2
	twice := slices.Concat(encoded, encoded[4:])
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"empty":                   {nil, "not a compiled program"},
		"JSON":                    {[]byte(`{"policies": []}`), "not a compiled program"},
		"newer":                   {newer, "version 2"},
		"no sections":             {encoded[:4], "no policies"},
		"too large":               {make([]byte, MaxSize+1), "may have"},
		"sections twice":          {twice, "invalid"},
		"trailing bytes":          {append(slices.Clone(encoded), 9), "invalid"},
		"a header without a name": {named(t, ""), "section 2 of the program is invalid"},
	} {
		if _, err := Read(test.data, frontend); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: the error is %v, want %q", name, err, test.want)
		}
	}
	for n := range len(encoded) {
		if _, err := Read(encoded[:n], frontend); err == nil && n > 0 {
			// Without its last sections, the index and the outbound part, a program is valid.
			if program, _ := Read(encoded[:n], frontend); program.Outbound != nil {
				t.Errorf("the first %d of %d bytes are a valid program", n, len(encoded))
			}
		}
	}
}

// named returns a program with a rule that compares a header with this name.
func named(t *testing.T, name string) []byte {
	t.Helper()
	encoded := encode(t, rules(t, "a", `{"match": {"headers": [{"name": "x-header-name", "present": true}]}, "fault": {"delay_ms": 1}}`))
	at := bytes.Index(encoded, []byte("x-header-name"))
	if at < 3 || encoded[at-4] != sectionHeaders {
		t.Fatalf("the encoding is %q", encoded)
	}
	section := appendBytes([]byte{1}, []byte(name)) // the number of names
	rest := encoded[at+len("x-header-name"):]
	return slices.Concat(encoded[:at-3], appendBytes(nil, section), rest)
}

// TestUnknownPseudoHeaders checks that an older filter reads the names of a newer daemon, which only
// policies with a feature that it lacks compare.
func TestUnknownPseudoHeaders(t *testing.T) {
	program, err := Read(named(t, ":to-port"), frontend)
	if err != nil || !slices.Equal(program.Headers, []string{":to-port"}) {
		t.Errorf("the program is %+v, error %v", program, err)
	}
}

// TestReadIsBounded checks that no short program makes the reader allocate much.
func TestReadIsBounded(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}
	for kind := byte(1); kind <= 5; kind++ {
		text := append([]byte("hfi\x01"), kind, byte(len(huge)))
		if _, err := Read(append(text, huge...), frontend); err == nil {
			t.Errorf("section %d with a huge count is valid", kind)
		}
	}
	// A program of as many bytes and as few for each item as possible.
	section := appendNumber(nil, MaxSize-200)
	section = append(section, make([]byte, MaxSize-100-len(section))...)
	text := appendBytes(append([]byte("hfi\x01"), sectionHeaders), section)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Read(text, frontend); err == nil {
		t.Error("a program with millions of items is valid")
	}
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 3*MaxSize {
		t.Errorf("reading it allocates %d bytes", allocated)
	}
}

// TestDamagedProgramIsReadOrRefused flips bytes: the reader never panics, and what it
// accepts can be used.
func TestDamagedProgramIsReadOrRefused(t *testing.T) {
	encoded := encode(t, everything(t)...)
	random := rand.New(rand.NewPCG(1, 2))
	accepted := 0
	for range 20_000 {
		damaged := slices.Clone(encoded)
		for range 1 + random.IntN(3) {
			damaged[random.IntN(len(damaged))] = byte(random.Uint32())
		}
		if program, err := Read(damaged, frontend); err == nil {
			accepted++
			use(program)
		}
	}
	if accepted == 0 {
		t.Error("no damaged program was accepted: the test does not use any")
	}
}

// use reads all that a decision could.
func use(program *Program) {
	if program.Outbound != nil {
		use(program.Outbound)
	}
	for i := range program.Rules {
		rule := &program.Rules[i]
		_ = program.Policies[rule.Policy]
		rule.Path.Holds("/item/42")
		for j := range rule.Headers {
			_ = program.Headers[rule.Headers[j].Slot]
			rule.Headers[j].Text.Holds("a")
		}
	}
	if x := program.Index; x != nil {
		for at := LastUpTo(x.Prefixes, "/p/xxxx"); at >= 0; at = int(x.Parents[at]) {
			for _, rule := range x.Prefixes[at].Rules {
				_ = program.Rules[rule]
			}
		}
		for _, rule := range Find(x.Exact, "/e/1") {
			_ = program.Rules[rule]
		}
	}
}

// FuzzRead checks that no bytes make the reader panic, and that it accepts only
// programs that can be used.
func FuzzRead(f *testing.F) {
	f.Add(encode(f, everything(f)...))
	f.Add(encode(f))
	f.Add(encode(f, rules(f, "a", `{"match": {"path": {"regex": ".*a.*"}}, "fault": {"delay_ms": 1}}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if program, err := Read(data, frontend); err == nil {
			use(program)
		}
	})
}
