package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/statekey"
)

// A replica with another key than the leader's says so and serves nothing of
// the leader's. When it leads itself, it publishes from git, and it is the other
// replica that says so, and serves what it had.
func TestReplicasWithDifferentStateKeysSaySo(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	repo := gittest.New(t)
	first := commit(repo, "One", files(500, "a"))
	other := filepath.Join(t.TempDir(), "other-key")
	if _, err := statekey.OpenOrCreate(other); err != nil {
		t.Fatal(err)
	}
	one := hfidtest.Run(t, repo.Bare(), "--interval", "1s", "--etcd-endpoints", server.Endpoint, "--replica-id", "one")
	one.WaitSynced(first)
	two := hfidtest.New(t, repo.Bare(), "--interval", "1s", "--etcd-endpoints", server.Endpoint, "--replica-id", "two", "--state-key-file", other)
	two.Start()
	saysSo := func(s *api.Status) bool {
		stalled := s.Conditions[len(s.Conditions)-1]
		return stalled.Reason == "Forged" && strings.Contains(stalled.Message, "/hfi/head: it is signed with another key: all replicas need the same --state-key-file") &&
			len(s.Drift.Items) > 0 && s.Drift.Items[0].Kind == api.Forged
	}
	two.WaitStatus("the replica with another key says so", func(s *api.Status) bool { return saysSo(s) && s.Sync.ServedFrom == "" })
	if status := one.Status(); status.Sync.Status != api.Synced || status.Drift.Status != api.DriftNone {
		t.Errorf("the leader is disturbed: %+v, drift %+v", status.Sync, status.Drift)
	}

	one.Stop()
	second := commit(repo, "Two", files(500, "a", "b"))
	two.WaitSynced(second)
	one.Start()
	one.WaitStatus("the other replica says so now", func(s *api.Status) bool { return saysSo(s) && s.Sync.ServedFrom == "disk" })
	if last := one.Status().Sync.LastAppliedRevision; last == nil || last.Commit != first {
		t.Errorf("it serves %+v", last)
	}
}

// Who does without a key is told what that means.
func TestWithoutAStateKey(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	repo := gittest.New(t)
	hash := commit(repo, "One", files(500, "a"))
	d := hfidtest.Run(t, repo.Bare(), "--etcd-endpoints", server.Endpoint, "--state-key-file", "none")
	if warning := d.WaitSynced(hash).Etcd.Warning; !strings.Contains(warning, "not authenticated (--state-key-file none)") {
		t.Errorf("the status warns %q", warning)
	}
	if !strings.Contains(d.LogTail(100), "not authenticated (--state-key-file none)") {
		t.Error("the log warns of nothing")
	}
}
