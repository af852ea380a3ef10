package etcd

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// Whatever is written under the prefix, a cache keeps only so much of it.
func TestTheCacheIsBounded(t *testing.T) {
	c := newCache("/hfi/", "self", testKeys)
	put := func(key string, value []byte) {
		c.put(&mvccpb.KeyValue{Key: []byte("/hfi/" + key), Value: value, CreateRevision: 1, ModRevision: 1})
	}

	c.maxCount, c.maxBytes = 10, 1<<20
	for i := range 20 {
		name := fmt.Sprintf("p%02d", i)
		put("policies/"+name, policy(t, name, 1).Canonical)
	}
	c.flush()
	if c.set.Len() != 10 || len(c.foreign.names) != 10 || c.count != 10 {
		t.Errorf("kept %d of 20 policies, counted %d, and %d foreign names", c.set.Len(), c.count, len(c.foreign.names))
	}
	// What is deleted, or written again, makes room, and is counted once.
	for range 3 {
		put("policies/p00", policy(t, "p00", 2).Canonical)
	}
	c.remove("/hfi/policies/p01")
	c.remove("/hfi/policies/p01")
	put("policies/p19", policy(t, "p19", 1).Canonical)
	c.flush()
	if c.set.Len() != 10 || c.count != 10 || c.set.Get("p19") == nil || c.foreign.has("p19") {
		t.Errorf("kept %d policies, counted %d", c.set.Len(), c.count)
	}
	total := 0
	for _, entry := range c.set.Entries() {
		total += memoryOf(entry)
	}
	if c.bytes != total {
		t.Errorf("%d bytes are counted as %d", total, c.bytes)
	}
	c.maxCount, c.maxBytes = 100, c.bytes+10
	put("policies/p01", policy(t, "p01", 1).Canonical)
	if !c.foreign.has("p01") || c.policiesMissing() {
		t.Error("a policy of more bytes than are kept is kept")
	}
	c.remove("/hfi/policies/p19")
	if !c.policiesMissing() {
		t.Error("a policy is not read again though there is room for it")
	}

	for i := range maxForeignNames + 10 {
		put(fmt.Sprintf("policies/x%d", i), nil)
	}
	if len(c.foreign.names) != maxForeignNames || !c.foreign.dropped || c.foreign.hasRoomForDropped() {
		t.Errorf("kept %d foreign names", len(c.foreign.names))
	}
	for i := range maxForeignNames {
		c.remove(fmt.Sprintf("/hfi/policies/x%d", i))
	}
	if !c.foreign.hasRoomForDropped() {
		t.Error("with few foreign names left, those that were dropped are not read")
	}

	// Of origins those of policies are kept, and a few others.
	bucket := schema.BucketOf("p00")
	origins := map[string]schema.Origin{"p00": {File: "a.yaml", Line: 1, Commit: "c1"}}
	for i := range 10_000 {
		origins[fmt.Sprintf("stray%d", i)] = schema.Origin{File: "a.yaml", Line: 1, Commit: "c1"}
	}
	put(fmt.Sprintf("origins/%02x", bucket), []byte(encodeOrigins(origins)))
	c.flush()
	if kept := c.origins[bucket]; len(kept.byName) > maxStrayOrigins+1 || kept.valid || c.set.Get("p00").Origin.File != "a.yaml" {
		t.Errorf("kept %d origins, valid: %v, and the policy's is %+v", len(kept.byName), kept.valid, c.set.Get("p00").Origin)
	}
	put(fmt.Sprintf("origins/%02x", bucket), []byte(encodeOrigins(map[string]schema.Origin{"p00": {File: strings.Repeat("x", maxOriginBytes+1)}})))
	if kept := c.origins[bucket]; len(kept.byName) > 0 || kept.valid {
		t.Errorf("kept the name of a file of %d bytes", maxOriginBytes+1)
	}

	long := map[string]schema.Origin{}
	for i := range 16 {
		long[fmt.Sprintf("stray%d", i)] = schema.Origin{File: strings.Repeat("x", maxOriginBytes)}
	}
	put(fmt.Sprintf("origins/%02x", bucket), []byte(encodeOrigins(long)))
	if kept := c.origins[bucket]; len(kept.byName)*maxOriginBytes > maxStrayBytes || kept.valid {
		t.Errorf("kept %d origins of %d bytes that no policy has", len(kept.byName), maxOriginBytes)
	}
	large := encodeOrigins(map[string]schema.Origin{"p00": {File: "a.yaml"}}) + strings.Repeat(" ", maxValue)
	put(fmt.Sprintf("origins/%02x", bucket), []byte(large))
	if kept := c.origins[bucket]; len(kept.byName) > 0 || kept.valid {
		t.Errorf("kept origins from a value of %d bytes", len(large))
	}

	// The newest of the history.
	for i := range 3 * maxHistoryKept {
		put(fmt.Sprintf("history/%012d", i+1), []byte(c.signer.encodeHistory(int64(i+1), &api.HistoryEntry{Commit: fmt.Sprint(i + 1)})))
	}
	put("history/000000000001", []byte(c.signer.encodeHistory(1, &api.HistoryEntry{Commit: "1"})))
	newest := c.history.newest()
	if len(c.history.numbers) != maxHistoryKept || len(newest) != reconciler.MaxHistory || newest[0].Commit != fmt.Sprint(3*maxHistoryKept) {
		t.Errorf("kept %d entries, of which %d are listed, the newest is %s", len(c.history.numbers), len(newest), newest[0].Commit)
	}
}

