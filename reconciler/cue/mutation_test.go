package cue

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/schema"
)

// seed returns HFI_SEED, or a random seed.
func seed(t testing.TB) uint64 {
	s := rand.Uint64()
	if text := os.Getenv("HFI_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("HFI_SEED: %v", err)
		}
	}
	t.Logf("to repeat this run: HFI_SEED=%d", s)
	return s
}

// words are the texts that mutations insert: parts of policies, and unusual ones.
var words = []string{
	"metadata", "name", "spec", "rules", "fault", "delay_ms", "percentage", "abort", "status", "grpc_status", "body", "headers", "match",
	"path", "exact", "prefix", "regex", "methods", "present", "selector", "service", "namespace", "gateway", "expires_at", "dry_run", "kind", "direction", "inbound", "outbound", "to", "host",
	"true", "false", "null", "~", "yes", "0", "-1", "1", "50", "100", "100.0001", "0.00001", "5.0", "1e2", "0x1F", "1_000", "3600001",
	`""`, `"x"`, `"status"`, `"GET"`, `"("`, `"2027-01-31T12:00:00Z"`, "2027-01-31", "*", "é", "\u2028", "\ufeff",
	"[", "]", "{", "}", ":", ",", "-", "#", "&a", "*a", "<<", "|", ">", "?", "!", "!!str", "---", "...", "\"", "'", "\n", "  ", "\t", "\\",
	"int", "string", "_", "if true {x: 1}", "for x in [1] {y: x}", "#D", "& 5", "| 6", "...", "import", "package",
}

// gentle are mutations that often keep a valid file valid.
var gentle = []func(r *rand.Rand, piece string) (string, bool){
	func(r *rand.Rand, piece string) (string, bool) { // another number
		numbers := []string{"0", "1", "7", "99", "100", "101", "503", "4096", "3600000", "12.5", "0.0001", "1e1", "017", "0b1"}
		return numbers[r.IntN(len(numbers))], piece[0] >= '0' && piece[0] <= '9'
	},
	func(r *rand.Rand, piece string) (string, bool) { // a longer word
		return piece + string(rune('a'+r.IntN(26))), piece[0] >= 'a' && piece[0] <= 'z'
	},
	func(r *rand.Rand, piece string) (string, bool) { // more white space
		return piece + piece, piece[0] == ' ' || piece[0] == '\n'
	},
	func(r *rand.Rand, piece string) (string, bool) { // a comment, if the file is YAML
		return " # why\n", piece == "\n"
	},
	func(r *rand.Rand, piece string) (string, bool) { // another punctuation mark
		return []string{`"`, "'", ",", ":"}[r.IntN(4)], strings.Contains(`"',:`, piece)
	},
}

// mutate changes a text at random, with a gentle mutation in half of the cases.
func mutate(r *rand.Rand, text string) string {
	if r.IntN(2) == 0 {
		pieces := split(text)
		for range 200 {
			if len(pieces) == 0 {
				break
			}
			i := r.IntN(len(pieces))
			if piece, fits := gentle[r.IntN(len(gentle))](r, pieces[i]); fits {
				pieces[i] = piece
				return strings.Join(pieces, "")
			}
		}
	}
	for range 1 + r.IntN(2) {
		pieces := split(text)
		if len(pieces) == 0 {
			return words[r.IntN(len(words))]
		}
		i, j := r.IntN(len(pieces)), r.IntN(len(pieces))
		switch r.IntN(7) {
		case 0:
			pieces[i] = ""
		case 1, 2:
			pieces[i] = words[r.IntN(len(words))]
		case 3:
			pieces[i] += words[r.IntN(len(words))]
		case 4:
			pieces[i], pieces[j] = pieces[j], pieces[i]
		case 5:
			pieces[i] += pieces[i]
		case 6:
			runes := []rune(pieces[i])
			runes[r.IntN(len(runes))] = rune(32 + r.IntN(95))
			pieces[i] = string(runes)
		}
		text = strings.Join(pieces, "")
	}
	return text
}

