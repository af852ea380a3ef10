package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// synced returns the fields of a daemon that serves git's head, with that number of policies.
func synced(hash string, count int) fields {
	return fields{
		"source.reachable": true, "source.error": null, "source.errors.#": 0, "source.branch": "main", "source.path": "policies",
		"source.last_seen_at": present, "source.last_attempted_revision.commit": hash,
		"source.last_attempted_revision.author": "Ada Tester <ada@example.com>",
		"etcd.healthy":                          true, "etcd.error": absent, "etcd.last_seen_at": present, "etcd.endpoints.#": 1, "etcd.endpoints.0": present,
		"sync.status": "Synced", "sync.message": absent, "sync.last_applied_revision.commit": hash, "sync.last_applied_revision.count": count,
		"sync.last_applied_revision.digest": matches(`^v1:[0-9a-f]{64}$`), "sync.last_success_at": present, "sync.served_from": "etcd",
		"drift.status": "None", "drift.total": 0, "drift.items.#": 0, "drift.since": null,
		"filters.connected": 0, "filters.current": 0, "filters.behind": 0, "filters.items.#": 0,
		"conditions.#": 3, "conditions.Ready.status": "True", "conditions.Ready.reason": "Synced", "conditions.Ready.last_transition_time": present,
		"conditions.Reconciling.status": "False", "conditions.Reconciling.reason": "Idle",
		"conditions.Stalled.status": "False",
	}
}

// A daemon that has just started, on a repository without a commit, reports nothing
// as applied. After the first push git, etcd and the responses agree.
func TestJustStartedThenSynced(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	d := hfidtest.New(t, repo.Bare())
	began := time.Now()
	d.Start()
	seeStatus(t, d, "just started", fields{
		"source.url": repo.Bare(), "source.branch": "main", "source.path": "policies", "source.reachable": true, "source.last_seen_at": null,
		"source.last_attempted_revision": null, "source.error.reason": "RepositoryEmpty", "source.error.message": matches("push branch main"),
		"source.errors.#": 0, "source.warnings.#": 0,
		"etcd.mode": "embedded", "etcd.healthy": true, "etcd.last_seen_at": since(began), "etcd.endpoints.#": 1,
		"sync.status": "OutOfSync", "sync.message": matches("push branch main"), "sync.last_applied_revision": null, "sync.last_success_at": null, "sync.served_from": "",
		"drift.status": "None", "drift.total": 0, "drift.items.#": 0, "drift.since": null, "drift.mode": "report", "drift.heal": absent,
		"filters.connected": 0, "filters.items.#": 0, "history.#": 0,
		"replica.id": "test", "replica.role": "leader", "replica.leader": "test",
		"conditions.#": 3, "conditions.Ready.status": "False", "conditions.Ready.last_transition_time": since(began),
		"conditions.Stalled.status": "True", "conditions.Stalled.reason": "RepositoryEmpty", "conditions.Reconciling.status": "False",
	})
	if answer := d.Get("/health"); answer.Status != 200 {
		t.Errorf("GET /health is %d", answer.Status)
	}
	if answer := d.Get("/ready"); answer.Status != 503 {
		t.Errorf("GET /ready is %d before anything can be served: %s", answer.Status, answer.Body)
	}

	began = time.Now()
	hash := commit(repo, "Two policies", files(500, "frontend", "cart"))
	d.WaitSynced(hash)
	status := seeStatus(t, d, "synced", synced(hash, 2).with(fields{
		"source.url": repo.Bare(), "source.last_seen_at": since(began), "source.last_attempted_revision.subject": "Two policies",
		"source.last_attempted_revision.at": since(began), "etcd.mode": "embedded", "sync.last_applied_revision.at": since(began),
		"sync.last_applied_revision.revision": d.Policies("").Revision, "sync.last_success_at": since(began),
		"conditions.Ready.last_transition_time": since(began), "conditions.Stalled.last_transition_time": since(began),
		"history.#": 1, "history.0.commit": hash, "history.0.author": "Ada Tester <ada@example.com>", "history.0.subject": "Two policies",
		"history.0.outcome": "Applied", "history.0.at": since(began), "history.0.restores": absent,
	}))
	if a, b := textAt(status, "history.0.digest"), textAt(status, "sync.last_applied_revision.digest"); a != b {
		t.Errorf("the history's digest is %s, the applied one %s", a, b)
	}
	var head map[string]any
	if err := json.Unmarshal([]byte(d.Etcdctl("get", "/hfi/head", "--print-value-only")), &head); err != nil {
		t.Fatal(err)
	}
	if head["commit"] != hash || head["digest"] != textAt(status, "history.0.digest") || head["count"] != 2.0 {
		t.Errorf("etcdctl shows the head %v", head)
	}
	wantNames(t, "etcd", keysIn(d.Etcdctl), "cart", "frontend")
	wantNames(t, "served", servedNames(d), "cart", "frontend")
	see(t, d, "one policy", "/v1/policies/cart", fields{"origin.file": file("cart"), "origin.line": 1, "origin.commit": hash})
	see(t, d, "the summary", "/v1/policies/status", fields{
		"summary.total_policies": 2, "summary.abort_policies": 0, "summary.delay_policies": 2, "summary.active_policies": 2,
		"policies.#": 2, "policies.0.name": "cart", "policies.0.namespace": "demo", "policies.0.target_service": "cart",
		"policies.0.rules_count": 1, "policies.0.fault_types.0": "delay", "policies.0.active": true,
	})
	see(t, d, "ready", "/ready", fields{"ready": true, "etcd.healthy": true})
}

