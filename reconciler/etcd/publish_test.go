package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// A publication that ends after any of its transactions but the last is never
// served, by the leader, by a follower, or by a replica that starts just then;
// the next publication repairs it.
func TestAPublicationCutShortIsNeverServed(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	first := publish(t, term, publication("c1", policies(t, 250, 100)))
	// Some stay, some change, some go, some are new: origins and policies take several transactions.
	target := policies(t, 400, 100).With([]*schema.Entry{policy(t, "p00001", 7)}, []string{"p00002", "p00003"})
	total := 0
	a.afterTransaction = func(n int) error { total = n; return nil }
	publish(t, term, publication("c2", target))
	first = publish(t, term, publication("c1", first.Set))
	if total < 3 {
		t.Fatalf("the publication takes %d transactions: too few to cut", total)
	}
	cut := errors.New("cut off")
	for k := 1; k < total; k++ {
		t.Run(fmt.Sprintf("after %d of %d", k, total), func(t *testing.T) {
			a.afterTransaction = func(n int) error {
				if n == k {
					return cut
				}
				return nil
			}
			if _, err := term.Publish(testContext(t), publication("c2", target)); !errors.Is(err, cut) {
				t.Fatal(err)
			}
			a.afterTransaction = nil
			server.Ctl("put", "/hfi/trigger", "x") // So that every watch has something to reach.
			fresh := openStore(t, externalStore("fresh", server.Endpoint))
			eventually(t, "a fresh replica has a state", func() bool { return fresh.View().State != nil })
			for _, s := range []*Store{a, b, fresh} {
				eventually(t, "half a publication shows as drift on "+s.ID, seen(s, api.DriftDetected))
				if state := s.View().State; state.Head.Commit != "c1" || state.Set.Digest() != first.Set.Digest() || state.Set.Len() != 250 {
					t.Errorf("%s serves %s with %d policies", s.ID, state.Head.Commit, state.Set.Len())
				}
			}
			want := publish(t, term, publication("c2", target))
			for _, s := range []*Store{b, fresh} {
				eventually(t, "the repair reaches "+s.ID, serves(s, want))
			}
			first = publish(t, term, publication("c1", first.Set))
			eventually(t, "the follower is back", serves(b, first))
		})
	}
}

// Between the transactions of a publication no replica reports drift.
func TestAPublicationUnderWayIsNoDrift(t *testing.T) {
	t.Parallel()
	_, a, b, term := pair(t)
	publish(t, term, publication("c1", policies(t, 250, 100)))
	eventually(t, "no drift at first", seen(b, api.DriftNone))
	var last int64
	a.afterTransaction = func(n int) error {
		at := a.current().revision
		last = max(last, at)
		if _, err := b.waitRevision(testContext(t), at); err != nil {
			return err
		}
		for _, s := range []*Store{a, b} {
			if drift := s.View().Drift; drift.Status != api.DriftNone {
				t.Errorf("after transaction %d: %s sees drift %s, %d items", n, s.ID, drift.Status, drift.Total)
			}
		}
		return nil
	}
	publish(t, term, publication("c2", policies(t, 400, 200)))
	inspect(t, a, func(tracker *tracker) {
		if _, present := tracker.cache.leaders[term.leader.key]; !present || tracker.cache.publishing != 0 {
			t.Error("the publishing key is still there after the publication")
		}
	})
}

