package e2e

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// An outage of an external etcd is reported, and the last state is still served.
// When etcd is back, the pushes made during the outage are applied.
func TestEtcdAway(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	repo := gittest.New(t)
	first := commit(repo, "One", files(500, "a"))
	d := hfidtest.Run(t, repo.Bare(), "--interval", "1s", "--etcd-endpoints", server.Endpoint)
	d.WaitSynced(first)
	seeStatus(t, d, "synced", synced(first, 1).with(fields{"etcd.mode": "external", "etcd.endpoints.0": server.Endpoint}))
	wantNames(t, "etcd", keysIn(server.Ctl), "a")
	before := served(d)

	server.Kill()
	began := time.Now()
	// The status has what was last seen of git. The sync state is unknown.
	away := fields{
		"source.url": repo.Bare(), "source.reachable": true, "source.error": null, "source.errors.#": 0, "source.last_seen_at": present,
		"source.last_attempted_revision.commit": first, "source.last_attempted_revision.subject": "One",
		"etcd.mode": "external", "etcd.endpoints.0": server.Endpoint, "etcd.healthy": false, "etcd.error": present, "etcd.last_seen_at": until(began.Add(time.Second)),
		"sync.status": "Unknown", "sync.message": matches("etcd"), "sync.last_applied_revision.commit": first, "sync.served_from": "etcd",
		"sync.last_success_at": until(began.Add(2 * time.Second)), "drift.status": "Unknown", "drift.items.#": 0,
		"conditions.#": 3, "conditions.Ready.status": "Unknown", "conditions.Ready.reason": "EtcdUnreachable", "conditions.Ready.last_transition_time": since(began),
		"conditions.Reconciling.status": "True", "conditions.Reconciling.reason": "Waiting", "conditions.Stalled.status": "True",
		"conditions.Stalled.reason": "EtcdUnreachable",
		"history.#":                 1, "history.0.commit": first,
	}
	seeStatus(t, d, "etcd away", away)
	see(t, d, "ready without etcd", "/ready", fields{"ready": true, "etcd.healthy": false, "etcd.error": present})
	if after := served(d); after != before {
		t.Errorf("the outage of etcd changed the response\nfrom %s\nto   %s", before, after)
	}
	second := commit(repo, "Two", files(500, "a", "b"))
	// After a restart in this state, the daemon serves from disk.
	d.Restart()
	seeStatus(t, d, "restarted without etcd", fields{
		"etcd.healthy": false, "etcd.last_seen_at": null, "sync.status": "Unknown", "sync.served_from": "disk", "sync.last_applied_revision.commit": first,
		"drift.status": "Unknown", "conditions.Ready.status": "Unknown",
	})
	if after := served(d); after != before {
		t.Errorf("the response from disk differs\nfrom %s\nto   %s", before, after)
	}

	server.Restart()
	began = time.Now()
	seeStatus(t, d, "etcd back", synced(second, 2).with(fields{"etcd.last_seen_at": since(began), "history.#": 2, "history.0.commit": second}))
	wantNames(t, "etcd", keysIn(server.Ctl), "a", "b")
}

