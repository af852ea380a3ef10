package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/reconciler"
)

// dump is everything under the prefix, as the stock etcdctl sees it.
func dump(server *etcdtest.Server) string {
	return server.Ctl("get", "--prefix", "/hfi/", "-w", "fields")
}

// depose makes another store lead, and returns the first one's term as it would
// be after a long pause of the process, which has not noticed.
func depose(t *testing.T, server *etcdtest.Server, a, b *Store) (stale, next *Term) {
	t.Helper()
	old := campaign(t, a)
	publish(t, old, publication("c1", policies(t, 3, 100)))
	// A live session represents one whose process has not noticed that its lease is gone.
	session, err := a.newSession(testContext(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	stale = &Term{store: a, session: session, maxOps: maxOps, leader: old.leader, done: make(chan struct{}), triggers: make(chan struct{}, 1)}
	server.Ctl("lease", "revoke", fmt.Sprintf("%x", int64(old.session.lease)))
	return stale, campaign(t, b)
}

// Whatever a deposed leader writes, it changes nothing and gets ErrDeposed.
func TestADeposedLeaderChangesNothing(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC()
	writes := map[string]func(context.Context, *Term) error{
		"a policy added": func(ctx context.Context, term *Term) error {
			_, err := term.Publish(ctx, publication("late", policies(t, 4, 100)))
			return err
		},
		"a policy changed": func(ctx context.Context, term *Term) error {
			_, err := term.Publish(ctx, publication("late", policies(t, 3, 999)))
			return err
		},
		"everything pruned": func(ctx context.Context, term *Term) error {
			_, err := term.Publish(ctx, publication("late", policies(t, 0, 0)))
			return err
		},
		"several transactions": func(ctx context.Context, term *Term) error {
			_, err := term.Publish(ctx, publication("late", policies(t, 300, 1)))
			return err
		},
		"only the head": func(ctx context.Context, term *Term) error {
			_, err := term.Publish(ctx, reconciler.Publication{Commit: "late", Set: policies(t, 3, 100)})
			return err
		},
		"history": func(ctx context.Context, term *Term) error {
			return term.Record(ctx, api.HistoryEntry{Commit: "late", Outcome: api.Invalid, At: now})
		},
		"the report": func(ctx context.Context, term *Term) error {
			return term.Report(ctx, &reconciler.LeaderReport{Leader: "late"})
		},
	}
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.Start(t)
			a, b := openStore(t, externalStore("a", server.Endpoint)), openStore(t, externalStore("b", server.Endpoint))
			old, _ := depose(t, server, a, b)
			before := dump(server)
			ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
			defer cancel()
			if err := write(ctx, old); !errors.Is(err, reconciler.ErrDeposed) {
				t.Errorf("the deposed leader got the error %v", err)
			}
			if after := dump(server); after != before {
				t.Errorf("the deposed leader changed etcd:\n%s\nbecame\n%s", before, after)
			}
		})
	}
}

// The fence in the transaction holds without any other check.
func TestTheFenceHoldsInTheTransactionItself(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	a, b := openStore(t, externalStore("a", server.Endpoint)), openStore(t, externalStore("b", server.Endpoint))
	old, next := depose(t, server, a, b)
	put := clientv3.OpPut("/hfi/head", "x")
	response, err := a.etcd().Txn(testContext(t)).If(fence(old.leader.key, old.leader.revision)).Then(put).Commit()
	if err != nil || response.Succeeded {
		t.Errorf("the old leader's fence let a write through (%v)", err)
	}
	// A key of the same name, created later, is another leadership.
	response, err = a.etcd().Txn(testContext(t)).If(fence(next.leader.key, next.leader.revision-1)).Then(put).Commit()
	if err != nil || response.Succeeded {
		t.Errorf("the fence accepts another leadership's key (%v)", err)
	}
	publish(t, next, publication("c2", policies(t, 5, 1)))
}

// The loss of an earlier leader key, seen late, ends no later term.
func TestTheLossOfAnEarlierKeyEndsNoLaterTerm(t *testing.T) {
	s := New(DefaultPrefix, "a", slog.New(slog.DiscardHandler))
	s.StateKeys = testKeys
	t.Cleanup(func() { _ = s.Close() })
	term := &Term{store: s, leader: termKey{key: "later", revision: 2}, done: make(chan struct{}), triggers: make(chan struct{}, 1)}
	s.term = term
	ended := func() bool {
		select {
		case <-term.done:
			return true
		default:
			return false
		}
	}
	s.perform(effects{endTerm: &termKey{key: "earlier", revision: 1}})
	if ended() {
		t.Error("the later term was ended")
	}
	s.perform(effects{endTerm: &termKey{key: "later", revision: 2}})
	if !ended() {
		t.Error("the term continues without its key")
	}
	s.term = nil
}
