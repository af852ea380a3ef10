package reconciler_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
)

// pushWithout pushes a commit that has no policy folder.
func (d *daemon) pushWithout(hash string, options ...func(*reconciler.Commit)) {
	d.git.fail(func(f *repository) { f.without[hash] = true })
	d.push(hash, policies(), options...)
}

// A folder that the last applied commit had, and the new one has not, is an
// empty set: the guard against pruning decides. One that it never had is an error.
func TestRemovedFolder(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(d *daemon)
		want string
		// reason is that of the source's error, or of the refusal.
		reason string
	}{
		{"removing a small set's folder empties it", func(d *daemon) {
			d.push("a", policies("x", "y"))
			d.open()
			d.pushWithout("b")
		}, "b", ""},
		{"and the commits after it stay empty", func(d *daemon) {
			d.push("a", policies("x", "y"))
			d.open()
			d.pushWithout("b")
			d.pushWithout("c")
		}, "c", ""},
		{"what lies between does not matter", func(d *daemon) {
			d.push("a", policies("x"))
			d.open()
			d.pushInvalid("b")
			d.pushWithout("c")
		}, "c", ""},
		{"removing a large set's folder is refused", func(d *daemon) {
			d.push("a", policies(numbered(10)...))
			d.open()
			d.pushWithout("b")
		}, "a", "PruneRefused"},
		{"unless the commit says so", func(d *daemon) {
			d.push("a", policies(numbered(10)...))
			d.open()
			d.pushWithout("b", allowPrune)
		}, "b", ""},
		{"a folder that never was there is missing", func(d *daemon) {
			d.pushWithout("a")
			d.open()
		}, "", "PathMissing"},
		{"and so is one in a repository without the applied commit", func(d *daemon) {
			d.push("a", policies("x"))
			d.open()
			d.git.fail(func(f *repository) { f.commits = nil })
			d.pushWithout("b")
			d.pass(3 * d.Interval)
			if d.git.folders != 1 {
				d.t.Errorf("the history was asked for %d times, want once", d.git.folders)
			}
		}, "a", "PathMissing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			scenario(t, func(t *testing.T, d *daemon) {
				test.run(d)
				d.wantPublished(test.want)
				status, reason := d.Status(), ""
				if status.Source.Error != nil {
					reason = status.Source.Error.Reason
				} else if condition := d.condition(api.Stalled); condition.Status == "True" {
					reason = condition.Reason
				}
				if reason != test.reason {
					t.Errorf("the reason is %q, want %q", reason, test.reason)
				}
				warned := len(status.Source.Warnings) == 1 && strings.Contains(status.Source.Warnings[0].Message, "no folder of this name")
				if test.reason == "" && !warned {
					t.Errorf("the warnings are %+v, want one of the missing folder", status.Source.Warnings)
				}
			})
		})
	}
}

// If git cannot say whether the applied commit had the folder, nothing is removed.
func TestRemovedFolderWaitsForGit(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("x"))
		d.open()
		d.git.fail(func(f *repository) {
			f.folderErr = &reconciler.SourceError{Reason: "TimedOut", Consequence: reconciler.Retry, Err: errors.New("git did not answer")}
		})
		d.pushWithout("b")
		d.wantPublished("a")
		if failure := d.Status().Source.Error; failure == nil || failure.Reason != "TimedOut" {
			t.Errorf("the source's error is %+v, want TimedOut", failure)
		}
		d.git.fail(func(f *repository) { f.folderErr = nil })
		d.pass(d.Interval)
		d.wantPublished("b")
	})
}
