package etcd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/etcdtest"
)

// known is a store's list of replicas as "ID=URL", or "ID!" where there is an error.
func known(s *Store) string {
	var all []string
	for _, replica := range s.Replicas().List {
		text := replica.ID + "=" + replica.URL
		if replica.Error != "" {
			text = replica.ID + "!"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

func eventuallyKnown(t *testing.T, s *Store, want string) {
	t.Helper()
	got := ""
	defer func() {
		if t.Failed() {
			t.Logf("%s lists %q, want %q", s.ID, got, want)
		}
	}()
	eventually(t, "the replicas are known", func() bool { got = known(s); return got == want })
}

// Replicas find each other in etcd from their start to their end, however they
// end, and after their key was deleted. Their keys are no drift.
func TestReplicasFindEachOther(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	a := externalStore("a", server.Endpoint)
	a.Advertise = "http://10.0.0.1:8080"
	openStore(t, a)
	publish(t, campaign(t, a), publication("c1", policies(t, 3, 100)))
	eventuallyKnown(t, a, "a=http://10.0.0.1:8080")

	// A replica without an URL is known anyway.
	b := externalStore("b", server.Endpoint)
	b.LeaseTTL = time.Minute
	openStore(t, b)
	eventuallyKnown(t, a, "a=http://10.0.0.1:8080 b=")
	eventuallyKnown(t, b, "a=http://10.0.0.1:8080 b=")
	if at := a.Replicas().LostAt; !at.IsZero() {
		t.Errorf("a replica counts as lost at %s, though none left", at)
	}
	if drift := a.View().Drift; drift.Status != api.DriftNone {
		t.Errorf("replicas' keys make drift: %+v", drift)
	}
	if health := a.Replicas(); health.IncompleteReason != "" {
		t.Errorf("the list may be incomplete: %s", health.IncompleteReason)
	}

	// A deleted key is written again.
	server.Ctl("del", "/hfi/replicas/b")
	eventuallyKnown(t, a, "a=http://10.0.0.1:8080 b=")
	// A key without a lease is no replica's.
	server.Ctl("put", "/hfi/replicas/made-up", `{"format":1,"url":"http://127.0.0.1:1"}`)

	// One with a lease, and an address that no replica has, is not asked.
	lease := grantLease(server)
	server.Ctl("put", "--lease", lease, "/hfi/replicas/made-up", `{"format":1,"url":"http://169.254.169.254/"}`)
	eventuallyKnown(t, a, "a=http://10.0.0.1:8080 b= made-up!")
	server.Ctl("lease", "revoke", lease)
	eventuallyKnown(t, a, "a=http://10.0.0.1:8080 b=")

	// A graceful stop deletes the key at once, sooner than the lease expires.
	stopping := time.Now()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	gone := time.Now()
	eventuallyKnown(t, a, "a=http://10.0.0.1:8080")
	if took := time.Since(gone); took > b.LeaseTTL/2 {
		t.Errorf("b's key was deleted after %s", took)
	}
	if at := a.Replicas().LostAt; at.Before(stopping) || at.After(time.Now()) {
		t.Errorf("b began to stop at %s, but LostAt is %s", stopping, at)
	}
}

// While etcd is away the known replicas stay listed, and IncompleteReason says why they may not be all.
func TestIncompleteReplicas(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	a := externalStore("a", server.Endpoint)
	a.Advertise = "http://a"
	openStore(t, a)
	eventuallyKnown(t, a, "a=http://a")
	server.Kill()
	eventually(t, "the list may be incomplete", func() bool { return a.Replicas().IncompleteReason != "" })
	if got := known(a); got != "a=http://a" {
		t.Errorf("the list became %q", got)
	}
	server.Restart()
	eventually(t, "the list is complete again", func() bool { return a.Replicas().IncompleteReason == "" })
	eventuallyKnown(t, a, "a=http://a")
}

// Several daemons with one ID share a key, and are recognized by their leader keys.
func TestReplicasWithTheSameIDAndTheirBounds(t *testing.T) {
	c := newCache("/hfi/", "a", testKeys)
	put := func(key, value string, lease int64) {
		c.put(&mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), Lease: lease, CreateRevision: 1, ModRevision: 1})
	}
	put("/hfi/leader/1", "a", 1)
	put("/hfi/leader/2", "b", 2)
	shared := func(id string) bool { return c.candidateCounts()[id] > 1 }
	if shared("a") {
		t.Error("one daemon counts as several")
	}
	put("/hfi/leader/3", "a", 3)
	if !shared("a") || shared("b") {
		t.Error("two daemons count as one")
	}
	c.remove("/hfi/leader/3")
	if shared("a") {
		t.Error("a daemon that left still counts")
	}
	put("/hfi/replicas/foreign", `{"url":"http://x"}`, 0)
	put("/hfi/replicas/long", `{"url":"`+strings.Repeat("x", 3*maxAdvertise)+`"}`, 5)
	put("/hfi/replicas/garbage", `{`, 5)
	if len(c.replicas) != 0 {
		t.Errorf("kept %v", c.replicas)
	}
	put("/hfi/replicas/b", `{"url":"http://b"}`, 6)
	put("/hfi/replicas/b", `{"url":"http://b2"}`, 6)
	if c.losses != 0 || c.replicas["b"].url != "http://b2" {
		t.Errorf("%d losses, and %v", c.losses, c.replicas)
	}
	put("/hfi/replicas/b", `{"url":"http://b3"}`, 7)
	c.remove("/hfi/replicas/b")
	c.remove("/hfi/replicas/b")
	if c.losses != 2 {
		t.Errorf("a new lease and a deletion are %d losses", c.losses)
	}
	c.self = "b"
	put("/hfi/replicas/b", `{"url":"http://b"}`, 8)
	put("/hfi/replicas/b", `{"url":"http://b"}`, 9)
	if c.losses != 2 {
		t.Error("this replica's own leases count as losses")
	}
	c.remove("/hfi/replicas/b")
}

// However many keys another writer adds under replicas/, a bounded number is
// kept and listed, and with them this replica, those that were there before,
// and every candidate before what is none.
func TestForgedReplicasDisplaceNoReplica(t *testing.T) {
	s := New(DefaultPrefix, "self", quiet())
	s.StateKeys = testKeys
	tracker := s.newTracker()
	c := newCache("/hfi/", "self", testKeys)
	revision := int64(100)
	put := func(key, value string, lease, created int64) {
		c.put(&mvccpb.KeyValue{Key: []byte("/hfi/" + key), Value: []byte(value), Lease: lease, CreateRevision: created, ModRevision: created})
	}
	const record = `{"url":"http://10.0.0.1"}`
	// etcd is read in the order of its keys, and those are the first.
	for i := range 2 * maxRegistrations {
		revision++
		put(fmt.Sprintf("replicas/0-forged-%d", i), record, 5, revision)
	}
	put("replicas/early", record, 6, 10)
	put("replicas/self", record, 7, revision+10)
	if len(c.replicas) != maxRegistrations {
		t.Errorf("kept %d", len(c.replicas))
	}
	tracker.step(time.Now(), loaded{cache: c, revision: revision + 20})
	lists := func(id string) bool {
		return slices.ContainsFunc(tracker.snapshot().replicas, func(r api.Replica) bool { return r.ID == id })
	}
	if !lists("early") || !lists("self") || len(tracker.snapshot().replicas) != maxReplicas {
		t.Errorf("listed are %v", tracker.snapshot().replicas)
	}
	// Then another replica starts, and there is room for its key.
	c.remove("/hfi/replicas/0-forged-0")
	put("replicas/late", record, 8, revision+11)
	put("leader/8", "late", 8, revision+11)
	if !lists("late") || !lists("early") || !lists("self") {
		t.Errorf("after the start of another replica those are listed: %v", tracker.snapshot().replicas)
	}
	if c.replicasMissing() {
		t.Error("the keys that were dropped are to be read though there is no room")
	}
	for i := range 2 * maxRegistrations {
		c.remove(fmt.Sprintf("/hfi/replicas/0-forged-%d", i))
	}
	if !c.replicasMissing() {
		t.Error("the keys that were dropped are not read though there is room")
	}
}
