package etcd

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Bounds of what is kept of the candidates' keys, since anyone who can write
// to etcd can write such keys. There are as many candidates as replicas.
const (
	maxCandidates = 512
	maxID         = 1024
)

// candidate is a replica that leads or waits to.
type candidate struct {
	key                         string
	id                          string
	lease                       int64
	createRevision, modRevision int64
	// malformed says that no replica wrote the key.
	malformed bool
}

// newCandidate reads a key under leader/: the lease in hexadecimal, which the
// key also has, and the replica's ID.
func newCandidate(prefix string, kv *mvccpb.KeyValue) candidate {
	c := candidate{
		key: string(kv.Key), id: string(kv.Value[:min(len(kv.Value), maxID)]), lease: kv.Lease,
		createRevision: kv.CreateRevision, modRevision: kv.ModRevision,
	}
	c.malformed = kv.Lease == 0 || c.key != candidateKey(prefix, clientv3.LeaseID(kv.Lease)) || len(kv.Value) == 0 || len(kv.Value) > maxID
	return c
}

// candidateKey is the key of a candidate with a lease.
func candidateKey(prefix string, lease clientv3.LeaseID) string {
	return fmt.Sprintf("%s/%x", prefix, int64(lease))
}

// putCandidate applies that a key under leader/ was written. Of more keys than
// there can be replicas the oldest are kept, of which one leads.
func (c *cache) putCandidate(kv *mvccpb.KeyValue) {
	written := newCandidate(c.keys.leader(), kv)
	if _, known := c.leaders[written.key]; !known && len(c.leaders) >= maxCandidates {
		newest := slices.MaxFunc(slices.Collect(maps.Values(c.leaders)), func(a, b candidate) int {
			return cmp.Compare(a.createRevision, b.createRevision)
		})
		if newest.createRevision <= written.createRevision {
			c.dropLeader(written)
			return
		}
		c.dropLeader(newest)
		delete(c.leaders, newest.key)
	}
	c.leaders[written.key] = written
}

// dropLeader notes that a candidate is not kept.
func (c *cache) dropLeader(dropped candidate) {
	if c.leadersDropped == 0 || dropped.createRevision < c.leadersDropped {
		c.leadersDropped = dropped.createRevision
	}
}

// leader is the candidate that leads: the one whose key is the oldest of all,
// whoever wrote the others. A leader's key that another writer replaced keeps
// its create revision, and so that leader can still write: nobody else may
// lead until the key is deleted.
func (c *cache) leader() (candidate, bool) {
	var first candidate
	for _, candidate := range c.leaders {
		if first.createRevision == 0 || candidate.createRevision < first.createRevision {
			first = candidate
		}
	}
	return first, first.createRevision != 0 && !c.olderDropped(first)
}

// olderDropped reports whether an older key than the candidate's was dropped.
func (c *cache) olderDropped(first candidate) bool {
	return c.leadersDropped != 0 && c.leadersDropped < first.createRevision
}

// leadersMissing reports that candidates were dropped that must be known now:
// there is room again for them, or one of them may lead.
func (c *cache) leadersMissing() bool {
	if c.leadersDropped == 0 {
		return false
	}
	_, leads := c.leader()
	return !leads || len(c.leaders) < maxCandidates/2
}

// lost reports that the key of a leader or candidate, which the cache has
// seen, is gone or was created by another writer since.
func (c *cache) lost(own termKey) bool {
	if c.revision < own.revision {
		return false
	}
	present, ok := c.leaders[own.key]
	if !ok {
		return c.leadersDropped == 0
	}
	return present.createRevision != own.revision
}

// leads reports whether the candidate leads that has this key, and wrote it.
func (c *cache) leads(own termKey) bool {
	leader, ok := c.leader()
	return ok && leader.key == own.key && leader.createRevision == own.revision
}

// trackLeader notes since when the same candidate leads.
func (t *tracker) trackLeader(now time.Time) {
	leader, _ := t.cache.leader()
	if leader.key != t.leader.key || leader.createRevision != t.leader.createRevision {
		t.leader, t.leaderSince = leader, now
	}
}

// leaderProven reports whether the leader has shown that it is a replica: the
// first that one does is to write the term's key, and then its report.
func (t *tracker) leaderProven() bool {
	leader, leads := t.cache.leader()
	return leads && (t.cache.term == leader.createRevision || t.cache.reportCurrent())
}

// maxForeign bounds the foreign candidates that are deleted at a time, the
// oldest first, since it is the oldest that everyone waits for.
const maxForeign = 100

// foreignCandidates are those under leader/ that no replica wrote, but which
// every candidate would wait for: malformed ones, and one that has led for
// proofGrace without having shown that it is a replica, and is not registered
// as one either: an earlier version shows it later. own is the key of the
// candidate who asks.
func (t *tracker) foreignCandidates(now time.Time, own string) []candidate {
	if t.cache == nil {
		return nil
	}
	var foreign []candidate
	for _, candidate := range t.cache.leaders {
		if candidate.malformed {
			foreign = append(foreign, candidate)
		}
	}
	slices.SortFunc(foreign, func(a, b candidate) int { return cmp.Compare(a.createRevision, b.createRevision) })
	foreign = foreign[:min(len(foreign), maxForeign)]
	leader, leads := t.cache.leader()
	well := t.phase == cacheFollowing && t.health.Healthy && len(t.health.Alarms) == 0
	_, registered := t.cache.replicas[leader.id]
	if leads && leader.key != own && !leader.malformed && well && !registered && !t.leaderProven() && now.Sub(t.leaderSince) >= t.proofGrace {
		foreign = append(foreign, leader)
	}
	return foreign
}

// deleteForeignCandidates deletes them for the candidate with the key own,
// unless they have changed or the leader has proven itself since.
func (s *Store) deleteForeignCandidates(ctx context.Context, own string) error {
	var foreign []candidate
	var term int64
	err := s.inspect(func(t *tracker) {
		if foreign = t.foreignCandidates(s.Clock(), own); len(foreign) > 0 {
			term = t.cache.termModified
		}
	})
	if err != nil || len(foreign) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.RequestTimeout)
	defer cancel()
	s.logger.Warn("deleting keys that no replica wrote and that block elections", "keys", len(foreign), "first_key", foreign[0].key)
	changed := 0
	for _, candidate := range foreign {
		response, err := s.etcd().Txn(ctx).If(
			clientv3.Compare(clientv3.ModRevision(candidate.key), "=", candidate.modRevision),
			clientv3.Compare(clientv3.ModRevision(s.keys.term()), "=", term),
		).Then(clientv3.OpDelete(candidate.key)).Commit()
		if err != nil {
			s.suspect(err)
			return explain(err)
		}
		if !response.Succeeded {
			changed++
		}
	}
	if changed > 0 {
		return fmt.Errorf("%d of %d keys, or the leader, have changed since", changed, len(foreign))
	}
	return nil
}