// An invalid commit, its correction, a revert, and an outage of git, in one
// process: each field of the status is right at each step.
func TestInvalidRevertedAway(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	first := commit(repo, "Start", files(500, "frontend", "cart"))
	d := hfidtest.Run(t, repo.Bare(), "--interval", "1s")
	d.WaitSynced(first)
	before := served(d)

	// Invalid: one file of three. The valid changes of the commit are not applied either.
	began := time.Now()
	texts := files(900, "frontend", "cart")
	texts[file("broken")] = "metadata:\n  name: broken\nspec:\n  rules:\n    - fault:\n        delay_ms: 5\n        percentage: 150\n"
	bad := commit(repo, "Break it", texts)
	invalid := seeStatus(t, d, "invalid commit", fields{
		"source.reachable": true, "source.error": null, "source.last_attempted_revision.commit": bad, "source.last_attempted_revision.subject": "Break it",
		"source.errors.#": 1, "source.errors_total": 1, "source.errors.0.file": file("broken"), "source.errors.0.line": 7, "source.errors.0.column": present,
		"source.errors.0.field": "spec.rules[0].fault.percentage", "source.errors.0.message": "percentage must be between 0 and 100, not 150",
		"etcd.healthy": true, "sync.status": "OutOfSync", "sync.message": matches(bad[:12]), "sync.last_applied_revision.commit": first,
		"sync.last_success_at": until(began.Add(time.Second)), "sync.served_from": "etcd", "drift.status": "None",
		"conditions.Ready.status": "False", "conditions.Ready.reason": "OutOfSync", "conditions.Ready.last_transition_time": since(began),
		"conditions.Stalled.status": "True", "conditions.Stalled.reason": "InvalidCommit", "conditions.Stalled.last_transition_time": since(began),
		"conditions.Reconciling.status": "False",
		"history.#":                     2, "history.0.commit": bad, "history.0.outcome": "Invalid", "history.0.message": present, "history.0.digest": absent, "history.1.commit": first,
	})
	if after := served(d); after != before {
		t.Errorf("an invalid commit changed the response\nfrom %s\nto   %s", before, after)
	}
	// Polling does not change the time since when the commit is invalid.
	for range 2 {
		seeStatus(t, d, "polled again", fields{"source.last_seen_at": since(time.Now())})
	}
	seeStatus(t, d, "still invalid", fields{
		"history.#": 2, "sync.last_success_at": at(invalid, "sync.last_success_at"), "sync.last_applied_revision": at(invalid, "sync.last_applied_revision"),
		"conditions.Ready.last_transition_time":   at(invalid, "conditions.Ready.last_transition_time"),
		"conditions.Stalled.last_transition_time": at(invalid, "conditions.Stalled.last_transition_time"),
		"source.last_attempted_revision":          at(invalid, "source.last_attempted_revision"),
	})

	// Corrected: the valid changes of the invalid commit are applied now.
	fixed := commit(repo, "Fix it", map[string]string{file("broken"): delay("broken", "broken", 7)})
	seeStatus(t, d, "fixed", synced(fixed, 3).with(fields{"history.#": 3, "history.0.commit": fixed, "history.0.restores": absent}))

	// Rolled back with git revert and a push.
	repo.Git("revert", "--no-edit", fixed)
	repo.Git("revert", "--no-edit", bad)
	back := repo.Head()
	repo.Push()
	status := seeStatus(t, d, "rolled back", synced(back, 2).with(fields{
		"history.#": 4, "history.0.commit": back, "history.0.outcome": "Applied", "history.0.restores": first, "history.0.subject": matches("^Revert"),
	}))
	if now, then := textAt(status, "history.0.digest"), textAt(status, "history.3.digest"); now != then {
		t.Errorf("the digest is %s, but that of the restored state is %s", now, then)
	}
	wantNames(t, "served", servedNames(d), "cart", "frontend")

	// Git unreachable: the repository's folder is renamed.
	away := repo.Bare() + ".away"
	before, began = served(d), time.Now()
	if err := os.Rename(repo.Bare(), away); err != nil {
		t.Fatal(err)
	}
	lost := fields{
		"source.reachable": false, "source.error.reason": "RepositoryMissing", "source.error.message": matches(regexp.QuoteMeta(repo.Bare())),
		"source.error.since": since(began), "source.errors.#": 0,
		"source.last_seen_at": until(began.Add(time.Second)), "source.last_attempted_revision.commit": back,
		"etcd.healthy": true, "etcd.error": absent, "etcd.last_seen_at": present,
		"sync.status": "Unknown", "sync.message": matches("^git cannot be read: "), "sync.last_applied_revision.commit": back, "sync.served_from": "etcd",
		"sync.last_success_at": until(began.Add(time.Second)), "drift.status": "None", "drift.total": 0, "drift.since": null, "history.#": 4,
		"conditions.#": 3, "conditions.Ready.status": "Unknown", "conditions.Ready.reason": "RepositoryMissing", "conditions.Ready.last_transition_time": since(began),
		"conditions.Stalled.status": "True", "conditions.Stalled.reason": "RepositoryMissing", "conditions.Stalled.last_transition_time": since(began),
		"conditions.Reconciling.status": "False", "conditions.Reconciling.reason": "Idle",
	}
	status = seeStatus(t, d, "git away", lost)
	see(t, d, "ready without git", "/ready", fields{"ready": true})
	errors := metric(t, d, "hfi_git_errors_total")
	testtool.Eventually(t, "polling fails again", func() bool { return metric(t, d, "hfi_git_errors_total") > errors })
	seeStatus(t, d, "git still away", lost.with(fields{
		"source.last_seen_at": at(status, "source.last_seen_at"), "source.error.since": at(status, "source.error.since"),
		"sync.last_success_at": at(status, "sync.last_success_at"),
		"conditions.Ready":     at(status, "conditions.Ready"), "conditions.Stalled": at(status, "conditions.Stalled"),
	}))
	if after := served(d); after != before {
		t.Errorf("the outage of git changed the response\nfrom %s\nto   %s", before, after)
	}
	if err := os.Rename(away, repo.Bare()); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	seeStatus(t, d, "git back", synced(back, 2).with(fields{"source.last_seen_at": since(began), "sync.last_success_at": since(began), "history.#": 4}))
	next := commit(repo, "On", files(11, "third"))
	seeStatus(t, d, "a push after the outage", synced(next, 3))
}