// A git server that fails, closes the connection or refuses is reported as such,
// with what was last seen of it. The served set does not change, and a push made
// during the outage is found after it.
func TestGitServerAway(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	first := commit(repo, "One", files(500, "a"))
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	d := hfidtest.Run(t, server.URL, "--interval", "1s")
	d.WaitSynced(first)
	before := served(d)
	for _, c := range []struct {
		name, reason         string
		fault                func(http.Handler) http.Handler
		stalled, reconciling string
		why                  string
	}{
		{"it fails", "Unreachable", gittest.Answer(503), "False", "True", "Retrying"},
		{"it hangs up", "Unreachable", gittest.CutAfter(0), "False", "True", "Retrying"},
		{"it refuses", "AuthenticationFailed", gittest.Answer(403), "True", "False", "Idle"},
		{"it knows no such repository", "RepositoryMissing", gittest.Answer(404), "True", "False", "Idle"},
	} {
		began := time.Now()
		server.Break(c.fault)
		status := seeStatus(t, d, c.name, fields{
			"source.url": server.URL, "source.reachable": false, "source.error.reason": c.reason, "source.error.message": present, "source.error.since": since(began),
			"source.last_seen_at": present, "source.last_attempted_revision.commit": first, "source.errors.#": 0,
			"etcd.healthy": true, "sync.status": "Unknown", "sync.message": matches("^git cannot be read: "), "sync.last_applied_revision.commit": first,
			"sync.last_success_at": present, "sync.served_from": "etcd", "drift.status": "None", "history.#": 1,
			"conditions.#": 3, "conditions.Ready.status": "Unknown", "conditions.Ready.reason": c.reason, "conditions.Ready.last_transition_time": since(began),
			"conditions.Stalled.status": c.stalled, "conditions.Reconciling.status": c.reconciling, "conditions.Reconciling.reason": c.why,
		})
		looks := server.Requests()
		testtool.Eventually(t, c.name+": it is polled again", func() bool { return server.Requests() >= looks+3 })
		// While polling fails, no success time changes.
		seeStatus(t, d, c.name+", still", fields{
			"source.last_seen_at": at(status, "source.last_seen_at"), "source.error.since": at(status, "source.error.since"),
			"sync.last_success_at": at(status, "sync.last_success_at"), "conditions.Ready.last_transition_time": at(status, "conditions.Ready.last_transition_time"),
		})
		if after := served(d); after != before {
			t.Errorf("%s: the response changed\nfrom %s\nto   %s", c.name, before, after)
		}
		began = time.Now()
		server.Break(nil)
		seeStatus(t, d, "back after "+c.name, synced(first, 1).with(fields{
			"source.last_seen_at": since(began), "sync.last_success_at": since(began), "conditions.Ready.last_transition_time": since(began),
		}))
	}
	server.Break(gittest.Answer(503))
	seeStatus(t, d, "unreachable during a push", fields{"source.reachable": false})
	second := commit(repo, "Two", files(500, "a", "b"))
	server.Break(nil)
	seeStatus(t, d, "the push found", synced(second, 2).with(fields{"history.#": 2}))
}

// Restarted on a bad commit, the daemon serves the last good set.
func TestRestartOnBadCommit(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	good := commit(repo, "Good", files(500, "a"))
	d := hfidtest.Run(t, repo.Bare())
	d.WaitSynced(good)
	before := served(d)
	d.Kill()
	bad := commit(repo, "Bad", map[string]string{file("b"): "metadata: {name: b}\n"})
	d.Start()
	d.WaitReady()
	seeStatus(t, d, "restarted on a bad commit", fields{
		"sync.status": "OutOfSync", "sync.last_applied_revision.commit": good, "sync.served_from": "etcd", "source.last_attempted_revision.commit": bad,
		"conditions.Stalled.reason": "InvalidCommit", "history.#": 2, "history.0.outcome": "Invalid", "source.errors.0.file": file("b"),
	})
	if after := served(d); after != before {
		t.Errorf("another response after the restart\nfrom %s\nto   %s", before, after)
	}
}

