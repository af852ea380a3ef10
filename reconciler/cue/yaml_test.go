package cue

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/boifi/hfi/schema"
)

// TestYAMLWarnings checks that a value which is not what YAML or a reader takes it for has a
// warning, and that stock cue accepts the file and gives the value that the warning names.
func TestYAMLWarnings(t *testing.T) {
	rules := func(text string) string { return "metadata: {name: p}\nspec:\n  rules:\n" + text }
	tests := []struct {
		text  string
		delay int64
		want  []string
	}{
		{rules("  - fault: &slow {delay_ms: 500}\n  - fault: {delay_ms: 7, <<: *slow}\n"), 500, []string{
			`policies/p.yaml:5:26: spec.rules[1].fault.delay_ms: delay_ms is 500, from the merge key << after it, and not 7; write << before the other keys`,
		}},
		{rules("  - fault: &slow {delay_ms: 500}\n  - fault: {<<: *slow, delay_ms: 7}\n"), 7, nil},
		{rules("  - fault: &slow {delay_ms: 500}\n  - fault: {delay_ms: 500, <<: *slow}\n"), 500, nil},
		{rules("  - fault: &slow {delay_ms: 500}\n  - fault: {percentage: 7, <<: *slow}\n"), 500, nil},
		{rules("  - fault: &a {delay_ms: 500}\n  - fault: &b {delay_ms: 600}\n  - fault: {<<: [*a, *b]}\n"), 500, nil},
		{rules("  - fault: &a {delay_ms: 500}\n  - fault: &b {delay_ms: 600}\n  - fault: {<<: *a, <<: *b}\n"), 600, []string{
			`policies/p.yaml:6:21: spec.rules[2].fault.delay_ms: delay_ms is 600, from the merge key << after it, and not 500; write one merge key with a list, such as <<: [*a, *b], of which the first counts`,
		}},
		{rules("  - fault: &a {delay_ms: 500}\n  - fault: {<<: *a, delay_ms: 7, delay_ms: 8}\n"), 8, []string{
			`policies/p.yaml:5:34: spec.rules[1].fault.delay_ms: delay_ms is set twice: it is 8, and not 7; remove one`,
		}},
		{rules("  - fault: &a {delay_ms: 500}\n  - fault: {delay_ms: 7, <<: *a, delay_ms: 9}\n"), 9, nil},
		{rules("  - fault: &a {delay_ms: 500, abort: {status: 500}}\n  - fault:\n      abort:\n        status: 503\n      <<: *a\n"), 500, []string{
			`policies/p.yaml:8:7: spec.rules[1].fault.abort: abort is the value on line 4, from the merge key << after it, and not the value on line 7; write << before the other keys`,
		}},
		{rules("  - fault: {delay_ms: 0500}\n"), 320, []string{
			`policies/p.yaml:4:23: spec.rules[0].fault.delay_ms: delay_ms is 320: YAML reads "0500" as octal, because it begins with 0; write 500`,
		}},
		{rules("  - fault: {delay_ms: 1, percentage: 050}\n"), 1, []string{
			`policies/p.yaml:4:38: spec.rules[0].fault.percentage: percentage is 40: YAML reads "050" as octal, because it begins with 0; write 50`,
		}},
		{rules("  - fault: {delay_ms: 1, abort: {status: 0503}}\n"), 1, []string{
			`policies/p.yaml:4:42: spec.rules[0].fault.abort.status: status is 323: YAML reads "0503" as octal, because it begins with 0; write 503`,
		}},
		{rules("  - fault: {delay_ms: 05, percentage: 0, abort: {status: 0o767}}\n"), 5, nil},
		{rules("  - fault: {delay_ms: 0x10, abort: {status: 503, body: \"0500\"}}\n"), 16, nil},
		{rules("  - fault: {delay_ms: 1_000}\n") + "  expires_at: 2927-01-31T00:00:00Z\n", 1000, nil},
	}
	cue := newStock(t)
	for _, test := range tests {
		t.Run(short(test.text), func(t *testing.T) {
			s := sample{file: "p.yaml", text: test.text}
			verdict := ours(t, New("policies"), s)
			wantSet(t, verdict, "p")
			if got := lines(verdict.Warnings); !slices.Equal(got, test.want) {
				t.Errorf("for\n%s\ngot  %q\nwant %q", test.text, got, test.want)
			}
			rules := verdict.Set.Get("p").Policy.Spec.Rules
			if got := rules[len(rules)-1].Fault.DelayMS; got != test.delay {
				t.Errorf("the delay is %d, want %d", got, test.delay)
			}
			dir := t.TempDir()
			write(t, dir, s.file, s.text)
			exported, output := cue.run(dir, "export", "--out", "json", s.file)
			var policy schema.Policy
			if err := json.Unmarshal([]byte(output), &policy); !exported || err != nil {
				t.Fatalf("stock cue: %v:\n%s", err, output)
			}
			if got := policy.Spec.Rules[len(rules)-1].Fault.DelayMS; got != test.delay {
				t.Errorf("for stock cue the delay is %d, want %d", got, test.delay)
			}
			for _, p := range verdict.Warnings {
				readable(t, p, false)
			}
		})
	}
}