// git rm -r of the policy folder removes the policies, though git keeps no empty
// folder; a restart changes nothing in that, and a push brings them back. A folder
// that the repository never had is an error, over a restart too.
func TestTheFolderIsRemoved(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(*gittest.Repo) string{
		"local":  (*gittest.Repo).Bare,
		"remote": func(repo *gittest.Repo) string { return gittest.ServeHTTP(t, repo, gittest.HTTP{}).URL },
	} {
		repo := gittest.New(t)
		full := commit(repo, "Three", files(5, "a", "b", "c"))
		d := hfidtest.Run(t, serve(repo), "--interval", "200ms")
		d.WaitSynced(full)
		repo.Git("rm", "-rq", "policies")
		gone := commit(repo, "Remove all policies", nil)
		empty := synced(gone, 0).with(fields{"source.warnings.#": 1, "history.0.commit": gone, "history.0.outcome": "Applied"})
		seeStatus(t, d, name+": removed", empty)
		d.Restart()
		seeStatus(t, d, name+": restarted", empty)
		back := commit(repo, "Begin again", files(5, "a"))
		seeStatus(t, d, name+": begun again", synced(back, 1))
	}
	repo := gittest.New(t)
	commit(repo, "Elsewhere", map[string]string{"README.md": "x"})
	d := hfidtest.New(t, repo.Bare(), "--interval", "200ms")
	d.Start()
	seeStatus(t, d, "never there", fields{"source.error.reason": "PathMissing", "source.last_attempted_revision.commit": repo.Head()})
}

