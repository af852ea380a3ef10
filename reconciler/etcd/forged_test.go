package etcd

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/statekey"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// attacker may write to etcd, with its stock client, and has no state key.
type attacker struct {
	t      *testing.T
	client *clientv3.Client
}

func newAttacker(t *testing.T, server *etcdtest.Server) attacker {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return attacker{t: t, client: client}
}

// keep returns writes that restore what etcd holds now: head, epoch, policies and origins.
func (a attacker) keep() []clientv3.Op {
	a.t.Helper()
	response, err := a.client.Get(testContext(a.t), "/hfi/", clientv3.WithPrefix())
	if err != nil {
		a.t.Fatal(err)
	}
	var ops []clientv3.Op
	for _, kv := range response.Kvs {
		key := string(kv.Key)
		if key == "/hfi/head" || key == "/hfi/epoch" || strings.HasPrefix(key, "/hfi/policies/") || strings.HasPrefix(key, "/hfi/origins/") {
			ops = append(ops, clientv3.OpPut(key, string(kv.Value)))
		}
	}
	return ops
}

// write commits one transaction and returns its revision.
func (a attacker) write(ops ...clientv3.Op) int64 {
	a.t.Helper()
	response, err := a.client.Txn(testContext(a.t)).Then(ops...).Commit()
	if err != nil {
		a.t.Fatal(err)
	}
	return response.Header.Revision
}

// record reads a record of hfi's, changes some fields, and returns its JSON.
func (a attacker) record(key string, changes map[string]any) string {
	a.t.Helper()
	response, err := a.client.Get(testContext(a.t), key)
	if err != nil || len(response.Kvs) != 1 {
		a.t.Fatalf("%s: %v (%v)", key, response, err)
	}
	var fields map[string]any
	if err := json.Unmarshal(response.Kvs[0].Value, &fields); err != nil {
		a.t.Fatal(err)
	}
	// What the write will have, if the record says it.
	if _, has := fields["version"]; has {
		fields["version"] = response.Kvs[0].Version + 1
	}
	maps.Copy(fields, changes)
	text, err := json.Marshal(fields)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(text)
}

// replace replaces the policies and the head in one transaction: the head is
// right in all that needs no key.
func (a attacker) replace(set *schema.Set) int64 {
	a.t.Helper()
	ops := []clientv3.Op{clientv3.OpDelete("/hfi/policies/", clientv3.WithPrefix())}
	if _, err := a.client.Txn(testContext(a.t)).Then(ops...).Commit(); err != nil {
		a.t.Fatal(err)
	}
	ops = nil
	for _, entry := range set.Entries() {
		ops = append(ops, clientv3.OpPut("/hfi/policies/"+entry.Name(), string(entry.Canonical)))
	}
	return a.write(append(ops, clientv3.OpPut("/hfi/head", a.record("/hfi/head", map[string]any{
		"commit": "evil", "digest": string(set.Digest()), "count": set.Len(), "at": time.Now().UTC(),
	})))...)
}

// serveStill checks that stores which have seen a revision serve a state, and
// have noticed that etcd does not hold it.
func serveStill(t *testing.T, want *reconciler.State, revision int64, stores ...*Store) {
	t.Helper()
	for _, s := range stores {
		seen, err := s.waitRevision(testContext(t), revision)
		if err != nil {
			t.Fatal(err)
		}
		state := seen.view.State
		switch {
		case want == nil && state != nil:
			t.Fatalf("%s serves %s at %s", s.ID, state.Head.Commit, state.Revision)
		case want != nil && (state == nil || state.Head.Commit != want.Head.Commit || state.Set.Digest() != want.Set.Digest()):
			t.Fatalf("%s serves %+v", s.ID, state)
		case seen.view.HeadVerified:
			t.Fatalf("%s took up the head", s.ID)
		}
	}
}

// Policies that anyone puts into etcd together with a head that describes them
// are not served: not by replicas that run, however often, nor by one that
// starts; and the next publication removes them.
func TestAForgedHeadIsNotServed(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	want := publish(t, term, publication("c1", policies(t, 3, 100)))
	eventually(t, "the follower has the state", serves(b, want))
	attacker := newAttacker(t, server)
	for i := range 20 {
		revision := attacker.replace(policies(t, 4, 60_000+i))
		serveStill(t, want, revision, a, b)
	}
	revision := attacker.replace(policies(t, 4, 59_999))
	fresh := openStore(t, externalStore("fresh", server.Endpoint))
	serveStill(t, nil, revision, fresh)

	again := publish(t, term, reconciler.Publication{Commit: "c1", Set: want.Set})
	for _, s := range []*Store{a, b, fresh} {
		eventually(t, s.ID+" has the repaired set", serves(s, again))
	}
}

