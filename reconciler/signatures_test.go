package reconciler_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
)

// signed is an option of push: a signature by Ada, who may be an approver.
func signed(approver bool) func(*reconciler.Commit) {
	return func(commit *reconciler.Commit) {
		commit.Signature = &api.Signature{Status: api.SignatureVerified, Signer: "ada@example.com", Key: "SHA256:ada"}
		commit.Approved = approver
	}
}

// unsigned is an option of push, where signatures are verified.
func unsigned(commit *reconciler.Commit) {
	commit.Signature = &api.Signature{Status: api.SignatureUnsigned, Reason: "it is not signed"}
}

func (d *daemon) setKeys(version string, err error) {
	d.git.fail(func(f *repository) { f.keys, f.keysErr = version, err })
}

// newTerm ends the daemon's term, and elects it again.
func (d *daemon) newTerm() {
	d.etcd.elected <- struct{}{}
	close(d.etcd.done)
}

// An unverified head is not applied, or even evaluated; it is in the status and once in the history.
func TestUnverifiedHead(t *testing.T) {
	for _, mode := range []reconciler.VerifyMode{reconciler.VerifyHead, reconciler.VerifyAll} {
		scenario(t, func(t *testing.T, d *daemon) {
			d.Verify = mode
			d.setKeys("1", nil)
			d.push("a", policies("one"), signed(true))
			d.open()
			d.wantPublished("a")
			status := d.wantSync(api.Synced)
			for what, got := range map[string]*api.Signature{"source": status.Source.LastAttemptedRevision.Signature, "history": status.History[0].Signature} {
				if got == nil || got.Status != api.SignatureVerified || got.Signer != "ada@example.com" {
					t.Errorf("the %s says of the signature %+v", what, got)
				}
			}

			d.push("b", policies("one", "two"), unsigned)
			d.pass(5 * d.Interval)
			d.wantPublished("a")
			status = d.wantSync(api.OutOfSync)
			if want := "commit b is not applied: it is not signed"; status.Sync.Message != want {
				t.Errorf("the message is %q, want %q", status.Sync.Message, want)
			}
			d.wantCondition(api.Stalled, "True", "CommitUnverified")
			if h := status.History; len(h) != 2 || h[0].Commit != "b" || h[0].Outcome != api.Unverified || h[0].Message != status.Sync.Message || h[0].Signature == nil || h[0].Signature.Status != api.SignatureUnsigned {
				t.Errorf("the history is %+v", h)
			}
			if base := d.git.Base(); base != "a" {
				t.Errorf("commit %s was evaluated last", base)
			}
			if got := status.Source.LastAttemptedRevision.Signature; got == nil || got.Status != api.SignatureUnsigned {
				t.Errorf("the source says of the signature %+v", got)
			}

			d.push("c", policies("one", "two"), signed(true))
			want := "c"
			if mode == reconciler.VerifyAll {
				want = "a"
			}
			d.wantPublished(want)
			if mode == reconciler.VerifyAll {
				if got, want := d.Status().Sync.Message, "commit c is not applied: commit b, which it contains, is not verified: it is not signed"; got != want {
					t.Errorf("the message is %q, want %q", got, want)
				}
			}
		})
	}
}

// In mode all, a list of commits that is not complete verifies nothing.
func TestVerifyAllNeedsAllCommits(t *testing.T) {
	for what, c := range map[string]struct {
		break_ func(f *repository)
		want   string
	}{
		"too many":       {func(f *repository) { f.cut = true }, "more than 1000 commits since the last applied one, a, would have to be verified"},
		"no last commit": {func(f *repository) { f.commits = f.commits[1:] }, "the repository does not have all commits since the last applied one, a"},
	} {
		t.Run(what, func(t *testing.T) {
			scenario(t, func(t *testing.T, d *daemon) {
				d.Verify = reconciler.VerifyAll
				d.setKeys("1", nil)
				d.push("a", policies("one"), signed(true))
				d.open()
				d.git.fail(c.break_)
				d.push("b", policies("two"), signed(true))
				d.wantPublished("a")
				if status := d.Status(); !strings.Contains(status.Sync.Message, c.want) || status.History[0].Outcome != api.Unverified {
					t.Errorf("the status is %q, and the history %+v", status.Sync.Message, status.History)
				}
			})
		})
	}
}