// split splits a text into words, white space and single punctuation marks.
func split(text string) []string {
	class := func(r rune) int {
		switch {
		case r == ' ':
			return 1
		case r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= utf8.RuneSelf:
			return 2
		}
		return 0
	}
	var pieces []string
	start, last := 0, -1
	for i, r := range text {
		if c := class(r); c != last || c == 0 {
			if i > start {
				pieces = append(pieces, text[start:i])
			}
			start, last = i, c
		}
	}
	if start < len(text) {
		pieces = append(pieces, text[start:])
	}
	return pieces
}

// excepted reports whether README.md lists the file as one on which the verdicts
// may differ.
func excepted(s sample, verdict []string) bool {
	if strings.Contains(s.text, "json-schema.org") || strings.Contains(s.text, "openapi") {
		return true
	}
	for _, line := range verdict {
		for _, limit := range []string{"levels deep", "more than", "is used here and in", "contains itself", "LFS"} {
			if strings.Contains(line, limit) {
				return true
			}
		}
	}
	return false
}

// TestMutations compares the verdicts of stock cue and of a Workspace on randomly
// mutated files: 150, or 1,500 with HFI_SLOW=1.
func TestMutations(t *testing.T) {
	cue := newStock(t)
	count := 150
	if testtool.Slow() {
		count = 1500
	}
	r := rand.New(rand.NewPCG(seed(t), 0))
	var corpus []sample
	for _, s := range samples {
		if len(s.text) < 2000 {
			corpus = append(corpus, s)
		}
	}
	const shares = 4 // run at once
	var excused atomic.Int64
	t.Run("files", func(t *testing.T) {
		for share := range shares {
			own := rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
			t.Run(fmt.Sprint(share), func(t *testing.T) {
				t.Parallel()
				cue := &stock{t: t, cue: cue.cue, schema: cue.schema}
				dir := t.TempDir()
				valid := 0
				for i := range count / shares {
					// One in five is CUE.
					s := corpus[own.IntN(len(corpus))]
					for s.isCUE() != (i%5 == 0) || !s.valid && i%3 != 0 {
						s = corpus[own.IntN(len(corpus))]
					}
					s.text = mutate(own, s.text)
					isValid, isExcused := compare(t, cue, filepath.Join(dir, fmt.Sprint(i)), s)
					if isValid {
						valid++
					}
					if isExcused {
						excused.Add(1)
					}
				}
				t.Logf("%d of %d were valid", valid, count/shares)
			})
		}
	})
	// Many exceptions would hide errors.
	t.Logf("%d of %d were excused", excused.Load(), count)
	if most := int64(count / 50); excused.Load() > most {
		t.Errorf("%d of %d files were excused as exceptions in README.md, more than %d", excused.Load(), count, most)
	}
}

// compare compares the two verdicts on a file. It reports whether the file is
// valid, and whether the verdicts differ as README.md allows.
func compare(t *testing.T, cue *stock, dir string, s sample) (valid, excused bool) {
	t.Helper()
	lay(t, dir, map[string]string{"policies/" + s.file: s.text})
	defer os.RemoveAll(dir)
	var output string
	if s.isCUE() {
		valid, output = cue.packages(dir, "policies")
		if strings.Contains(output, "matched no packages") {
			valid = true // a folder without packages is an error for cue, but not for hfi
		}
	} else {
		valid, output = cue.file(filepath.Join(dir, "policies", s.file))
	}
	verdict := ours(t, New("policies"), s)
	got := lines(verdict.Errors)
	if (len(got) == 0) != valid {
		if excused = excepted(s, got) || valid && unbound(cue, s, verdict.Errors); !excused {
			t.Errorf("stock cue: valid is %t, workspace: valid is %t, for %s:\n%s\ncue: %s\nhfi: %q", valid, len(got) == 0, s.file, s.text, output, got)
		}
	}
	for _, p := range verdict.Errors {
		readable(t, p, s.isCUE())
	}
	return valid, excused
}

