package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// Writes with etcdctl are reported key by key, within a second, and never served.
// With --drift heal the daemon reverts them.
func TestDriftReportedThenHealed(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	hash := commit(repo, "Three", files(500, "a", "b", "c"))
	d := hfidtest.Run(t, repo.Bare(), "--interval", "1s")
	d.WaitSynced(hash)
	seeStatus(t, d, "synced", synced(hash, 3))
	before := served(d)

	// The aim is a hundred milliseconds, the requirement a second. The best of
	// several measurements excludes most effects of a busy machine.
	best := time.Hour
	for try := 0; try < 20 && best > time.Second; try++ {
		began := time.Now()
		d.Etcdctl("put", "/hfi/policies/stray", "{}")
		see(t, d, "a stray key", "/v1/drift", fields{"status": "Detected", "items.0.name": "stray"})
		best = min(best, time.Since(began))
		d.Etcdctl("del", "/hfi/policies/stray")
		see(t, d, "the stray key gone", "/v1/drift", fields{"status": "None", "total": 0})
	}
	if best > time.Second {
		t.Errorf("the drift was seen %s after etcdctl began", best)
	}

	original := d.Etcdctl("get", "/hfi/policies/a", "--print-value-only")
	began := time.Now()
	d.Etcdctl("put", "/hfi/policies/a", `{"metadata":{"name":"a"},"spec":{"rules":[{"fault":{"delay_ms":9}}]}}`)
	d.Etcdctl("del", "/hfi/policies/b")
	d.Etcdctl("put", "/hfi/policies/extra", original)
	drifted := fields{
		"sync.status": "OutOfSync", "sync.message": matches("drift"), "sync.last_applied_revision.commit": hash, "sync.last_success_at": until(began.Add(2 * time.Second)),
		"source.error": null, "source.last_attempted_revision.commit": hash, "etcd.healthy": true,
		"drift.status": "Detected", "drift.total": 3, "drift.since": since(began), "drift.mode": "report", "drift.heal": absent,
		"drift.items.#":      3,
		"drift.items.0.name": "a", "drift.items.0.key": "/hfi/policies/a", "drift.items.0.kind": "Modified",
		"drift.items.1.name": "b", "drift.items.1.key": "/hfi/policies/b", "drift.items.1.kind": "Missing",
		"drift.items.2.name": "extra", "drift.items.2.key": "/hfi/policies/extra", "drift.items.2.kind": "Extra",
		"conditions.Ready.status": "False", "conditions.Ready.reason": "OutOfSync", "conditions.Ready.last_transition_time": since(began),
		"conditions.Stalled.status": "False", "history.#": 1,
	}
	first := seeStatus(t, d, "drifted", drifted)
	time.Sleep(2200 * time.Millisecond) // reported, and not repaired
	seeStatus(t, d, "still drifted", drifted.with(fields{"drift.since": at(first, "drift.since"), "conditions.Ready": at(first, "conditions.Ready")}))
	if after := served(d); after != before {
		t.Errorf("drift was served\nfrom %s\nto   %s", before, after)
	}
	wantNames(t, "etcd, left alone", keysIn(d.Etcdctl), "a", "c", "extra")

	// An equivalent value in other bytes is not drift.
	d.Etcdctl("put", "/hfi/policies/a", "  "+original)
	d.Etcdctl("del", "/hfi/policies/extra")
	see(t, d, "one left", "/v1/drift", fields{"total": 1, "items.0.name": "b"})

	// With --drift heal.
	d.Stop()
	began = time.Now()
	d.Start("--drift", "heal")
	healed := synced(hash, 3).with(fields{
		"drift.mode": "heal", "drift.heal.message": absent, "sync.last_success_at": since(began), "history.#": 1,
		"conditions.Ready.last_transition_time": since(began),
	})
	d.WaitReady()
	repairs, _ := at(seeStatus(t, d, "healed", healed), "drift.heal.repairs").(float64)
	wantNames(t, "etcd", keysIn(d.Etcdctl), "a", "b", "c")
	d.Etcdctl("del", "/hfi/policies/", "--prefix")
	status := seeStatus(t, d, "healed again", healed.with(fields{"drift.heal.repairs": int(repairs) + 1, "drift.heal.last_at": since(began)}))
	wantNames(t, "etcd", keysIn(d.Etcdctl), "a", "b", "c")
	wantNames(t, "served", servedNames(d), "a", "b", "c")
	if textAt(status, "history.0.commit") != hash {
		t.Error("a repair must not add to the history")
	}
}

