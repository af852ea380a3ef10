package etcd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/reconciler/fleet"
)

// Bounds of what is kept of the replicas' keys, since anyone who can write to
// etcd can write such keys: maxReplicas are listed, maxRegistrations kept, and
// maxAdvertise is in bytes.
const (
	maxReplicas      = 64
	maxRegistrations = 512
	maxAdvertise     = 2048
)

// registration is what the key of a replica says. A process has one lease at a time.
type registration struct {
	url                   string
	lease, createRevision int64
}

// replicaRecord is the value of a replica's key. URL is empty for a replica
// that its peers cannot reach; they must know that it exists anyway.
type replicaRecord struct {
	Format int    `json:"format"`
	URL    string `json:"url"`
}

// putReplica applies that the key of a replica was written. Keys without a
// lease were not written by a replica, and count as absent.
func (c *cache) putReplica(id string, kv *mvccpb.KeyValue) {
	if before, known := c.replicas[id]; known && before.lease != kv.Lease {
		c.removeReplica(id)
	}
	var record replicaRecord
	if kv.Lease == 0 || !plausibleID(id) || len(kv.Value) > 2*maxAdvertise || json.Unmarshal(kv.Value, &record) != nil {
		return
	}
	if _, known := c.replicas[id]; !known && len(c.replicas) >= maxRegistrations {
		newest := c.newestReplica()
		c.replicasDropped = true
		if id != c.self && c.replicas[newest].createRevision <= kv.CreateRevision {
			return
		}
		delete(c.replicas, newest)
	}
	c.replicas[id] = registration{url: record.URL, lease: kv.Lease, createRevision: kv.CreateRevision}
}

// newestReplica is the ID of the newest key that is kept, other than this replica's.
func (c *cache) newestReplica() (newest string) {
	for id, registered := range c.replicas {
		if id != c.self && (newest == "" || registered.createRevision > c.replicas[newest].createRevision) {
			newest = id
		}
	}
	return newest
}

// replicasMissing reports that keys of replicas were dropped, and that there is
// room for them now.
func (c *cache) replicasMissing() bool {
	return c.replicasDropped && len(c.replicas) < maxRegistrations/2
}

// listedReplicas are the IDs of at most maxReplicas: this one, then candidates,
// since every replica is one, then the oldest. So keys that another writer adds
// displace no replica that was there before. candidates are how many each ID has.
func (c *cache) listedReplicas(candidates map[string]int) []string {
	listed := slices.Collect(maps.Keys(c.replicas))
	if len(listed) <= maxReplicas {
		return listed
	}
	rank := func(id string) int {
		switch {
		case id == c.self:
			return 0
		case candidates[id] > 0:
			return 1
		}
		return 2
	}
	slices.SortFunc(listed, func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(c.replicas[a].createRevision, c.replicas[b].createRevision))
	})
	return listed[:maxReplicas]
}

// plausibleID reports whether a replica can have that ID: nobody names one with
// a page of text, or with what a terminal acts upon.
func plausibleID(id string) bool {
	return id != "" && len(id) <= maxID && utf8.ValidString(id) && !strings.ContainsFunc(id, unicode.IsControl)
}

func (c *cache) removeReplica(id string) {
	if _, known := c.replicas[id]; known && id != c.self {
		c.losses++
	}
	delete(c.replicas, id)
}

// candidateCounts are how many candidates have each ID. Several live daemons
// with the same ID share one key under replicas/, but each is a candidate.
func (c *cache) candidateCounts() map[string]int {
	counts := make(map[string]int, len(c.leaders))
	for _, candidate := range c.leaders {
		if candidate.lease != 0 {
			counts[candidate.id]++
		}
	}
	return counts
}

// Replicas are the daemons registered in this store.
func (s *Store) Replicas() fleet.Replicas {
	newest := s.current()
	replicas := fleet.Replicas{List: newest.replicas, LostAt: newest.replicaLostAt}
	switch {
	case !newest.view.Health.Healthy:
		replicas.IncompleteReason = "etcd cannot be reached, so it is not known which replicas there are: " + newest.view.Health.Error
	case len(replicas.List) >= maxReplicas:
		replicas.IncompleteReason = fmt.Sprintf("there may be more than %d replicas", maxReplicas)
	}
	return replicas
}

// register keeps this replica's key in etcd until the store is closed. The key
// has a lease, so that it goes with its process.
func (s *Store) register() { s.repeat("registering this replica", s.registerOnce) }

// registerOnce writes the key, and returns when it or its lease is lost.
func (s *Store) registerOnce() error {
	session, err := s.newSession(s.ctx, nil)
	if err != nil {
		return err
	}
	defer session.orphan()
	ctx, cancel := context.WithTimeout(s.ctx, s.RequestTimeout)
	put, err := s.etcd().Put(ctx, s.keys.replica(s.ID), encode(replicaRecord{Format: formatVersion, URL: s.Advertise}), clientv3.WithLease(session.lease))
	cancel()
	if err != nil {
		s.revoke(session.lease)
		return explain(err)
	}
	s.mu.Lock()
	s.registered = session.lease
	s.mu.Unlock()
	ticker := time.NewTicker(s.ProbeInterval)
	defer ticker.Stop()
	for {
		select {
		case <-session.done:
			return errors.New("the lease is lost")
		case <-ticker.C:
			if s.unregistered(put.Header.Revision) {
				s.revoke(session.lease)
				return errors.New("the key is gone")
			}
		}
	}
}

// unregistered reports that this replica's key, written at a revision, is
// gone. It is not gone if another daemon with the same ID has overwritten it:
// else both would overwrite each other's key without end.
func (s *Store) unregistered(written int64) bool {
	newest := s.current()
	if newest.phase == cacheEmpty || newest.revision < written {
		return false
	}
	for _, replica := range newest.replicas {
		if replica.ID == s.ID {
			return false
		}
	}
	return true
}

// deregister deletes this replica's key at once, if etcd can be reached.
func (s *Store) deregister() {
	s.mu.Lock()
	lease := s.registered
	s.mu.Unlock()
	if lease != 0 && s.View().Health.Healthy {
		s.revoke(lease)
	}
}
