package reconciler_test

import (
	"testing"
	"testing/synctest"

	"github.com/boifi/hfi/reconciler"
)

// replaceHead puts another head into etcd, with the policies that it describes.
func (d *daemon) replaceHead(commit string, names ...string) {
	set := policies(names...)
	d.etcd.change(func(f *storage) {
		f.number++
		f.state = &reconciler.State{
			Head:     reconciler.Head{Commit: commit, Digest: set.Digest(), Count: set.Len()},
			Set:      set,
			Revision: reconciler.Revision{Epoch: f.state.Revision.Epoch, Number: f.number},
		}
	})
	synctest.Wait()
}

// A head that another writer puts back with its policies (from a backup, say) is
// verified, and so replicas serve it. The leader publishes its own again at once,
// in either drift mode, and also while git's newest commit is invalid.
func TestReplacedHeadIsPutBack(t *testing.T) {
	for _, invalid := range []bool{false, true} {
		scenario(t, func(t *testing.T, d *daemon) {
			d.push("a", policies("p"))
			d.open()
			d.push("b", policies("p", "q"))
			if invalid {
				d.pushInvalid("c")
			}
			history := len(d.Status().History)
			d.replaceHead("a", "p")
			last := d.etcd.published[len(d.etcd.published)-1]
			if len(d.etcd.published) != 3 || last.Commit != "b" || last.Set.Len() != 2 || last.Entry != nil {
				t.Errorf("published %d times, last %+v; want b again, without an entry", len(d.etcd.published), last)
			}
			if served := d.Served(); served.Head.Commit != "b" || served.Set.Len() != 2 {
				t.Errorf("served is %+v", served.Head)
			}
			if now := len(d.Status().History); now != history {
				t.Errorf("the history has %d entries, want %d", now, history)
			}
			// The same set under another commit's name is a replaced head too.
			d.pass(d.HealMax)
			d.replaceHead("x", "p", "q")
			if len(d.etcd.published) != 4 || d.Served().Head.Commit != "b" {
				t.Errorf("published %d times, served %+v", len(d.etcd.published), d.Served().Head)
			}
		})
	}
}
