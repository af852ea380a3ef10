package etcd

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/etcdtest"
)

// Keys under leader/ that no candidate writes do not prevent an election: one
// without a lease, and one with a lease that is not the one in its name.
func TestAForeignCandidateDoesNotBlockElections(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Ctl("put", "/hfi/leader/00", "foreign")
	lease := grantLease(server)
	server.Ctl("put", "--lease", lease, "/hfi/leader/01", "foreign")
	a := openStore(t, externalStore("a", server.Endpoint))
	term := campaign(t, a)
	if left := server.Ctl("get", "--prefix", "--keys-only", "/hfi/leader/"); strings.Contains(left, "/hfi/leader/0") {
		t.Errorf("the foreign keys are still there: %s", left)
	}

	// Nor does one that comes while a replica leads, and another waits to.
	b := openStore(t, externalStore("b", server.Endpoint))
	next := make(chan *Term, 1)
	ctx := testContext(t)
	go func() {
		term, err := b.Campaign(ctx)
		if err != nil {
			t.Error(err)
		}
		led, _ := term.(*Term)
		next <- led
	}()
	eventually(t, "b is a candidate", func() bool {
		return strings.Count(server.Ctl("get", "--prefix", "--keys-only", "/hfi/leader/"), "/hfi/leader/") == 2
	})
	server.Ctl("put", "--lease", lease, "/hfi/leader/02", "foreign")
	if err := term.Resign(ctx); err != nil {
		t.Error(err)
	}
	publish(t, <-next, publication("c1", policies(t, 1, 1)))
}

// grantLease grants a lease of a day.
func grantLease(server *etcdtest.Server) string {
	return strings.Fields(server.Ctl("lease", "grant", "86400"))[1]
}

// A well-formed candidate that leads and does nothing is no replica: after a
// while another one leads. A replica has shown what it is by then.
func TestACandidateThatShowsNothingIsRemoved(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	lease := grantLease(server)
	server.Ctl("put", "--lease", lease, "/hfi/leader/"+lease, "posing")
	a := externalStore("a", server.Endpoint)
	a.ProofGrace = 2 * time.Second
	openStore(t, a)
	publish(t, campaign(t, a), publication("c1", policies(t, 1, 1)))

	b := externalStore("b", server.Endpoint)
	b.ProofGrace = time.Millisecond
	openStore(t, b)
	ctx, cancel := context.WithTimeout(testContext(t), 3*time.Second)
	defer cancel()
	if _, err := b.Campaign(ctx); err == nil {
		t.Error("a replica that leads was deposed")
	}
	if leader := b.Leader(); leader != "a" {
		t.Errorf("the leader is %q", leader)
	}
}

// Of more candidates than there can be replicas only some are kept, the oldest,
// one of which leads; a leader's own key among the others does not end its term.
func TestCandidatesAreBounded(t *testing.T) {
	c := newCache("/hfi/", "self", testKeys)
	put := func(lease, revision int64) {
		c.put(&mvccpb.KeyValue{
			Key: []byte(candidateKey("/hfi/leader", clientv3.LeaseID(lease))), Value: []byte("x"),
			Lease: lease, CreateRevision: revision, ModRevision: revision,
		})
	}
	for i := range int64(3 * maxCandidates) {
		put(i+1, 10_000-i)
	}
	if leader, _ := c.leader(); len(c.leaders) != maxCandidates || c.leadersDropped == 0 || leader.createRevision != 10_001-3*maxCandidates {
		t.Errorf("kept %d, and %+v leads", len(c.leaders), leader)
	}
	put(1, 20_000)
	if len(c.leaders) != maxCandidates {
		t.Errorf("kept %d", len(c.leaders))
	}
}

// A leader whose key another writer replaces, without a lease, can still write:
// no other replica leads until that key is deleted, and then the term has ended.
func TestAReplacedLeaderKeyMakesNoSecondLeader(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	publish(t, term, publication("c1", policies(t, 1, 1)))
	server.Ctl("put", term.leader.key, "posing")
	next := campaign(t, b)
	response, err := a.etcd().Txn(testContext(t)).If(fence(term.leader.key, term.leader.revision)).Then(clientv3.OpGet("/hfi/head")).Commit()
	if err != nil || response.Succeeded {
		t.Errorf("two leaders can write (%v)", err)
	}
	publish(t, next, publication("c2", policies(t, 1, 2)))
}

// While the oldest key is there, whoever wrote it, nobody else leads; nor while
// an older one than those kept was dropped.
func TestNobodyLeadsBesideAnOlderKey(t *testing.T) {
	c := newCache("/hfi/", "self", testKeys)
	put := func(lease, created int64) termKey {
		key := termKey{key: candidateKey("/hfi/leader", clientv3.LeaseID(created)), revision: created}
		c.put(&mvccpb.KeyValue{Key: []byte(key.key), Value: []byte("x"), Lease: lease, CreateRevision: created, ModRevision: created})
		return key
	}
	older, own := put(0, 1), put(2, 2)
	if c.leads(own) {
		t.Error("one leads beside an older key without a lease")
	}
	c.remove(older.key)
	if !c.leads(own) || c.leads(termKey{key: own.key, revision: 1}) {
		t.Error("the oldest does not lead, or leads with another's key")
	}
	c.remove(own.key)
	for i := range int64(maxCandidates + 1) {
		put(i+1, i+1)
	}
	for i := range int64(maxCandidates) {
		c.remove(candidateKey("/hfi/leader", clientv3.LeaseID(i+1)))
	}
	if own := put(2000, 2000); c.leads(own) || !c.leadersMissing() {
		t.Error("one leads though an older key was dropped")
	}
}
