package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/schema"
)

// Limits of the repository and of the platform, from a push to the status: those of the
// platform hold although the repository loosens its own, and what is served stays served.
func TestLimits(t *testing.T) {
	const folder = "cue.mod/pkg/" + schema.ImportPath + "/"
	limits := func(percentage int) string {
		return fmt.Sprintf("package schema\n\n#Policy: spec: rules: [...{fault: percentage!: <=%d}]\n", percentage)
	}
	policy := func(name string, percentage int) string {
		return fmt.Sprintf("metadata:\n  name: %s\nspec:\n  rules:\n    - fault: {delay_ms: 1, percentage: %d}\n", name, percentage)
	}
	own := filepath.Join(t.TempDir(), "platform.cue")
	save := func(text string) {
		t.Helper()
		if err := os.WriteFile(own+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(own+".new", own); err != nil {
			t.Fatal(err)
		}
	}
	save(limits(50))
	repo := gittest.New(t)
	first := repo.Commit("Limits", map[string]string{
		folder + "policy.cue": schema.CUE, folder + "limits.cue": limits(20), "policies/a.yaml": policy("a", 15), "policies/b.yaml": policy("b", 20),
	})
	repo.Push()
	d := hfidtest.Run(t, repo.Bare(), "--limits", own, "--interval", "200ms")
	d.WaitSynced(first)
	refused := func(commit, why string) {
		t.Helper()
		status := d.WaitStatus("refusal of "+why, func(status *api.Status) bool {
			return status.Source.LastAttemptedRevision.Commit == commit && len(status.Source.Errors) > 0 &&
				strings.Contains(status.Source.Errors[0].Message, why)
		})
		if got := status.Sync.LastAppliedRevision.Commit; got != first {
			t.Errorf("%s is applied", got)
		}
	}

	// The repository's limits.
	refused(push(repo, "policies/b.yaml", policy("b", 30)), "30 is more than the limit of 20 (limits.cue:3)")
	// Loosened in the same repository, without a change of a policy.
	first = push(repo, folder+"limits.cue", limits(100))
	d.WaitSynced(first)
	// The platform's still hold, whatever the repository's copies say.
	repo.Commit("Loosen", map[string]string{folder + "policy.cue": "package schema\n\n#Policy: {...}\n#Policies: {...}\n", folder + "limits.cue": "package schema\n"})
	repo.Push()
	first = repo.Head()
	d.WaitSynced(first)
	refused(push(repo, "policies/b.yaml", policy("b", 60)), "60 is more than the limit of 50 ("+own+":3)")
	first = push(repo, "policies/b.yaml", policy("b", 50))
	d.WaitSynced(first)

	// Tightened while it runs: what is served stays served, and the status names what is against it.
	save(limits(40))
	status := d.WaitStatus("a commit that is not valid any more", func(status *api.Status) bool { return len(status.Source.Errors) > 0 })
	if status.Sync.Status != api.OutOfSync || status.Source.Errors[0].File != "policies/b.yaml" || !strings.Contains(status.Sync.Message, "stays served, but it is not valid any more") {
		t.Errorf("the status is %+v, the errors %+v", status.Sync, status.Source.Errors)
	}
	if served := d.Policies(""); len(served.ByName) != 2 {
		t.Errorf("served are %v", served.ByName)
	}
	save("no CUE {")
	d.WaitStatus("limits that cannot be read", func(status *api.Status) bool {
		return len(status.Source.Errors) == 1 && status.Source.Errors[0].File == own
	})
	save(limits(100))
	d.WaitSynced(first)
	if status := d.Status(); len(status.Source.Errors) > 0 {
		t.Errorf("the errors are %+v", status.Source.Errors)
	}
}

// push pushes a commit of one file.
func push(repo *gittest.Repo, file, text string) string {
	hash := repo.Commit("Change "+file, map[string]string{file: text})
	repo.Push()
	return hash
}