// If something keeps changing etcd, the status names the keys, and repairs become less frequent.
func TestHealReportsRepeatedDrift(t *testing.T) {
	testtool.SlowOnly(t)
	t.Parallel()
	repo := gittest.New(t)
	hash := commit(repo, "One", files(500, "a"))
	d := hfidtest.Run(t, repo.Bare(), "--drift", "heal")
	d.WaitSynced(hash)
	testtool.Eventually(t, "the status says that something keeps changing etcd", func() bool {
		d.Etcdctl("put", "/hfi/policies/a", "{}")
		status := d.Status()
		if status.Drift.Heal == nil || status.Drift.Heal.Message == "" {
			return false
		}
		if status.Drift.Heal.Repairs < 3 || status.Drift.Heal.Repairs > 6 {
			t.Errorf("%d repairs before the status says so", status.Drift.Heal.Repairs)
		}
		return true
	})
	see(t, d, "fought", "/v1/drift", fields{"heal.message": matches("something keeps changing etcd.*/hfi/policies/a"), "mode": "heal"})
}

// Who can write to etcd replaces policies and head together, again and again:
// nobody gets that set, also after a restart while git is away, and etcd holds
// the right one again in a moment, though drift is only to be reported.
func TestForgedPoliciesAreNotServed(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	hash := commit(repo, "Three", files(500, "a", "b", "c"))
	d := hfidtest.Run(t, repo.Bare(), "--interval", "1s")
	d.WaitSynced(hash)
	policies := func() string { return string(d.Get("/v1/policies").Body) } // Each repair is another revision.
	before := policies()
	away := repo.Bare() + ".away"
	if err := os.Rename(repo.Bare(), away); err != nil {
		t.Fatal(err)
	}
	forge := func() {
		d.Etcdctl("del", "--prefix", "/hfi/policies/")
		var head map[string]any
		if err := json.Unmarshal([]byte(d.Etcdctl("get", "/hfi/head", "--print-value-only")), &head); err != nil {
			t.Fatal(err)
		}
		// An empty set, whose digest is that of nothing.
		head["commit"], head["count"], head["digest"] = strings.Repeat("e", 40), 0, fmt.Sprintf("v1:%x", sha256.Sum256(nil))
		text, err := json.Marshal(head)
		if err != nil {
			t.Fatal(err)
		}
		d.Etcdctl("put", "/hfi/head", string(text))
	}
	for range 5 {
		forge()
		see(t, d, "the repair", "/v1/drift", fields{"status": "None"})
		if after := policies(); after != before {
			t.Fatalf("served is\n%s\ninstead of\n%s", after, before)
		}
	}
	wantNames(t, "etcd, repaired", keysIn(d.Etcdctl), "a", "b", "c")
	if metrics := d.Get("/metrics").Body; !regexp.MustCompile(`(?m)^hfi_forged_total\{key="head"\} [1-9]`).MatchString(string(metrics)) {
		t.Errorf("the metrics count no forged head:\n%s", metrics)
	}
	forge()
	d.Restart()
	see(t, d, "the repair after a restart", "/v1/drift", fields{"status": "None"})
	if after := policies(); after != before {
		t.Errorf("after a restart served is\n%s\ninstead of\n%s", after, before)
	}
	wantNames(t, "etcd, after a restart", keysIn(d.Etcdctl), "a", "b", "c")
	if info, err := os.Stat(filepath.Join(d.DataDir, "state-key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the state key: %v (%v)", info, err)
	}
}
