package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler/fleet"
)

// maxReplicas and maxAdvertise (in bytes) bound what is kept of replicas'
// keys, which anybody who can write to etcd can make up.
const (
	maxReplicas  = 64
	maxAdvertise = 2048
)

// registration is what the key of a replica says. Its lease is one life of its process.
type registration struct {
	url   string
	lease int64
}

// replicaRecord is the value of a replica's key. URL is empty for a replica
// that peers cannot reach: they have to know that it exists all the same.
type replicaRecord struct {
	Format int    `json:"format"`
	URL    string `json:"url"`
}

// putReplica takes in the key of a replica. Replicas' keys hang on leases:
// one that does not is a stranger's.
func (m *mirror) putReplica(id string, kv *mvccpb.KeyValue) {
	if before, known := m.replicas[id]; known && before.lease != kv.Lease {
		m.removeReplica(id)
	}
	var record replicaRecord
	if kv.Lease == 0 || len(kv.Value) > 2*maxAdvertise || json.Unmarshal(kv.Value, &record) != nil || len(m.replicas) >= maxReplicas {
		return
	}
	m.replicas[id] = registration{url: record.URL, lease: kv.Lease}
}

func (m *mirror) removeReplica(id string) {
	if _, known := m.replicas[id]; known && id != m.self {
		m.losses++
	}
	delete(m.replicas, id)
}

// namesakes says whether several daemons that live call themselves by one ID:
// each is a candidate, but they share one key under replicas/.
func (m *mirror) namesakes(id string) bool {
	count := 0
	for _, one := range m.leaders {
		if one.id == id && one.lease != 0 {
			count++
		}
	}
	return count > 1
}

// Replicas are the daemons registered in this store.
func (s *Store) Replicas() fleet.Replicas {
	s.mu.Lock()
	defer s.mu.Unlock()
	replicas := fleet.Replicas{LostAt: s.replicaLostAt}
	if !s.health.Healthy {
		replicas.Doubt = "etcd cannot be seen, and with it which replicas there are: " + s.health.Error
	}
	if s.mirror == nil {
		return replicas
	}
	for id, one := range s.mirror.replicas {
		replica := api.Replica{ID: id, URL: one.url}
		if s.mirror.namesakes(id) {
			replica.Error = "several daemons call themselves that: give each its own --replica-id"
		}
		replicas.List = append(replicas.List, replica)
	}
	if len(replicas.List) >= maxReplicas && replicas.Doubt == "" {
		replicas.Doubt = fmt.Sprintf("there may be more than %d replicas", maxReplicas)
	}
	slices.SortFunc(replicas.List, func(a, b api.Replica) int { return strings.Compare(a.ID, b.ID) })
	return replicas
}

// register keeps this replica's key in etcd: under a lease, so that it goes
// with its process, and written anew when the lease or the key is lost.
func (s *Store) register() {
	for wait := time.Duration(0); ; {
		began := time.Now()
		if err := s.registerOnce(); err != nil && s.ctx.Err() == nil {
			s.logger.Debug("registering this replica", "error", err)
		}
		if time.Since(began) > 5*time.Second {
			wait = 0
		}
		if s.ctx.Err() != nil || !s.pause(&wait) {
			return
		}
	}
}

// registerOnce returns when the key or its lease is lost.
func (s *Store) registerOnce() error {
	ttl := max(int64(s.LeaseTTL/time.Second), 1)
	limit, cancel := context.WithTimeout(s.ctx, s.RequestTimeout)
	defer cancel()
	lease, err := s.client.Grant(limit, ttl)
	if err != nil {
		return explain(err)
	}
	ctx, stop := context.WithCancel(s.ctx)
	defer stop()
	alive, err := s.client.KeepAlive(ctx, lease.ID)
	if err != nil {
		s.revoke(lease.ID)
		return explain(err)
	}
	put, err := s.client.Put(limit, s.keys.replica(s.ID), encode(replicaRecord{Format: formatVersion, URL: s.Advertise}), clientv3.WithLease(lease.ID))
	if err != nil {
		s.revoke(lease.ID)
		return explain(err)
	}
	s.mu.Lock()
	s.registered = lease.ID
	s.mu.Unlock()
	ticker := time.NewTicker(s.ProbeInterval)
	defer ticker.Stop()
	for {
		select {
		case _, ok := <-alive:
			if !ok {
				return errors.New("the lease is lost")
			}
		case <-ticker.C:
			if s.unregistered(put.Header.Revision) {
				s.revoke(lease.ID)
				return errors.New("the key is gone")
			}
		}
	}
}

// unregistered says that this replica's key, written at a revision, is not
// there any more. One that another daemon has written in its place is: two of
// one name would else write for ever, each in the other's place.
func (s *Store) unregistered(written int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mirror == nil || s.mirror.revision < written {
		return false
	}
	_, there := s.mirror.replicas[s.ID]
	return !there
}

// deregister takes this replica's key away at once, should etcd be there.
func (s *Store) deregister() {
	s.mu.Lock()
	lease, healthy := s.registered, s.health.Healthy
	s.mu.Unlock()
	if lease != 0 && healthy {
		s.revoke(lease)
	}
}
