package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// After etcd is wiped, the leader begins an epoch with a higher number; what was
// verified before is served until the next publication.
func TestAWipedEtcdIsANewEpoch(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	first := publish(t, term, publication("c1", policies(t, 5, 100)))
	eventually(t, "the follower has the state", func() bool { return b.View().State != nil })
	server.Kill()
	server.Wipe()
	server.Restart()
	<-term.Done()
	for _, s := range []*Store{a, b} {
		eventually(t, "the wipe is seen on "+s.ID, func() bool { d := s.View().Drift; return d.Status == api.DriftDetected && !s.View().HeadVerified })
		if s.View().State.Revision != first.Revision {
			t.Errorf("%s serves %s", s.ID, s.View().State.Revision)
		}
	}
	term = campaign(t, b)
	eventually(t, "the head is missing", func() bool {
		d := b.View().Drift
		return d.Total > 0 && d.Items[0].Key == "/hfi/head" && d.Items[0].Kind == api.Missing
	})
	second := publish(t, term, publication("c1", policies(t, 5, 100)))
	if second.Revision.Epoch.Number != first.Revision.Epoch.Number+1 || !first.Revision.Before(second.Revision) {
		t.Errorf("after %s came %s", first.Revision, second.Revision)
	}
	eventually(t, "the other replica follows", func() bool { return serves(a, second)() && a.View().HeadVerified })
}

// A follower that knows a later epoch than the leader announces it, and the
// leader begins one later still.
func TestAFollowerAnnouncesALaterEpoch(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	forgetful := openStore(t, externalStore("forgetful", server.Endpoint))
	term := campaign(t, forgetful)
	publish(t, term, publication("c1", policies(t, 3, 1)))
	known := externalStore("known", server.Endpoint)
	known.Known = reconciler.Revision{Epoch: reconciler.Epoch{Number: 7, ID: "before"}, Number: 1000}
	openStore(t, known)
	eventually(t, "the leader learns that it must publish in another epoch", func() bool { return !forgetful.View().HeadVerified })
	if known.View().State != nil {
		t.Errorf("the state is %s, which is older than the known one", known.View().State.Revision)
	}
	state := publish(t, term, publication("c1", policies(t, 3, 1)))
	if state.Revision.Epoch.Number != 8 {
		t.Errorf("the epoch is %d", state.Revision.Epoch.Number)
	}
	eventually(t, "the follower has the state", func() bool { s := known.View().State; return s != nil && s.Revision == state.Revision })
}

// An epoch that is superseded while a publication is under way is followed by
// another one within that publication.
func TestAnEpochSupersededDuringAPublication(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	a := openStore(t, externalStore("a", server.Endpoint))
	term := campaign(t, a)
	publish(t, term, publication("c1", policies(t, 3, 1)))
	a.afterPlan = func() {
		a.afterPlan = nil
		server.Ctl("put", "/hfi/epoch-floor", a.signer().encodeFloor(41))
		eventually(t, "the announcement is seen", func() bool { return !a.View().HeadVerified })
	}
	if state := publish(t, term, publication("c2", policies(t, 4, 1))); state.Revision.Epoch.Number != 42 {
		t.Errorf("published in %s", state.Revision)
	}
}

// An etcd restored from a backup has lost revisions: nothing older is served,
// and the next publication is of a later epoch.
func TestARestoredEtcdIsANewEpoch(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	a := openStore(t, externalStore("a", server.Endpoint))
	term := campaign(t, a)
	publish(t, term, publication("c1", policies(t, 5, 100)))
	backup := t.TempDir() + "/backup"
	server.Kill()
	copyFolder(t, server.Folder, backup)
	server.Restart()
	term = lead(t, a, term)
	for i := range 20 {
		publish(t, term, publication(fmt.Sprint("c", i+2), policies(t, 5, 200+i)))
	}
	last := a.View().State
	server.Kill()
	server.Wipe()
	copyFolder(t, backup, server.Folder)
	server.Restart()
	eventually(t, "the lost revisions are noticed", func() bool { return !a.View().HeadVerified })
	if a.View().State != last {
		t.Errorf("serves %s after %s", a.View().State.Revision, last.Revision)
	}
	// A process that starts now knows from its disk which revision it has served.
	restarted := externalStore("restarted", server.Endpoint)
	restarted.Known = last.Revision
	openStore(t, restarted)
	eventually(t, "the restarted replica has read etcd", func() bool { return restarted.View().Health.Healthy })
	if state := restarted.View().State; state != nil {
		t.Errorf("a restarted replica serves %s after %s", state.Revision, last.Revision)
	}
	state := publish(t, lead(t, a, term), publication("c21", last.Set))
	if !last.Revision.Before(state.Revision) || state.Revision.Epoch == last.Revision.Epoch {
		t.Errorf("after %s came %s", last.Revision, state.Revision)
	}
	eventually(t, "the other replica follows", func() bool { s := restarted.View().State; return s != nil && s.Revision == state.Revision })
}