// The guard stops a push that deletes most policies, until a pushed commit allows
// it. It never stops the revert.
func TestPruneGuardByPushes(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	var names, paths []string
	for i := range 12 {
		names = append(names, fmt.Sprintf("p%02d", i))
		paths = append(paths, file(names[i]))
	}
	full := commit(repo, "Twelve", files(5, names...))
	d := hfidtest.Run(t, repo.Bare(), "--interval", "1s")
	d.WaitSynced(full)

	pruning := repo.Remove("Tidy up", paths[2:]...)
	repo.Push()
	stalled := fields{
		"sync.status": "OutOfSync", "sync.message": matches(`10 of 12 policies.*hfi-allow-prune: true`), "sync.last_applied_revision.commit": full,
		"source.error": null, "source.errors.#": 0, "source.last_attempted_revision.commit": pruning,
		"conditions.Stalled.status": "True", "conditions.Stalled.reason": "PruneRefused", "conditions.Ready.status": "False",
		"history.#": 2, "history.0.commit": pruning, "history.0.outcome": "Refused", "history.0.message": matches("10 of 12"),
	}
	seeStatus(t, d, "refused", stalled)
	wantNames(t, "etcd", keysIn(d.Etcdctl), names...)
	// A restart does not bypass the guard, and adds no history entry.
	d.Restart()
	seeStatus(t, d, "refused after a restart", stalled)
	wantNames(t, "served", servedNames(d), names...)

	meant := commit(repo, "Mean it\n\nhfi-allow-prune: true\n", nil)
	seeStatus(t, d, "meant", synced(meant, 2).with(fields{"history.0.commit": meant, "history.0.outcome": "Applied", "history.#": 3}))
	wantNames(t, "etcd", keysIn(d.Etcdctl), names[:2]...)

	repo.Git("revert", "--no-edit", pruning)
	all := repo.Head()
	repo.Push()
	seeStatus(t, d, "reverted", synced(all, 12).with(fields{"history.0.restores": full}))
	// Reverting the revert deletes ten again, without a trailer, because that state was published before.
	repo.Git("revert", "--no-edit", all)
	again := repo.Head()
	repo.Push()
	seeStatus(t, d, "the revert reverted", synced(again, 2).with(fields{"history.0.restores": meant}))
}