// An old head is not served when it is put back with its old policies: at
// once, after it was deleted, or written until its key has the version that it had.
func TestAnOldHeadIsNotServedAgain(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	attacker := newAttacker(t, server)
	publish(t, term, publication("c1", policies(t, 3, 100)))
	publish(t, term, publication("c2", policies(t, 3, 200)))
	old := attacker.keep()
	want := publish(t, term, publication("c3", policies(t, 3, 300)))
	eventually(t, "the follower has the state", serves(b, want))
	serveStill(t, want, attacker.write(old...), a, b)
	for versions := range 8 {
		attacker.write(clientv3.OpDelete("/hfi/head"))
		for range versions {
			attacker.write(clientv3.OpPut("/hfi/head", "x"))
		}
		revision := attacker.write(old...)
		fresh := openStore(t, externalStore(fmt.Sprint("fresh", versions), server.Endpoint))
		serveStill(t, want, revision, a, b)
		serveStill(t, nil, revision, fresh)
	}
	again := publish(t, term, reconciler.Publication{Commit: "c3", Set: want.Set})
	eventually(t, "the follower has the repaired set", serves(b, again))
}

// An epoch that anyone puts into etcd is not in force, so that nobody can end
// the present one, use up the numbers, or have a head of his own epoch served.
func TestAForgedEpochIsNotInForce(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	want := publish(t, term, publication("c1", policies(t, 3, 100)))
	eventually(t, "the follower has the state", serves(b, want))
	attacker := newAttacker(t, server)
	for _, number := range []int64{2, 99, 1 << 53} {
		epoch := map[string]any{"number": number, "id": "evil"}
		revision := attacker.write(
			clientv3.OpPut("/hfi/epoch", attacker.record("/hfi/epoch", epoch)),
			clientv3.OpPut("/hfi/head", attacker.record("/hfi/head", map[string]any{"commit": "evil", "epoch": epoch})),
			clientv3.OpPut("/hfi/epoch-floor", attacker.record("/hfi/epoch", map[string]any{"number": number})))
		serveStill(t, want, revision, a, b)
		state := publish(t, term, reconciler.Publication{Commit: "c1", Set: want.Set})
		if state.Revision.Epoch != want.Revision.Epoch {
			t.Errorf("after the forged epoch %d the epoch is %+v", number, state.Revision.Epoch)
		}
		eventually(t, "the follower has the repaired head", serves(b, state))
	}
}

// withKeyFile is a store whose keys are the lines of a file, and what replaces the file.
func withKeyFile(t *testing.T, s *Store, lines ...string) (*Store, func(lines ...string)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state-key")
	write := func(lines ...string) {
		if err := os.WriteFile(path+".next", []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".next", path); err != nil {
			t.Fatal(err)
		}
	}
	write(lines...)
	keys, err := statekey.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	s.StateKeys = keys
	return openStore(t, s), write
}

// stateKey is a key as a line of a file.
func stateKey(b byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) }

// keyedReplicas are two replicas, each with a key file of its own that a function replaces.
// a leads, and b follows its state.
type keyedReplicas struct {
	server         *etcdtest.Server
	a, b           *Store
	writeA, writeB func(lines ...string)
	term           *Term
	state          *reconciler.State
}

func replicasWithKeyFiles(t *testing.T, lines ...string) (r keyedReplicas) {
	t.Helper()
	r.server = etcdtest.Start(t)
	r.a, r.writeA = withKeyFile(t, externalStore("a", r.server.Endpoint), lines...)
	r.b, r.writeB = withKeyFile(t, externalStore("b", r.server.Endpoint), lines...)
	r.term = campaign(t, r.a)
	r.state = publish(t, r.term, publication("c1", policies(t, 3, 100)))
	eventually(t, "the follower has the state", serves(r.b, r.state))
	return r
}