// If a watch was interrupted, and the revision at which it would continue was
// compacted away meanwhile, everything is read again, and the newest state is served.
func TestAReplicaCatchesUpAfterACompaction(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	term := campaign(t, openStore(t, externalStore("a", server.Endpoint)))
	link := newLink(t, server.Endpoint)
	b := externalStore("b", link.endpoint)
	// The probe would notice too, but this test is about the watch.
	b.ProbeInterval = time.Hour
	log := &logbook{}
	b.logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	openStore(t, b)
	first := publish(t, term, publication("c1", policies(t, 5, 100)))
	eventually(t, "the follower has the state", serves(b, first))
	var followed *cache
	inspect(t, b, func(tracker *tracker) { followed = tracker.cache })

	link.Cut()
	var last *reconciler.State
	for i := range 5 {
		last = publish(t, term, publication(fmt.Sprint("c", i+2), policies(t, 6+i, 200+i)))
	}
	server.Ctl("compact", fmt.Sprint(last.Revision.Number))
	if b.View().State.Revision != first.Revision {
		t.Fatalf("cut off, it serves %s: the link is not cut", b.View().State.Revision)
	}
	link.Restore()
	eventually(t, "the follower catches up without another publication", serves(b, last))
	if text := log.String(); !strings.Contains(text, "required revision has been compacted") {
		t.Errorf("the watch did not meet the compaction:\n%s", text)
	}
	inspect(t, b, func(tracker *tracker) {
		if tracker.cache == followed {
			t.Error("etcd was not read again: the watch lost nothing")
		}
	})
	newer := publish(t, term, publication("c9", policies(t, 4, 1)))
	eventually(t, "the follower continues", serves(b, newer))
}

// If a cluster has compacted the head's revision away, the current keys are
// served if they have the head's digest; else nothing is until the leader publishes.
func TestAClusterCompactedPastTheHead(t *testing.T) {
	t.Parallel()
	server, a, _, term := pair(t)
	first := publish(t, term, publication("c1", policies(t, 5, 100)))
	server.Ctl("put", "/elsewhere", "1")
	server.Ctl("put", "/elsewhere", "2")
	server.Ctl("compact", fmt.Sprint(first.Revision.Number+2))
	fresh := openStore(t, externalStore("fresh", server.Endpoint))
	eventually(t, "the current keys are served", func() bool { s := fresh.View().State; return s != nil && s.Revision == first.Revision })

	server.Ctl("put", "/hfi/policies/foreign", string(policy(t, "foreign", 1).Canonical))
	server.Ctl("put", "/elsewhere", "3")
	server.Ctl("compact", fmt.Sprint(first.Revision.Number+4))
	late := openStore(t, externalStore("late", server.Endpoint))
	eventually(t, "the keys have been read", func() bool { return late.View().Health.Healthy && late.Leader() == "a" })
	if late.View().State != nil || late.View().HeadVerified {
		t.Errorf("drifted keys are served: %+v", late.View().State)
	}
	again := publish(t, term, reconciler.Publication{Commit: "c1", Set: a.View().State.Set})
	eventually(t, "the repair is served", func() bool { s := late.View().State; return s != nil && s.Revision == again.Revision })
}

