package reconciler_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
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

// oneAtATime is a Validator like that of package cue: while it applies a delta, all
// other calls wait for that, whatever their context.
type oneAtATime struct {
	reconciler.Validator
	t    *testing.T
	busy atomic.Bool
}

func (v *oneAtATime) Base() string {
	if v.busy.Load() {
		v.t.Error("it waits for the validation, without a limit")
	}
	return v.Validator.Base()
}

func (v *oneAtATime) Apply(ctx context.Context, delta *reconciler.Delta) (*schema.Verdict, error) {
	if v.busy.Swap(true) {
		v.t.Error("it waits for the other validation, without a limit")
	}
	defer v.busy.Store(false)
	return v.Validator.Apply(ctx, delta)
}

// The first term waits for a validation that began early, and repairs etcd meanwhile. It
// ends at once when it is over.
func TestTheFirstTermWaitsForTheEarlyValidation(t *testing.T) {
	for name, deposed := range map[string]bool{"until it ends": false, "until the term is over": true} {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(t *testing.T, d *daemon) {
				d.follower()
				d.ValidateEarly = true
				d.Validator = &oneAtATime{Validator: d.git, t: t}
				d.push("a", policies("p"))
				released := make(chan struct{})
				d.git.hangs, d.git.released = "Apply", released
				d.open()
				synctest.Wait()
				d.etcd.elected <- struct{}{}
				d.pass(10 * time.Second)
				if got := len(d.etcd.published); got != 0 {
					t.Errorf("published %d times before the end of the validation", got)
				}
				if deposed {
					close(d.etcd.done)
					synctest.Wait()
					if role := d.Status().Replica.Role; role != "follower" || d.etcd.resigned != 1 {
						t.Errorf("after its term the role is %s, resigned %d times", role, d.etcd.resigned)
					}
				}
				close(released)
				synctest.Wait()
				if !deposed {
					d.wantPublished("a")
				}
			})
		})
	}
}