// What is applied stays so when signatures begin to be verified, also after a new election.
func TestAppliedBeforeItWasVerified(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("one"))
		d.open()
		d.setKeys("1", nil)
		d.git.fail(func(f *repository) { unsigned(&f.commits[0]) })
		d.newTerm()
		d.pass(d.Interval)
		d.wantPublished("a")
		d.wantSync(api.Synced)
		d.wantCondition(api.Stalled, "False", "Progressing")
		if h := d.Status().History; len(h) != 1 {
			t.Errorf("the history is %+v, want one entry", h)
		}
	})
}

// A head that was rejected is tried again with other keys.
func TestOtherKeysAreTried(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.setKeys("1", nil)
		d.push("a", policies("one"), signed(true))
		d.open()
		d.push("b", policies("two"), unsigned)
		d.wantPublished("a")
		d.git.fail(func(f *repository) { signed(true)(&f.commits[1]) })
		d.pass(d.Interval)
		d.wantPublished("a")
		d.setKeys("2", nil)
		d.pass(d.Interval)
		d.wantPublished("b")
		d.wantSync(api.Synced)
	})
}

// Without usable keys nothing new is applied, what is applied stays, and the
// status says what to do, whether there is a new commit or not.
func TestUnusableKeys(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.setKeys("1", nil)
		d.push("a", policies("one"), signed(true))
		d.open()
		d.setKeys("", &reconciler.SourceError{Reason: "TrustedKeysUnusable", Consequence: reconciler.Stalled, Err: errors.New("/etc/signers is empty")})
		d.pass(d.Interval)
		d.wantSync(api.Synced)
		if c := d.wantCondition(api.Stalled, "True", "TrustedKeysUnusable"); c.Message != "no new commit is applied: /etc/signers is empty" {
			t.Errorf("the message is %q", c.Message)
		}
		d.push("b", policies("two"), signed(true))
		d.wantPublished("a")
		if status := d.wantSync(api.OutOfSync); status.Sync.Message != "commit b is not applied: /etc/signers is empty" || len(status.History) != 1 {
			t.Errorf("the message is %q, and the history %+v", status.Sync.Message, status.History)
		}
		d.wantCondition(api.Stalled, "True", "TrustedKeysUnusable")
		d.newTerm()
		d.pass(d.Interval)
		d.wantPublished("a")
		d.setKeys("1", nil)
		d.pass(d.Interval)
		d.wantPublished("b")
		d.wantSync(api.Synced)
		d.wantCondition(api.Stalled, "False", "Progressing")
	})
}

// The trailer that lifts the prune guard counts if an approver signed the commit that has it.
func TestOnlyApproversLiftTheGuard(t *testing.T) {
	for _, approver := range []bool{true, false} {
		for _, inHead := range []bool{true, false} {
			scenario(t, func(t *testing.T, d *daemon) {
				d.setKeys("1", nil)
				d.push("a", policies(numbered(12)...), signed(false))
				d.open()
				d.push("b", policies(), signed(approver), allowPrune)
				if !inHead {
					d.push("c", policies(), signed(false))
				}
				if approver {
					if d.published() == "a" {
						t.Error("the approver's trailer does not count")
					}
					return
				}
				d.wantPublished("a")
				if want := "the trailer of commit b does not count, because no approver (--git-approvers) signed it: it is signed by ada@example.com (SHA256:ada)"; !strings.Contains(d.Status().Sync.Message, want) {
					t.Errorf("the message is %q, want %q in it", d.Status().Sync.Message, want)
				}
			})
		}
	}
}

// A replica that validates before it leads evaluates no unverified commit either.
func TestEarlyValidationIsOfVerifiedCommits(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.ValidateEarly = true
		d.setKeys("1", nil)
		d.push("a", policies("one"), unsigned)
		d.open()
		d.pass(d.Interval)
		if base := d.git.Base(); base != "" {
			t.Errorf("commit %s was evaluated", base)
		}
		d.wantPublished("")
	})
}