// The leader of an embedded server compacts up to the head's revision and no
// further: it stays readable, and a watch can start after it.
func TestTheLeaderNeverCompactsPastTheHead(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	s := embeddedStore(t, folder)
	s.CompactInterval, s.CompactRevisions = 50*time.Millisecond, 1000
	openStore(t, s)
	term := campaign(t, s)
	endpoint := s.View().Health.Endpoints[0]
	get := func(revision int64) error {
		_, err := etcdtest.Ctl(t, "--endpoints", endpoint, "get", "/hfi/head", "--rev", fmt.Sprint(revision))
		return err
	}
	var before *reconciler.State
	for i := range 5 {
		state := publish(t, term, publication(fmt.Sprint("c", i), policies(t, 3, i+1)))
		for j := range 5 {
			if err := term.Report(testContext(t), &reconciler.LeaderReport{Leader: fmt.Sprint(j)}); err != nil {
				t.Fatal(err)
			}
		}
		if before != nil {
			eventually(t, "the revisions before the head are compacted", func() bool { return get(before.Revision.Number) != nil })
		}
		time.Sleep(150 * time.Millisecond) // several more rounds of compaction
		if err := get(state.Revision.Number); err != nil {
			t.Fatalf("the head's own revision is gone: %v", err)
		}
		fresh := New(DefaultPrefix, "fresh", quiet())
		fresh.StateKeys = testKeys
		fresh.Access.Endpoints = []string{endpoint}
		openStore(t, fresh)
		eventually(t, "a fresh replica reads at the head and watches from there", func() bool {
			f := fresh.View().LeaderReport
			return serves(fresh, state)() && f != nil && f.Leader == "4"
		})
		before = state
	}
}

