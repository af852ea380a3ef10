package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// lease is how long a killed leader remains the leader. etcd notices the end of a
// lease within half a second; grace allows for a busy machine.
const lease, grace = 5 * time.Second, 25 * time.Second

// shared has the fields that must be equal in every replica's status. Each replica
// observes etcd and the start of drift itself; last_seen_at and last_success_at
// change at every fetch, and reach a follower with the next report.
func shared(status any) string {
	all := fields{}
	for _, part := range []string{
		"source.url", "source.branch", "source.path", "source.reachable", "source.last_attempted_revision", "source.error", "source.errors", "source.warnings",
		"etcd.mode", "etcd.endpoints", "etcd.healthy", "sync.status", "sync.message", "sync.last_applied_revision", "sync.served_from",
		"drift.status", "drift.total", "drift.items", "drift.mode", "drift.heal", "filters", "history", "conditions",
	} {
		all[part] = at(status, part)
	}
	text, err := json.Marshal(all)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// strayTimes returns the times of a follower that cannot be right: of fetches that
// its leader has not made, or of another drift.
func strayTimes(leader, follower any) (all []string) {
	for _, where := range []string{"source.last_seen_at", "sync.last_success_at"} {
		if theirs, ours := timeAt(leader, where), timeAt(follower, where); ours.IsZero() != theirs.IsZero() || ours.After(theirs) {
			all = append(all, fmt.Sprintf("%s is %s, the leader's %s", where, ours, theirs))
		}
	}
	theirs, ours := timeAt(leader, "drift.since"), timeAt(follower, "drift.since")
	if apart := ours.Sub(theirs).Abs(); ours.IsZero() != theirs.IsZero() || apart > 5*time.Second {
		all = append(all, fmt.Sprintf("drift.since is %s, the leader's %s", ours, theirs))
	}
	return all
}

// timeAt returns the time at a path of a response, or zero.
func timeAt(answer any, where string) time.Time {
	moment, _ := time.Parse(time.RFC3339Nano, textAt(answer, where))
	return moment
}

// alike waits until two replicas respond with the same, expected fields. News of
// the leader takes a moment to reach the other.
func alike(t *testing.T, leader, follower *hfidtest.Daemon, what string, want fields) {
	t.Helper()
	testtool.Within(t, testtool.WaitLimit, what, func() error {
		a := seeStatus(t, leader, what, want.with(fields{"replica.id": "one", "replica.role": "leader", "replica.leader": "one", "etcd.last_seen_at": present}))
		b := seeStatus(t, follower, what, want.with(fields{"replica.id": "two", "replica.role": "follower", "replica.leader": "one", "etcd.last_seen_at": present}))
		x, y := shared(a)+served(leader), shared(b)+served(follower)
		// The leader may have fetched again before the other was asked, so ask it again.
		wrong := strayTimes(seeStatus(t, leader, what, fields{}), b)
		if x != y || len(wrong) > 0 {
			return fmt.Errorf("the responses differ:\nleader   %s\nfollower %s\n%s", x, y, strings.Join(wrong, "\n"))
		}
		return nil
	})
}

// Two daemons on one etcd: one leads, both respond alike, a trigger reaches the
// leader through either, a stop hands leadership over at once, and a kill within
// the lease.
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	repo := gittest.New(t)
	first := commit(repo, "One", files(500, "a"))
	// Over HTTP and polled hourly: a push is not noticed without a trigger.
	url := gittest.ServeHTTP(t, repo, gittest.HTTP{}).URL
	one := hfidtest.Run(t, url, "--interval", "1h", "--etcd-endpoints", server.Endpoint, "--replica-id", "one")
	one.WaitSynced(first)
	two := hfidtest.Run(t, url, "--interval", "1h", "--etcd-endpoints", server.Endpoint, "--replica-id", "two")
	two.WaitSynced(first)

	alike(t, one, two, "synced", synced(first, 1).with(fields{"source.url": url, "drift.heal": absent}))

	began := time.Now()
	second := commit(repo, "Two", files(500, "a", "b"))
	if answer := two.Post("/v1/reconcile"); answer.Status != 202 {
		t.Errorf("POST /v1/reconcile to the follower: %d: %s", answer.Status, answer.Body)
	}
	alike(t, one, two, "triggered through the follower", synced(second, 2).with(fields{
		"source.url": url, "source.last_seen_at": since(began), "sync.last_success_at": since(began), "sync.last_applied_revision.at": since(began),
	}))

	began = time.Now()
	bad := commit(repo, "Bad", map[string]string{file("c"): "metadata: {name: c}\n"})
	if answer := two.Post("/v1/webhook"); answer.Status != 202 {
		t.Errorf("POST /v1/webhook to the follower: %d: %s", answer.Status, answer.Body)
	}
	alike(t, one, two, "invalid", fields{
		"source.url": url, "source.last_attempted_revision.commit": bad, "source.last_seen_at": since(began), "sync.last_success_at": until(began),
		"sync.last_applied_revision.commit": second, "conditions.Stalled.reason": "InvalidCommit", "history.0.outcome": "Invalid", "source.errors.#": 1,
	})

	began = time.Now()
	server.Ctl("put", "/hfi/policies/stray", "{}")
	alike(t, one, two, "drifted", fields{"drift.since": since(began), "drift.status": "Detected", "drift.total": 1, "drift.items.0.kind": "Extra"})
	server.Ctl("del", "/hfi/policies/stray")

	// A graceful stop hands over at once, without waiting for the end of the lease.
	transitions := at(seeStatus(t, two, "before the stop", fields{"drift.status": "None", "conditions.Stalled.status": "True"}), "conditions.Stalled.last_transition_time")
	one.Stop()
	if left := strings.Fields(server.Ctl("get", "--prefix", "--keys-only", "/hfi/leader/")); len(left) != 1 {
		t.Errorf("after the stop of one of two replicas, the candidates in etcd are %v", left)
	}
	see(t, two, "handed over", "/v1/status", fields{"replica.role": "leader", "replica.leader": "two"})
	// The new leader reports the same states, with their original times.
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
	if took := time.Since(began); took > lease+grace {
		t.Errorf("the hand-over after a kill took %s of a lease of %s", took, lease)
	}
	fixed := commit(repo, "Fix", map[string]string{file("c"): delay("c", "c", 5)})
	one.Post("/v1/reconcile")
	seeStatus(t, one, "led on", synced(fixed, 3))
	two.Start()
	alike(t, one, two, "both again", synced(fixed, 3))
}

// With --drift heal the leader repairs, and both replicas report the same repair.
func TestReplicasReportARepairAlike(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	repo := gittest.New(t)
	hash := commit(repo, "One", files(500, "a"))
	run := func(id string) *hfidtest.Daemon {
		t.Helper()
		d := hfidtest.Run(t, repo.Bare(), "--drift", "heal", "--etcd-endpoints", server.Endpoint, "--replica-id", id)
		d.WaitSynced(hash)
		return d
	}
	one := run("one")
	two := run("two")
	alike(t, one, two, "synced", synced(hash, 1).with(fields{"drift.mode": "heal", "drift.heal.repairs": 0, "drift.heal.last_at": null}))
	began := time.Now()
	server.Ctl("del", "/hfi/policies/a")
	alike(t, one, two, "repaired", synced(hash, 1).with(fields{
		"drift.mode": "heal", "drift.heal.repairs": 1, "drift.heal.last_at": since(began), "drift.heal.message": absent,
	}))
	wantNames(t, "etcd", keysIn(server.Ctl), "a")
}
