// Package chaos kills the daemon at random times, while commits of all kinds are pushed and
// another client writes to its etcd, and checks what the daemon serves. The expected
// results come from the stock git, cue and etcdctl.
package chaos

import (
	"context"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

func TestMain(m *testing.M) { os.Exit(hfidtest.Main(m)) }

// TestNothingButWholeValidCommitsIsServed checks that the daemon always serves the exact set of
// one valid commit, in the order of the branch, for any commits, writes to etcd and kills. At
// the end git, etcd and the served set must agree.
func TestNothingButWholeValidCommitsIsServed(t *testing.T) {
	kills := 8
	if testtool.Slow() {
		kills = 100
	}
	kills = int(setting(t, "HFI_CHAOS_KILLS", int64(kills)))
	seed := setting(t, "HFI_CHAOS_SEED", time.Now().UnixNano())
	t.Logf("%d kills; to repeat it: HFI_CHAOS_KILLS=%d HFI_CHAOS_SEED=%d", kills, kills, seed)
	random := rand.New(rand.NewPCG(uint64(seed), 0))

	script := &transcript{begun: time.Now()}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what happened (seed %d):\n%s", seed, script)
		}
	})
	repo := gittest.New(t)
	began := time.Now()
	oracle := newOracle(t, repo, random, 20+kills/2)
	t.Logf("cue validated %d trees, %d of them valid, in %s", len(oracle.trees), len(oracle.valid), time.Since(began).Round(time.Millisecond))
	branch := &branch{t: t, repo: repo, oracle: oracle, random: random, script: script}
	branch.first()
	daemon := hfidtest.New(t, repo.Bare())
	// Build before the first kill.
	hfidtest.Binary(t)
	watch := startObserver(t, daemon, oracle, branch, script)
	w := &world{t: t, daemon: daemon, branch: branch, oracle: oracle, watch: watch, random: random, script: script}
	w.etcdWriter = newEtcdWriter(t, daemon, oracle, random, script)

	for kill := range kills {
		w.runOnce(kill)
		if watch.failed() {
			break
		}
	}
	w.end()
	watch.stop()
	seen, valid := watch.distinct(), branch.validPushed()
	t.Logf("%d kills, %d refs pushed, %d of them valid; %d different commits seen in %d answers; etcd was modified %d times; %s in all",
		kills, branch.length(), valid, seen, watch.answers.Load(), w.etcdWriter.writes, time.Since(script.begun).Round(time.Second))
	if !t.Failed() && seen < kills/4 {
		t.Errorf("only %d different commits were seen: the daemon hardly ran", seen)
	}
}

func setting(t *testing.T, name string, value int64) int64 {
	text := os.Getenv(name)
	if text == "" {
		return value
	}
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, text)
	}
	return value
}

// world is the state of the test.
type world struct {
	t          *testing.T
	daemon     *hfidtest.Daemon
	branch     *branch
	oracle     *oracle
	watch      *observer
	etcdWriter *etcdWriter
	random     *rand.Rand
	script     *transcript
}

func (w *world) chance(percent int) bool { return w.random.IntN(100) < percent }

func (w *world) upTo(limit time.Duration) time.Duration {
	return time.Duration(w.random.Int64N(int64(limit)))
}

// runOnce runs the daemon once, from its start to its SIGKILL.
func (w *world) runOnce(number int) {
	w.t.Helper()
	// A daemon that has not seen a valid commit yet has nothing to serve.
	virgin := number == 0
	if w.chance(30) && !virgin {
		w.branch.move() // While the daemon is down.
	}
	mode := "report"
	if w.chance(40) {
		mode = "heal"
	}
	w.script.note("start %d, --drift %s", number+1, mode)
	w.daemon.Start("--drift", mode)
	if w.chance(25) && !virgin {
		// Kill it during its start.
		w.killAfter(w.upTo(800*time.Millisecond), func() {
			if w.chance(50) {
				w.branch.move()
			}
		})
		return
	}
	began := time.Now()
	w.daemon.WaitReady()
	w.script.note("ready after %s", time.Since(began).Round(time.Millisecond))
	for range w.random.IntN(3) {
		w.act()
	}
	if w.chance(50) {
		// Kill it after it has done its work, if there is any.
		w.watch.awaitCommit(w.branch.tip(), 1500*time.Millisecond)
	}
	w.killAfter(w.upTo(500*time.Millisecond), func() {
		for range 1 + w.random.IntN(4) {
			w.act()
			time.Sleep(w.upTo(30 * time.Millisecond)) // the kill comes at any moment of this
		}
	})
}

// act moves the branch, writes to etcd, or runs git gc.
func (w *world) act() {
	switch draw := w.random.IntN(100); {
	case draw < 55:
		w.branch.move()
	case draw < 95:
		w.etcdWriter.write()
	default:
		w.script.note("git gc")
		w.branch.repo.Server("gc", "-q")
	}
}

// killAfter kills the daemon after a while, concurrently with other actions.
func (w *world) killAfter(wait time.Duration, actions func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(wait) // a random time
		w.daemon.Kill()
		w.script.note("SIGKILL")
	}()
	// Wait for the kill even if the actions end the test.
	defer func() { <-done }()
	actions()
}

// end kills the daemon once more while it applies a last commit, and then checks the final state.
func (w *world) end() {
	w.t.Helper()
	w.script.note("the end begins")
	w.daemon.Start()
	w.daemon.WaitReady()
	last := w.branch.last()
	w.killAfter(w.upTo(60*time.Millisecond), func() {})
	w.daemon.Start()
	w.daemon.WaitReady()
	status := w.daemon.WaitSynced(last)
	if status.Drift.Status != api.DriftNone || len(status.Source.Errors) > 0 {
		w.t.Errorf("synced, with drift %s and %d errors", status.Drift.Status, len(status.Source.Errors))
	}
	if tip := w.branch.repo.Server("rev-parse", "main"); tip != last {
		w.t.Fatalf("the branch is at %s, not at %s: the test is wrong", tip, last)
	}
	want := w.oracle.expected(w.branch.tree(last))
	answer, err := w.daemon.Ask(context.Background(), http.MethodGet, "/v1/policies", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	served, err := readAnswer(answer)
	if err != nil {
		w.t.Fatal(err)
	}
	if served.commit != last || served.set != want {
		w.t.Errorf("git is at %s, but the daemon serves %s with %s", last, served.commit, served.set.differences(want))
	}
	commit, stored := etcdHolds(w.t, w.daemon)
	if commit != last || stored != want {
		w.t.Errorf("git is at %s, but etcd has %s with %s", last, commit, stored.differences(want))
	}
}