// All failures at once: an invalid commit, then no git, a destroyed etcd, and a
// kill. The last good set is served from disk. With git back and a new etcd, all
// agree again.
func TestEverythingAwayAtOnce(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	good := commit(repo, "Good", files(500, "a", "b"))
	d := hfidtest.Run(t, repo.Bare(), "--interval", "1s")
	d.WaitSynced(good)
	commit(repo, "Bad", map[string]string{file("b"): "metadata: {name: b}\n"})
	see(t, d, "bad", "/v1/status", fields{"conditions.Stalled.reason": "InvalidCommit"})
	before := served(d)
	d.Kill()

	if err := os.Rename(repo.Bare(), repo.Bare()+".away"); err != nil {
		t.Fatal(err)
	}
	etcdData := filepath.Join(d.DataDir, "etcd")
	spoilt := 0
	if err := filepath.WalkDir(etcdData, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		spoilt++
		return os.WriteFile(path, []byte("this is no database"), 0o600)
	}); err != nil || spoilt == 0 {
		t.Fatalf("damaged %d files of etcd: %v", spoilt, err)
	}
	d.Start()
	d.WaitReady()
	seeStatus(t, d, "everything away", fields{
		"etcd.healthy": false, "etcd.error": present, "sync.status": "Unknown", "sync.served_from": "disk", "sync.last_applied_revision.commit": good,
		"drift.status": "Unknown", "conditions.Ready.status": "Unknown", "source.url": repo.Bare(), "source.reachable": false,
	})
	if after := served(d); after != before {
		t.Errorf("the response from disk differs\nfrom %s\nto   %s", before, after)
	}

	// The operator deletes the destroyed etcd while git is still unreachable: the set
	// on disk is published to the new etcd.
	d.Stop()
	if err := os.RemoveAll(etcdData); err != nil {
		t.Fatal(err)
	}
	d.Start()
	seeStatus(t, d, "a new etcd, git unreachable", fields{"etcd.healthy": true, "sync.last_applied_revision.commit": good, "sync.served_from": "etcd", "drift.status": "None"})
	wantNames(t, "etcd", keysIn(d.Etcdctl), "a", "b")
	if err := os.Rename(repo.Bare()+".away", repo.Bare()); err != nil {
		t.Fatal(err)
	}
	fixed := commit(repo, "Fix", files(600, "a", "b"))
	seeStatus(t, d, "all back", synced(fixed, 2))
}

// A full etcd, with both replicas restarted on it and a push: nobody can lead,
// and each says so, and that manual action is required. Once there is room, the push is
// applied. That etcd is away is in the log within seconds.
func TestEtcdFull(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.WithArguments("--quota-backend-bytes", "2000000"))
	repo := gittest.New(t)
	first := commit(repo, "One", files(500, "a"))
	arguments := []string{"--interval", "10s", "--etcd-endpoints", server.Endpoint}
	one := hfidtest.Run(t, repo.Bare(), append(arguments, "--replica-id", "one")...)
	two := hfidtest.Run(t, repo.Bare(), append(arguments, "--replica-id", "two")...)
	one.WaitSynced(first)
	two.WaitSynced(first)

	filler := strings.Repeat("x", 100_000)
	full := false
	for range 100 {
		if _, err := etcdtest.Ctl(t, "--endpoints", server.Endpoint, "put", "filler", filler); err != nil {
			full = true
			break
		}
	}
	if !full {
		t.Fatal("etcd is not full")
	}
	one.Kill()
	two.Kill()
	one.Start()
	two.Start()
	second := commit(repo, "Two", files(500, "a", "b"))
	for _, d := range []*hfidtest.Daemon{one, two} {
		seeStatus(t, d, "etcd is full", fields{
			"sync.status": "Unknown", "sync.message": matches("database is full"), "sync.last_applied_revision.commit": first,
			"etcd.healthy": false, "etcd.alarms.0": "NOSPACE", "etcd.error": matches("alarm disarm"), "replica.leader": "",
			"conditions.Ready.status": "Unknown", "conditions.Stalled.status": "True", "conditions.Stalled.reason": "EtcdAlarm",
		})
	}

	server.Ctl("del", "filler")
	server.Ctl("compact", revisionOf(t, server))
	server.Ctl("defrag")
	server.Ctl("alarm", "disarm")
	for _, d := range []*hfidtest.Daemon{one, two} {
		d.WaitSynced(second)
		seeStatus(t, d, "etcd has room", fields{"etcd.healthy": true, "conditions.Stalled.status": "False"})
	}

	server.Kill()
	testtool.Eventually(t, "the log says that etcd is away", func() bool {
		return strings.Contains(one.LogTail(50), `level=WARN msg="etcd does not answer`)
	})
}

// revisionOf is etcd's present revision.
func revisionOf(t *testing.T, server *etcdtest.Server) string {
	t.Helper()
	_, rest, ok := strings.Cut(server.Ctl("get", "filler", "-w", "json"), `"revision":`)
	if !ok {
		t.Fatal("etcdctl says no revision")
	}
	return strings.FieldsFunc(rest, func(r rune) bool { return r < '0' || r > '9' })[0]
}
