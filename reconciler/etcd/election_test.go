package etcd

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/datadir"
	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/reconciler"
)

// leading is set in the process that the next test starts and kills.
const leading = "HFI_ETCD_TEST_ENDPOINT"

// When a leader is killed, another one leads once its lease has expired: etcd
// notices that within half a second, and the rest is for a busy machine.
func TestAKilledLeaderIsReplacedWithinItsLease(t *testing.T) {
	const lease, grace = 2 * time.Second, 20 * time.Second
	if endpoint := os.Getenv(leading); endpoint != "" {
		a := externalStore("a", endpoint)
		a.LeaseTTL = lease
		publish(t, campaign(t, openStore(t, a)), publication("c1", policies(t, 3, 1)))
		os.Stdout.WriteString("leads\n")
		time.Sleep(time.Minute) // it is killed before
		return
	}
	server := etcdtest.Start(t)
	b := openStore(t, externalStore("b", server.Endpoint))
	child := exec.Command(os.Args[0], "-test.run=^TestAKilledLeaderIsReplacedWithinItsLease$")
	child.Env = append(os.Environ(), leading+"="+server.Endpoint)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other process leads and has published", func() bool { return b.Leader() == "a" && b.View().State != nil })
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_ = child.Wait()
	next := campaign(t, b)
	took := time.Since(began)
	t.Logf("handed over after %s", took)
	if took > lease+grace {
		t.Errorf("the hand-over took %s with a lease of %s", took, lease)
	}
	publish(t, next, publication("c2", policies(t, 3, 2)))
}

// After a graceful stop another replica leads at once.
func TestAStopResignsAtOnce(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	a, b := externalStore("a", server.Endpoint), externalStore("b", server.Endpoint)
	a.LeaseTTL, b.LeaseTTL = time.Minute, time.Minute
	a.DataDir = t.TempDir()
	openStore(t, a)
	openStore(t, b)
	campaign(t, a)
	led := make(chan time.Time, 1)
	go func() {
		if _, err := b.Campaign(testContext(t)); err == nil {
			led <- time.Now()
		}
	}()
	eventually(t, "b is a candidate", func() (both bool) {
		inspect(t, a, func(tracker *tracker) { both = len(tracker.cache.leaders) == 2 })
		return both
	})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-led:
	case <-time.After(waitLimit):
		t.Fatal("after a stop, with a lease of a minute, no other replica led at once")
	}
	if _, err := os.Stat(datadir.Folder(a.DataDir).EtcdLease()); !os.IsNotExist(err) {
		t.Errorf("the lease's file is left behind: %v", err)
	}
}

// A restart does not wait until the lease of the previous process expires.
func TestARestartDoesNotWaitForItsOwnOldLease(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	folder := t.TempDir()
	dead := externalStore("a", server.Endpoint)
	dead.LeaseTTL, dead.DataDir = time.Minute, folder
	openStore(t, dead)
	old := campaign(t, dead)
	// Killed: it neither revokes its lease nor resigns.
	old.session.orphan()
	dead.mu.Lock()
	dead.term = nil
	dead.mu.Unlock()
	again := externalStore("a", server.Endpoint)
	again.LeaseTTL, again.DataDir = time.Minute, folder
	openStore(t, again)
	began := time.Now()
	campaign(t, again)
	if took := time.Since(began); took > waitLimit {
		t.Errorf("led after %s", took)
	}
}

// A trigger that reaches a follower reaches the leader.
func TestATriggerReachesTheLeader(t *testing.T) {
	t.Parallel()
	_, a, b, term := pair(t)
	for i, s := range []*Store{b, a, b} {
		if err := s.Trigger(testContext(t)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-term.Triggers():
		case <-time.After(waitLimit):
			t.Fatalf("trigger %d did not arrive", i)
		}
	}
}

// Deleting the leader's key ends its term; then the next replica leads.
func TestALeaderWhoseKeyIsDeletedStepsDown(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	server.Ctl("del", "--prefix", "/hfi/leader/")
	select {
	case <-term.Done():
	case <-time.After(waitLimit):
		t.Fatal("the term has not ended")
	}
	if _, err := term.Publish(testContext(t), publication("c1", policies(t, 1, 1))); err == nil {
		t.Error("a leader without its key publishes")
	}
	publish(t, campaign(t, b), publication("c1", policies(t, 1, 1)))
	_ = a
}

// Followers read the leader's report, and all replicas see the same history.
func TestTheReportAndTheHistoryReachFollowers(t *testing.T) {
	t.Parallel()
	_, a, b, term := pair(t)
	publish(t, term, publication("c1", policies(t, 3, 1)))
	for i := range 3 {
		if err := term.Report(testContext(t), &reconciler.LeaderReport{Leader: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []*Store{a, b} {
		eventually(t, "the report is on "+s.ID, func() bool { f := s.View().LeaderReport; return f != nil && f.Leader == "2" })
		eventually(t, "the history is on "+s.ID, func() bool { h := s.View().History; return len(h) == 1 && h[0].Commit == "c1" })
	}
}