// unbound reports whether all errors are in policies that the package does not
// constrain with the schema, which README.md lists as an exception. Stock cue must
// reject such a package too when a second file adds the constraint.
func unbound(cue *stock, s sample, errors []schema.Problem) bool {
	if !s.isCUE() {
		return false
	}
	for _, p := range errors {
		if p.Field != "policies" && !strings.HasPrefix(p.Field, "policies.") && !strings.HasPrefix(p.Field, "policies[") {
			return false
		}
	}
	file := &cueFile{path: s.file, content: s.text}
	file.parse()
	dir := cue.t.TempDir()
	lay(cue.t, dir, map[string]string{
		"policies/" + s.file:                              s.text,
		"policies/" + filepath.Dir(s.file) + "/bound.cue": "package " + file.name + "\n\n" + imports,
	})
	valid, _ := cue.packages(dir, "policies")
	return !valid
}

// TestUnboundExcusesNoMore checks that unbound excuses only errors in policies that
// stock cue rejects too.
func TestUnboundExcusesNoMore(t *testing.T) {
	cue := newStock(t)
	for _, test := range []struct {
		name, text string
		// errors are used instead of the workspace's.
		errors []schema.Problem
		want   bool
	}{
		{"a wrong policy", "policies: a: spec: rules: [{fault: delay_ms: 0}]\n", nil, true},
		{"a key that is not a valid name", "policies: \"A B\": spec: rules: [{fault: delay_ms: 1}]\n", nil, true},
		{"policies that are a list", "policies: [1]\n", nil, true},
		{"an error outside the policies", "policies: a: spec: rules: [{fault: delay_ms: 0}]\n", []schema.Problem{{Field: "x"}, {Field: "policies.a"}}, false},
		{"a valid policy rejected", "policies: a: spec: rules: [{fault: delay_ms: 1}]\n", []schema.Problem{{Field: "policies.a"}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := pkg(bad, test.name, test.text)
			if valid, output := cue.ask(s); !valid {
				t.Fatalf("stock cue rejects it without the constraint:\n%s", output)
			}
			errors := test.errors
			if errors == nil {
				if errors = ours(t, New("policies"), s).Errors; len(errors) == 0 {
					t.Fatal("the workspace accepts it")
				}
			}
			if got := unbound(cue, s, errors); got != test.want {
				t.Errorf("excused: %t, want %t, for %q", got, test.want, lines(errors))
			}
		})
	}
}

// FuzzYAML checks that there is a verdict for any text, with a set or readable errors.
func FuzzYAML(f *testing.F) { fuzzFile(f, "p.yaml") }

// FuzzJSON is FuzzYAML for JSON.
func FuzzJSON(f *testing.F) { fuzzFile(f, "p.json") }

func fuzzFile(f *testing.F, name string) {
	for _, s := range samples {
		if filepath.Ext(s.file) == filepath.Ext(name) {
			f.Add([]byte(s.text))
		}
	}
	f.Add([]byte("a: &a\n  <<: *a\n"))
	f.Add([]byte("\xff\xfe{\x00}\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		w := New("policies")
		verdict := apply(t, w, commit("c", "", content("policies/"+name, string(text))))
		if (verdict.Set == nil) != (len(verdict.Errors) > 0) {
			t.Fatalf("a set: %t, errors: %v", verdict.Set != nil, verdict.Errors)
		}
		for _, p := range verdict.Errors {
			readable(t, p, false)
		}
		if verdict.Set != nil {
			for _, entry := range verdict.Set.Entries() {
				if again, err := schema.Parse(entry.Canonical); err != nil || string(again.Canonical()) != string(entry.Canonical) {
					t.Fatalf("the canonical form is not a fixed point: %s: %v", entry.Canonical, err)
				}
			}
		}
	})
}

// FuzzCUE checks that the parent process can parse the package clause and imports
// of any text.
func FuzzCUE(f *testing.F) {
	for _, s := range samples {
		if s.isCUE() {
			f.Add(s.text, testModule)
		}
	}
	f.Fuzz(func(t *testing.T, text, module string) {
		p := newPackages("policies")
		file := &cueFile{path: "policies/a/a.cue", content: text}
		file.parse()
		p.files[file.path] = file
		p.files["cue.mod/module.cue"] = &cueFile{path: "cue.mod/module.cue", content: module}
		p.resolve()
		p.warningsUnit()
		p.request(New("").Limits, &policyLimits{}, []string{"policies/a"})
	})
}