// If another writer interferes with a publication, the leader notices it in what
// the watch shows, publishes again, and gives up after PublishTries.
func TestInterferenceWithAPublicationIsOverwritten(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	publish(t, term, publication("c1", policies(t, 250, 100)))
	var times atomic.Int32
	interfere := func(often int32) func(int) error {
		times.Store(0)
		return func(n int) error {
			if n == 1 && times.Add(1) <= often {
				server.Ctl("put", "/hfi/policies/p00000", string(policy(t, "p00000", 31337).Canonical))
			}
			return nil
		}
	}
	a.afterTransaction = interfere(1)
	want := publish(t, term, publication("c2", policies(t, 250, 200)))
	eventually(t, "the follower agrees", serves(b, want))
	if history := a.View().History; len(history) != 2 {
		t.Errorf("published twice, and recorded %d times: %+v", len(history)-1, history)
	}
	a.afterTransaction = nil
	a.PublishTries = 3
	a.afterPlan = func() {
		key := fmt.Sprintf("/hfi/policies/s%d", times.Add(1))
		if _, err := a.etcd().Put(context.Background(), key, string(policy(t, key[len("/hfi/policies/"):], 1).Canonical)); err != nil {
			t.Error(err)
		}
	}
	_, err := term.Publish(testContext(t), publication("c3", policies(t, 250, 300)))
	if err == nil || !strings.Contains(err.Error(), "something else writes") {
		t.Errorf("publishing against a persistent writer: %v", err)
	}
	if state := b.View().State; state.Set.Digest() != want.Set.Digest() {
		t.Error("what was never published is served")
	}
}

// One change among many policies is one small transaction.
func TestOneChangeIsOneTransaction(t *testing.T) {
	t.Parallel()
	_, a, _, term := pair(t)
	set := policies(t, 2000, 100)
	publish(t, term, publication("c1", set))
	transactions := 0
	a.afterTransaction = func(int) error { transactions++; return nil }
	set = set.With([]*schema.Entry{policy(t, "p00042", 5)}, nil)
	var p *plan
	var err error
	inspect(t, a, func(tracker *tracker) {
		p, err = tracker.plan(time.Now(), publication("c2", set), term.markOp(), maxOps)
	})
	if err != nil || len(p.transactions) != 1 || len(p.transactions[0]) != 3 {
		t.Errorf("one change is planned as %d transactions (%v)", len(p.transactions), err)
	}
	publish(t, term, publication("c2", set))
	if transactions != 1 {
		t.Errorf("one change took %d transactions", transactions)
	}
	publish(t, term, reconciler.Publication{Commit: "c2", Set: set})
	if transactions != 1 {
		t.Error("a publication of what etcd holds already was written")
	}
}

// A policy beyond etcd's limits is refused by name before anything is written,
// and large policies get transactions of their own.
func TestPublishStaysWithinEtcdsLimits(t *testing.T) {
	t.Parallel()
	_, a, _, term := pair(t)
	large := func(name string, size int) *schema.Entry {
		entry := policy(t, name, 1)
		copied := *entry.Policy
		copied.Spec.Rules = []schema.Rule{{Fault: schema.Fault{Abort: &schema.Abort{Status: 503, Body: strings.Repeat("x", size)}}}}
		return schema.NewEntry(&copied, entry.Origin)
	}
	publish(t, term, publication("c1", schema.NewSet(large("a", 1_300_000), large("b", 1_000_000), large("c", 600_000), large("d", 600_000))))
	before := a.View().State
	_, err := term.Publish(testContext(t), publication("c2", schema.NewSet(large("e", 1_600_000))))
	if err == nil || !strings.Contains(err.Error(), "policy e takes") || a.View().State != before {
		t.Errorf("a policy beyond etcd's limits: %v", err)
	}
}

// The history is bounded, and keeps its order.
func TestTheHistoryIsBounded(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	for i := range reconciler.MaxHistory + 20 {
		if err := term.Record(testContext(t), api.HistoryEntry{Commit: fmt.Sprint(i), Outcome: api.Invalid}); err != nil {
			t.Fatal(err)
		}
	}
	want := fmt.Sprint(reconciler.MaxHistory + 19)
	for _, s := range []*Store{a, b} {
		eventually(t, "the history is complete", func() bool { h := s.View().History; return len(h) > 0 && h[0].Commit == want })
		if history := s.View().History; len(history) != reconciler.MaxHistory || history[len(history)-1].Commit != "20" {
			t.Errorf("%d entries, the last one of %s", len(history), history[len(history)-1].Commit)
		}
	}
	if got := server.Ctl("get", "--prefix", "/hfi/history/", "--keys-only"); strings.Count(got, "/hfi/history/") != reconciler.MaxHistory {
		t.Errorf("etcd keeps %d entries", strings.Count(got, "/hfi/history/"))
	}
}

