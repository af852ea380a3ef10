package e2e

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
)

// lease is how long a leader that was killed still counts as one.
const lease = 5 * time.Second

// shared is what every replica's status says alike. Each sees etcd and the
// drift with its own eyes, and at its own times; last_seen_at and
// last_success_at move at every look and reach a follower with the next report.
func shared(status any) string {
	all := fields{}
	for _, part := range []string{
		"source.url", "source.branch", "source.path", "source.reachable", "source.last_attempted_revision", "source.error", "source.errors", "source.warnings",
		"etcd.mode", "etcd.endpoints", "etcd.healthy", "sync.status", "sync.message", "sync.last_applied_revision", "sync.served_from",
		"drift.status", "drift.total", "drift.items", "drift.mode", "filters", "history", "conditions",
	} {
		all[part] = at(status, part)
	}
	text, err := json.Marshal(all)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Two daemons on one etcd: one leads, both answer alike, a trigger reaches the
// leader through either, a stop hands over at once, and a kill within the
// lease (C1, C5, promise 3).
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	repo := gittest.New(t)
	first := commit(repo, "One", files(500, "a"))
	// Over HTTP and hourly: nothing is seen of a push unless somebody tells.
	url := gittest.ServeHTTP(t, repo, gittest.HTTP{}).URL
	one := hfidtest.Run(t, url, "--interval", "1h", "--etcd-endpoints", server.Endpoint, "--replica-id", "one")
	one.WaitSynced(first)
	two := hfidtest.Run(t, url, "--interval", "1h", "--etcd-endpoints", server.Endpoint, "--replica-id", "two")
	two.WaitSynced(first)

	alike := func(what string, want fields) {
		t.Helper()
		// What the leader has just found out takes a moment to reach the other.
		for deadline := time.Now().Add(hfidtest.Patience / 3); ; time.Sleep(20 * time.Millisecond) {
			a := seeStatus(t, one, what, want.with(fields{"replica.id": "one", "replica.role": "leader", "replica.leader": "one", "source.url": url}))
			b := seeStatus(t, two, what, want.with(fields{"replica.id": "two", "replica.role": "follower", "replica.leader": "one", "source.url": url}))
			x, y := shared(a)+served(one), shared(b)+served(two)
			if x == y {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the answers differ:\nleader   %s\nfollower %s", what, x, y)
			}
		}
	}
	alike("synced", synced(first, 1))

	second := commit(repo, "Two", files(500, "a", "b"))
	if answer := two.Post("/v1/reconcile"); answer.Status != 202 {
		t.Errorf("POST /v1/reconcile to the follower: %d: %s", answer.Status, answer.Body)
	}
	alike("told through the follower", synced(second, 2))

	bad := commit(repo, "Bad", map[string]string{file("c"): "metadata: {name: c}\n"})
	if answer := two.Post("/v1/webhook"); answer.Status != 202 {
		t.Errorf("POST /v1/webhook to the follower: %d: %s", answer.Status, answer.Body)
	}
	alike("invalid", fields{"source.last_attempted_revision.commit": bad, "conditions.Stalled.reason": "InvalidCommit", "history.0.outcome": "Invalid", "source.errors.#": 1})

	server.Ctl("put", "/hfi/policies/stray", "{}")
	alike("drifted", fields{"drift.status": "Detected", "drift.total": 1, "drift.items.0.kind": "Extra"})
	server.Ctl("del", "/hfi/policies/stray")

	// A graceful stop hands over at once: in less than the lease, which a stop need not wait out.
	transitions := at(seeStatus(t, two, "before the stop", fields{"drift.status": "None", "conditions.Stalled.status": "True"}), "conditions.Stalled.last_transition_time")
	one.Stop()
	began := time.Now()
	seeWithin(t, two, "handed over", "/v1/status", fields{"replica.role": "leader", "replica.leader": "two"}, hfidtest.Patience)
	if took := time.Since(began); took > lease*3/5 {
		t.Errorf("a graceful hand-over took %s of a lease of %s", took, lease)
	}
	// The new leader finds the same, and does not pretend that it began now.
	seeStatus(t, two, "the new leader", fields{
		"conditions.Stalled.reason": "InvalidCommit", "conditions.Stalled.last_transition_time": transitions, "history.#": 3, "sync.last_applied_revision.commit": second,
	})

	// Killed, the leader is replaced once its lease is over.
	one.Start()
	one.WaitReady()
	see(t, one, "back as a follower", "/v1/status", fields{"replica.role": "follower", "replica.leader": "two"})
	two.Kill()
	began = time.Now()
	see(t, one, "after the kill", "/v1/status", fields{"replica.role": "leader", "replica.leader": "one"})
	if took := time.Since(began); took > 3*lease {
		t.Errorf("the hand-over after a kill took %s of a lease of %s", took, lease)
	}
	mended := commit(repo, "Mend", map[string]string{file("c"): delay("c", "c", 5)})
	one.Post("/v1/reconcile")
	seeStatus(t, one, "led on", synced(mended, 3))
	two.Start()
	alike("both again", synced(mended, 3))
}