// Values as large as etcd takes them are read in pieces of bounded size, and
// followed.
func TestLargeForeignValuesAreReadInPieces(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	a := openStore(t, externalStore("a", server.Endpoint))
	state := publish(t, campaign(t, a), publication("c1", policies(t, 3, 100)))
	const count = 30
	large := bytes.Repeat([]byte("x"), 1_300_000)
	for i := range count {
		if _, err := a.etcd().Put(testContext(t), fmt.Sprintf("/hfi/policies/large%02d", i), string(large)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the drift is seen", func() bool { return a.View().Drift.Total == count })
	if _, err := a.etcd().Compact(testContext(t), a.current().revision); err != nil {
		t.Fatal(err)
	}
	// One that starts has to read it all: the head's revision is gone.
	b := openStore(t, externalStore("b", server.Endpoint))
	eventually(t, "the drift is seen by a replica that starts", func() bool { return b.View().Drift.Total == count })
	eventually(t, "the state is verified anyway", func() bool { return b.View().State == nil || b.View().State.Revision == state.Revision })
}

// A replica that was away while another writer wrote much reads what is there
// now, and not what was there in between.
func TestCatchingUpIsBounded(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	path := newLink(t, server.Endpoint)
	a := openStore(t, externalStore("a", path.endpoint))
	state := publish(t, campaign(t, a), publication("c1", policies(t, 3, 100)))
	path.Cut()
	writer, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	large := strings.Repeat("x", 1_000_000)
	for range maxCatchUp + 20 {
		if _, err := writer.Put(testContext(t), "/hfi/policies/large", large); err != nil {
			t.Fatal(err)
		}
	}
	before := path.received.Load()
	path.Restore()
	eventually(t, "the drift is seen", func() bool { return a.View().Drift.Total == 1 })
	if received := path.received.Load() - before; received > 20<<20 {
		t.Errorf("%d bytes were read", received)
	}
	// The watch goes on from there.
	for range 5 {
		if _, err := writer.Put(testContext(t), "/hfi/policies/other", "x"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "more drift is seen", func() bool { return a.View().Drift.Total == 2 })
	if !serves(a, state)() {
		t.Error("the state is another one")
	}
}

// Responses of a watch that nobody handles are kept up to a bound.
func TestTheQueueOfAWatchIsBounded(t *testing.T) {
	responses := make(chan clientv3.WatchResponse)
	q := newWatchQueue()
	filled := make(chan struct{})
	go func() {
		defer close(filled)
		q.fill(responses)
	}()
	large := clientv3.WatchResponse{Events: []*clientv3.Event{{Kv: &mvccpb.KeyValue{Value: make([]byte, maxQueuedBytes+1)}}}}
	responses <- large // However large, one is taken.
	q.taken(<-q.responses)
	small := clientv3.WatchResponse{Events: []*clientv3.Event{{Kv: &mvccpb.KeyValue{Value: make([]byte, maxQueuedBytes/4)}}}}
	for range 5 {
		responses <- small
	}
	<-filled
	select {
	case <-q.full:
	default:
		t.Error("the queue is not full")
	}
	if len(q.responses) != 4 {
		t.Errorf("%d responses are kept", len(q.responses))
	}
}