// A cancelled publication returns an error, and the next one repairs what it left.
func TestACancelledPublicationIsRepaired(t *testing.T) {
	t.Parallel()
	_, a, _, term := pair(t)
	publish(t, term, publication("c1", policies(t, 250, 100)))
	ctx, cancel := context.WithCancel(testContext(t))
	a.afterTransaction = func(n int) error { cancel(); return nil }
	if _, err := term.Publish(ctx, publication("c2", policies(t, 250, 200))); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancelling, the error is %v", err)
	}
	a.afterTransaction = nil
	publish(t, term, publication("c2", policies(t, 250, 200)))
}

// With an etcd that allows few operations in a transaction, fewer are used; one
// that allows too few gives an error.
func TestAnEtcdWithFewOperations(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.WithArguments("--max-txn-ops", "16"))
	a := openStore(t, externalStore("a", server.Endpoint))
	term := campaign(t, a)
	for i := range reconciler.MaxHistory + 5 {
		if err := term.Record(testContext(t), api.HistoryEntry{Commit: fmt.Sprint(i), Outcome: api.Invalid}); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, term, publication("c1", policies(t, 300, 1)))
	publish(t, term, publication("c2", policies(t, 10, 2)))
	if history := a.View().History; len(history) != reconciler.MaxHistory || history[0].Commit != "c2" {
		t.Errorf("%d entries", len(history))
	}

	few := etcdtest.Start(t, etcdtest.WithArguments("--max-txn-ops", "4"))
	b := openStore(t, externalStore("b", few.Endpoint))
	_, err := campaign(t, b).Publish(testContext(t), publication("c1", policies(t, 300, 1)))
	if err == nil || !strings.Contains(err.Error(), "--max-txn-ops 16") {
		t.Errorf("publishing with 4 operations: %v", err)
	}
}

// A foreign entry with the highest number costs the history neither the entry
// of the next publication nor those before.
func TestAForeignHistoryNumberCostsNoEntry(t *testing.T) {
	t.Parallel()
	server, a, _, term := pair(t)
	publish(t, term, publication("c1", policies(t, 1, 1)))
	for _, number := range []string{"999998999998", "999999000000"} {
		server.Ctl("put", "/hfi/history/"+number, `{"commit":"foreign"}`)
	}
	eventually(t, "the foreign entries are seen", func() (seen bool) {
		inspect(t, a, func(tracker *tracker) { seen = len(tracker.cache.history.numbers) == 3 })
		return seen
	})
	if history := a.View().History; len(history) != 1 || history[0].Commit != "c1" {
		t.Errorf("the foreign entries are in the history: %+v", history)
	}
	for i := 2; i <= 3; i++ {
		publish(t, term, publication(fmt.Sprintf("c%d", i), policies(t, 1, i)))
	}
	var commits []string
	for _, entry := range a.View().History {
		commits = append(commits, entry.Commit)
	}
	if want := []string{"c3", "c2", "c1"}; !slices.Equal(commits, want) {
		t.Errorf("the history is %v, want %v", commits, want)
	}
	if left := server.Ctl("get", "--prefix", "--keys-only", "/hfi/history/9"); left != "" {
		t.Errorf("foreign entries are left: %s", left)
	}
}

// No head is signed for a key that does not exist: it would have no create
// revision, and look like one that somebody put back.
func TestNoHeadIsPlannedWithoutItsKey(t *testing.T) {
	tracker := &tracker{cache: newCache("/hfi/", "a", testKeys)}
	if _, err := tracker.plan(time.Now(), publication("c1", policies(t, 1, 1)), clientv3.Op{}, maxOps); !errors.Is(err, errHeadMoved) {
		t.Errorf("error %v", err)
	}
}
