package etcd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/statekey"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// testKeys are those of all replicas of a test, in all its processes.
var testKeys = func() *statekey.Keys {
	k, err := statekey.Open("testdata/state-key")
	if err != nil {
		panic(err)
	}
	return k
}()

// waitLimit bounds every wait of a test; a busy machine takes far less.
const waitLimit = 30 * time.Second

func quiet() *slog.Logger {
	var out io.Writer = io.Discard
	if os.Getenv("HFI_TEST_LOG") != "" {
		out = os.Stderr
	}
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// logbook keeps what is logged.
type logbook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logbook) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	testtool.Eventually(t, what, condition)
}

// serves reports whether a replica's state is that one. A store that was just
// opened may have none yet.
func serves(s *Store, want *reconciler.State) func() bool {
	return func() bool {
		state := s.View().State
		return state != nil && state.Revision == want.Revision
	}
}

// policy is a valid policy with a delay.
func policy(t testing.TB, name string, delay int) *schema.Entry {
	t.Helper()
	parsed, err := schema.Parse(fmt.Appendf(nil, `{"metadata":{"name":%q},"spec":{"selector":{"service":"frontend","namespace":"demo"},"rules":[{"fault":{"delay_ms":%d,"percentage":50}}]}}`, name, delay))
	if err != nil {
		t.Fatal(err)
	}
	return schema.NewEntry(parsed, schema.Origin{File: "policies/" + name + ".yaml", Line: 1, Commit: "c0"})
}

// policies is a set of n policies p00000, p00001, and so on.
func policies(t testing.TB, n, delay int) *schema.Set {
	t.Helper()
	entries := make([]*schema.Entry, 0, n)
	for i := range n {
		entries = append(entries, policy(t, fmt.Sprintf("p%05d", i), delay))
	}
	return schema.NewSet(entries...)
}

func publication(commit string, set *schema.Set) reconciler.Publication {
	return reconciler.Publication{Commit: commit, Set: set, Entry: &api.HistoryEntry{
		Commit: commit, Subject: "subject of " + commit, Digest: set.Digest(), Outcome: api.Applied, At: time.Now().UTC(),
	}}
}

// openStore opens a store and closes it at the test's end.
func openStore(t testing.TB, s *Store) *Store {
	t.Helper()
	if err := s.Open(testContext(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	return s
}

func embeddedStore(t testing.TB, folder string) *Store {
	s := New(DefaultPrefix, "a", quiet())
	s.StateKeys = testKeys
	s.DataDir = folder
	s.Embedded = NewEmbedded(folder, quiet())
	return s
}

func externalStore(id string, endpoints ...string) *Store {
	s := New(DefaultPrefix, id, quiet())
	s.StateKeys = testKeys
	s.Access.Endpoints = endpoints
	s.ProbeInterval = 200 * time.Millisecond
	return s
}

func inspect(t testing.TB, s *Store, f func(*tracker)) {
	t.Helper()
	if err := s.inspect(f); err != nil {
		t.Fatal(err)
	}
}

func campaign(t testing.TB, s *Store) *Term {
	t.Helper()
	term, err := s.Campaign(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return term.(*Term)
}

func publish(t testing.TB, term reconciler.Term, p reconciler.Publication) *reconciler.State {
	t.Helper()
	state, err := term.Publish(testContext(t), p)
	if err != nil {
		t.Fatal(err)
	}
	if state.Head.Commit != p.Commit || state.Set.Digest() != p.Set.Digest() {
		t.Fatalf("published %s %s, and got the state %s %s", p.Commit, p.Set.Digest(), state.Head.Commit, state.Set.Digest())
	}
	return state
}

// lead returns the term if it has not ended (a lease survives a restart of etcd), else a new one.
func lead(t testing.TB, s *Store, term *Term) *Term {
	t.Helper()
	select {
	case <-term.Done():
		return campaign(t, s)
	default:
		return term
	}
}