// A key is replaced without a stop and without a commit: when another one is
// first, the leader signs the head with it, and then the one before can go.
func TestAStateKeyIsReplaced(t *testing.T) {
	t.Parallel()
	before, after := stateKey(1), stateKey(2)
	r := replicasWithKeyFiles(t, before)
	server, a, b, writeA, writeB, term, state := r.server, r.a, r.b, r.writeA, r.writeB, r.term, r.state
	oldID := a.StateKeys.SignerID()

	writeB(before, after)
	writeA(before, after)
	eventually(t, "both have both keys", func() bool {
		return b.StateKeys.Verify(signWith(t, after), "x") == nil && a.StateKeys.Verify(signWith(t, after), "x") == nil
	})
	writeA(after, before)
	writeB(after, before)
	signed := func(key string) func() bool {
		return func() bool {
			return strings.Contains(server.Ctl("get", key), a.StateKeys.SignerID()) && a.StateKeys.SignerID() != oldID
		}
	}
	eventually(t, "the head is signed with the new key", signed("/hfi/head"))
	eventually(t, "the epoch is signed with the new key", signed("/hfi/epoch"))
	writeA(after)
	writeB(after)
	eventually(t, "the key before is gone", func() bool {
		return a.StateKeys.Verify(signWith(t, before), "x") != nil && b.StateKeys.Verify(signWith(t, before), "x") != nil
	})
	fresh, _ := withKeyFile(t, externalStore("fresh", server.Endpoint), after)
	for _, s := range []*Store{a, b, fresh} {
		eventually(t, s.ID+" has verified the head", func() bool {
			view := s.View()
			return view.HeadVerified && view.State.Head.Commit == "c1" && view.State.Revision.Epoch == state.Revision.Epoch && state.Revision.Before(view.State.Revision)
		})
	}
	publish(t, term, publication("c2", policies(t, 3, 200)))
}

func signWith(t *testing.T, line string) statekey.Signature {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := statekey.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return keys.Sign("x")
}

// A replica that lacks the leader's key keeps what it serves, and goes on when it gets the key.
func TestAReplicaWithoutTheKeyGetsItLater(t *testing.T) {
	t.Parallel()
	before, after := stateKey(1), stateKey(2)
	r := replicasWithKeyFiles(t, before)
	b, writeA, writeB, term, state := r.b, r.writeA, r.writeB, r.term, r.state
	writeA(after, before)
	eventually(t, "the follower cannot verify the head", func() bool { return !b.View().HeadVerified })
	newer := publish(t, term, publication("c2", policies(t, 3, 200)))
	serveStill(t, state, newer.Revision.Number, b)
	writeB(after)
	eventually(t, "the follower has the newer state", serves(b, newer))
}

// A replica that has nothing but another key begins an epoch after the one
// that it cannot verify: clients take no set of an earlier one.
func TestALostKeyIsALaterEpoch(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	known := externalStore("known", server.Endpoint)
	known.Known = reconciler.Revision{Epoch: reconciler.Epoch{Number: 7, ID: "before"}, Number: 1000}
	openStore(t, known)
	term := campaign(t, known)
	state := publish(t, term, publication("c1", policies(t, 3, 100)))
	if err := term.Resign(testContext(t)); err != nil {
		t.Fatal(err)
	}
	other, _ := withKeyFile(t, externalStore("other", server.Endpoint), stateKey(1))
	if again := publish(t, campaign(t, other), publication("c1", policies(t, 3, 100))); !state.Revision.Before(again.Revision) {
		t.Errorf("after %s came %s", state.Revision, again.Revision)
	}
}

// The history has no entry that no leader wrote, nor one in another's place: it
// says what a revert restores, and who did what.
func TestAForgedHistoryIsNotShown(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	publish(t, term, publication("c1", policies(t, 3, 100)))
	publish(t, term, publication("c2", policies(t, 3, 200)))
	attacker := newAttacker(t, server)
	genuine := attacker.record("/hfi/history/000000000001", nil)
	forged := strings.Replace(genuine, "subject of c1", "subject of evil", 1)
	if forged == genuine {
		t.Fatalf("the entry is %s", genuine)
	}
	plain := encode(publication("evil", policies(t, 1, 1)).Entry)
	revision := attacker.write(clientv3.OpPut("/hfi/history/000000000001", forged), clientv3.OpPut("/hfi/history/000000000003", plain),
		clientv3.OpPut("/hfi/history/000000000004", genuine), clientv3.OpPut("/hfi/history/000000000005", attacker.record("/hfi/history/000000000002", nil)))
	for _, s := range []*Store{a, b} {
		seen, err := s.waitRevision(testContext(t), revision)
		if err != nil {
			t.Fatal(err)
		}
		if history := seen.view.History; len(history) != 1 || history[0].Commit != "c2" {
			t.Errorf("the history on %s is %+v", s.ID, history)
		}
	}
}
