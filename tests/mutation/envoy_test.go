package mutation

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

// onEnvoy are mutations that tests with the built filter in a real Envoy must notice.
var onEnvoy = []mutation{
	{
		what: "selection by the index", file: "filter/selection/index.go",
		old: "if order == 0 {\n\t\tinto", new: "if order <= 0 {\n\t\tinto",
		tests: []string{"TestPoliciesApplyToTheirTargetsOnly"},
	},
	{
		what: "the draw", file: "filter/fault/decide.go",
		old: `if !random.Draw(r.Share) || !matches(r, view) {`, new: `if !matches(r, view) {`,
		tests: []string{"TestEachEnvoyFaultsTheConfiguredPercentage"},
	},
	{
		what: "the handling of a disconnect", file: "filter/inject.go",
		old: `if _, paused := v.paused.streams[id]; !paused {`, new: `if true {`,
		tests: []string{"TestSoak"},
	},
	{
		what: "the clean-up of resumed streams", file: "filter/pause.go",
		old: "delete(p.streams, stream.id)\n\treturn", new: `return`,
		tests: []string{"TestPanicsFailNoRequest"},
	},
	{
		what: "the recovery from panics", file: "filter/vm.go",
		old: `if fault := recover(); fault != nil {`, new: `if fault := any(nil); fault != nil {`,
		tests: []string{"TestPanicsFailNoRequest"},
	},
	{
		what: "the pause after a panic", file: "filter/poll.go",
		old: `p.failed(failure("internal error while " + doing))`, new: ``,
		tests: []string{"TestPanicsFailNoRequest"},
	},
	{
		what: "the filter's own selection", file: "filter/program/read.go",
		old: `mine := p.selects(policy.Selector)`, new: `mine := p.selects(policy.Selector) || true`,
		tests: []string{"TestFilterIgnoresPoliciesForOtherWorkloads"},
	},
	{
		what: "the expiry of stale policies", file: "filter/poll.go",
		old: `p.enforce(new(program.Program))`, new: ``,
		tests: []string{"TestDaemonStartsLateAndRestarts"},
	},
}

// The tests with a real Envoy can fail too. They build the filter with the mutation.
func TestRemovedChecksFailATestOnEnvoy(t *testing.T) {
	testtool.SlowOnly(t)
	for _, m := range onEnvoy {
		t.Run(m.what, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			pattern := "^(" + strings.Join(m.tests, "|") + ")$"
			command := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-vet=off", "-run", pattern, "./tests/envoy")
			command.Dir = testtool.Root()
			// The environment passes the overlay to the test's own builds. A short run is
			// enough.
			command.Env = append(os.Environ(), "GOFLAGS=-overlay="+overlay(t, m), "HFI_SLOW=")
			text, err := command.CombinedOutput()
			out := string(text)
			if err == nil {
				t.Fatalf("without %s, %s passes:\n%s", m.what, pattern, out)
			}
			for _, test := range m.tests {
				if !regexp.MustCompile(`(?m)^--- FAIL: ` + test + `\b`).MatchString(out) {
					t.Errorf("without %s, %s does not fail:\n%s", m.what, test, out)
				}
				if strings.Contains(out, "building the filter by") || strings.Contains(out, "building hfid: ") {
					t.Errorf("the mutation does not compile, so it shows nothing:\n%s", out)
				}
			}
		})
	}
}