// Without commits the head is written again as the leader's reports pile up, so
// that they can be compacted; while there is drift it is not.
func TestTheHeadMovesWithoutCommits(t *testing.T) {
	t.Parallel()
	s := embeddedStore(t, t.TempDir())
	s.CompactInterval, s.CompactRevisions = 20*time.Millisecond, 10
	openStore(t, s)
	term := campaign(t, s)
	state := publish(t, term, publication("c1", policies(t, 3, 1)))
	report := func() {
		for range 40 {
			if err := term.Report(testContext(t), &reconciler.LeaderReport{Leader: "a"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	report()
	eventually(t, "the head has moved", func() bool { return state.Revision.Before(s.View().State.Revision) })
	if moved := s.View().State; !sameHead(moved.Head, state.Head) || moved.Set != state.Set {
		t.Errorf("the head changed on its way: %+v", moved.Head)
	}
	endpoint := s.View().Health.Endpoints[0]
	if _, err := etcdtest.Ctl(t, "--endpoints", endpoint, "put", "/hfi/policies/foreign", "x"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "drift is seen", seen(s, api.DriftDetected))
	before := s.View().State
	report()
	time.Sleep(200 * time.Millisecond) // ten rounds, in which the head must not move
	if s.View().State != before || s.View().Drift.Total != 1 {
		t.Errorf("with drift the head moved to %s", s.View().State.Revision)
	}
}

// An etcd that hangs is noticed within about the probe's timeout; the state
// stays, and everything continues when etcd does.
func TestAFrozenEtcdIsNoticed(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	a := externalStore("a", server.Endpoint)
	a.ProbeTimeout = 500 * time.Millisecond
	openStore(t, a)
	term := campaign(t, a)
	state := publish(t, term, publication("c1", policies(t, 5, 100)))
	server.Freeze()
	began := time.Now()
	eventually(t, "etcd's silence is noticed", func() bool { return !a.View().Health.Healthy })
	t.Logf("noticed after %s", time.Since(began))
	if health := a.View().Health; !strings.Contains(health.Error, "did not answer in time") || health.LastSeenAt == nil {
		t.Errorf("health: %+v", health)
	}
	if a.View().State != state || a.View().Drift.Status != api.DriftUnknown {
		t.Errorf("while etcd is silent: %+v, drift %s", a.View().State, a.View().Drift.Status)
	}
	time.Sleep(max(0, 8*time.Second-time.Since(began))) // frozen for longer than a lease lasts
	server.Thaw()
	eventually(t, "etcd is healthy again", func() bool { return a.View().Health.Healthy })
	publish(t, lead(t, a, term), publication("c2", policies(t, 6, 100)))
}

// If etcd is away at the start, Open returns anyway, and etcd is found when it comes.
func TestEtcdAwayAtTheStart(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Kill()
	a := externalStore("a", server.Endpoint)
	began := time.Now()
	openStore(t, a)
	if time.Since(began) > waitLimit/2 {
		t.Errorf("Open took %s", time.Since(began))
	}
	eventually(t, "the reason is in the health", func() bool { return strings.Contains(a.View().Health.Error, "nothing listens") })
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := a.Campaign(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("campaigning without etcd: %v", err)
	}
	server.Restart()
	publish(t, campaign(t, a), publication("c1", policies(t, 5, 100)))
}

// A full database refuses writes, with an error that says what to do; the state
// stays served. Every replica sees the alarm, one that starts later too, which
// nobody can lead then: what the last leader reported is not current.
func TestAFullEtcdSaysWhatToDo(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.WithArguments("--quota-backend-bytes", "2000000"))
	a := openStore(t, externalStore("a", server.Endpoint))
	term := campaign(t, a)
	publish(t, term, publication("c1", policies(t, 100, 100)))
	if err := term.Report(testContext(t), &reconciler.LeaderReport{Leader: "a"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the report is current", func() bool { return a.View().ReportCurrent })
	var err error
	sets := map[string]*schema.Set{}
	for i := 2; i < 1000 && err == nil; i++ {
		commit := fmt.Sprint("c", i)
		// Few enough policies for one transaction: etcd has the whole set, or nothing of it.
		sets[commit] = policies(t, 100, i+200)
		_, err = term.Publish(testContext(t), publication(commit, sets[commit]))
	}
	if err == nil || !strings.Contains(err.Error(), "database is full") {
		t.Errorf("publishing into a full etcd: %v", err)
	}
	// etcd commits the transaction that exceeds the quota, and answers that there is no
	// space all the same. So the refused set may be the one in etcd.
	var head struct{ Commit string }
	if err := json.Unmarshal([]byte(server.Ctl("get", "/hfi/head", "--print-value-only")), &head); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the set in etcd is served", func() bool {
		state := a.View().State
		return state.Head.Commit == head.Commit && state.Set.Digest() == sets[head.Commit].Digest()
	})

	b := openStore(t, externalStore("b", server.Endpoint))
	alarmed := func(s *Store) func() bool {
		return func() bool {
			h := s.View().Health
			return slices.Equal(h.Alarms, []string{"NOSPACE"}) && strings.Contains(h.Error, "database is full")
		}
	}
	eventually(t, "the leader sees the alarm", alarmed(a))
	eventually(t, "the follower sees the alarm", alarmed(b))
	if err := term.Resign(testContext(t)); err != nil {
		t.Error(err)
	}
	c := openStore(t, externalStore("c", server.Endpoint))
	eventually(t, "a replica that starts sees the alarm", alarmed(c))
	eventually(t, "a replica that starts has the state", func() bool { return c.View().State != nil })
	eventually(t, "nobody leads, and the report is of the past", func() bool {
		view := c.View()
		return view.Leader == "" && !view.ReportCurrent && view.LeaderReport != nil
	})
}

// A head with a digest of another version is neither served nor drift.
func TestAHeadOfAnotherVersionIsNoDrift(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	state := publish(t, term, publication("c1", policies(t, 5, 100)))
	eventually(t, "the follower has the state", func() bool { return b.View().State != nil })
	var later string
	inspect(t, a, func(tracker *tracker) {
		later = a.signer().encodeHead(reconciler.Head{Commit: "c2", Digest: "v99:00ff", Count: 5}, tracker.epoch.value, tracker.cache.head)
	})
	server.Ctl("put", "/hfi/head", later)
	eventually(t, "the head is seen", func() bool { return !b.View().HeadVerified })
	if b.View().State.Revision != state.Revision || b.View().Drift.Status != api.DriftUnknown {
		t.Errorf("state %s, drift %+v", b.View().State.Revision, b.View().Drift)
	}
	again := publish(t, term, publication("c1", a.View().State.Set))
	eventually(t, "the leader's own version is served", func() bool { return serves(b, again)() && b.View().HeadVerified })
}

// Without the epoch's key a replica that starts cannot verify the head: so the
// head counts as not verified, and publishing again restores the key.
func TestALostEpochKeyIsRestored(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	publish(t, term, publication("c1", policies(t, 3, 1)))
	eventually(t, "the follower has it", func() bool { return b.View().HeadVerified })
	server.Ctl("del", "/hfi/epoch")
	for _, s := range []*Store{a, b} {
		eventually(t, "the loss is seen on "+s.ID, func() bool { return !s.View().HeadVerified })
	}
	restored := publish(t, term, reconciler.Publication{Commit: "c1", Set: policies(t, 3, 1)})
	c := openStore(t, externalStore("c", server.Endpoint))
	for _, s := range []*Store{a, b, c} {
		eventually(t, s.ID+" has verified the head", func() bool { return serves(s, restored)() && s.View().HeadVerified })
	}
}
