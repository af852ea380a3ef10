package reconciler_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
)

// With ValidateEarly a replica validates git's head while the store starts. Its
// first term validates only what was pushed since.
func TestValidateEarly(t *testing.T) {
	for name, pushed := range map[string]bool{"nothing is pushed since": false, "a push follows": true} {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(t *testing.T, d *daemon) {
				d.follower()
				d.ValidateEarly = true
				d.push("a", policies("p"))
				d.open()
				synctest.Wait()
				if base := d.git.Base(); base != "a" {
					t.Errorf("before an election the validator has %q, want a", base)
				}
				want := "a"
				if pushed {
					want = "b"
					d.push(want, policies("p", "q"))
				}
				d.etcd.elected <- struct{}{}
				synctest.Wait()
				d.wantPublished(want)
				d.wantSync(api.Synced)
			})
		})
	}
}

// What fails while validating early is reported by the first term only, which
// tries again.
func TestValidateEarlyFails(t *testing.T) {
	for name, fail := range map[string]func(*repository, error){
		"head": func(f *repository, err error) { f.headErr = err }, "delta": func(f *repository, err error) { f.deltaErr = err },
		"validation": func(f *repository, err error) { f.applyErr = err },
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(t *testing.T, d *daemon) {
				d.follower()
				d.ValidateEarly = true
				d.push("a", policies("p"))
				d.git.fail(func(f *repository) {
					fail(f, &reconciler.SourceError{Reason: "Unreachable", Consequence: reconciler.Retry, Err: errors.New("git is away")})
				})
				d.open()
				synctest.Wait()
				if status := d.Status(); status.Source.Error != nil {
					t.Errorf("before an election: %+v", status.Source.Error)
				}
				d.etcd.elected <- struct{}{}
				synctest.Wait()
				if status := d.Status(); status.Source.Error == nil {
					t.Error("the first term reports no error")
				}
				d.git.fail(func(f *repository) { fail(f, nil) })
				d.pass(d.Interval)
				d.wantPublished("a")
			})
		})
	}
}

// Close ends validating early.
func TestCloseEndsValidatingEarly(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.follower()
		d.ValidateEarly = true
		d.push("a", policies("p"))
		d.git.hangs, d.git.released = "Apply", make(chan struct{})
		d.open()
		synctest.Wait()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}
