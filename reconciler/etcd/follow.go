package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
)

// run follows etcd until the store is closed.
func (s *Store) run(config clientv3.Config) {
	if s.Embedded != nil {
		if !s.startEmbedded() {
			return
		}
		config.Endpoints = []string{localAddress(s.Embedded.Address())}
		s.work.Go(s.watchEmbedded)
	}
	for wait := time.Duration(0); ; {
		client, err := s.connect(s.ctx, config)
		if err == nil {
			s.mu.Lock()
			s.client, s.config = client, config
			close(s.connected)
			s.mu.Unlock()
			break
		}
		s.unhealthy(err)
		if !s.pause(&wait) {
			return
		}
	}
	s.work.Go(s.probe)
	s.work.Go(s.register)
	s.revokeOldLease()
	for wait := time.Duration(0); ; {
		began := time.Now()
		err := s.follow()
		if s.ctx.Err() != nil {
			return
		}
		if time.Since(began) > 5*time.Second {
			wait = 0
		}
		if err != nil {
			s.logger.Debug("following etcd", "error", err)
		}
		if !s.pause(&wait) {
			return
		}
	}
}

// pause waits, a little longer each time, and says whether to go on.
func (s *Store) pause(wait *time.Duration) bool {
	*wait = min(max(2**wait, 50*time.Millisecond), 2*time.Second)
	select {
	case <-time.After(*wait):
		return true
	case <-s.ctx.Done():
		return false
	}
}

func (s *Store) startEmbedded() bool {
	for wait := time.Duration(0); ; {
		err := s.Embedded.Open(s.ctx)
		if err == nil {
			return true
		}
		s.unhealthy(err)
		if errors.Is(err, ErrDamaged) {
			// Parts of the broken server may still hold its files: there is no second try in this process.
			s.logger.Error("etcd stays away: what was last served is served on", "error", err)
			return false
		}
		s.logger.Warn("the embedded etcd did not start; trying again", "error", err)
		if !s.pause(&wait) {
			return false
		}
	}
}

// localAddress is where to reach a server that may listen on all addresses.
func localAddress(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return address
}

func (s *Store) watchEmbedded() {
	select {
	case <-s.Embedded.Failed():
		s.unhealthy(fmt.Errorf("%w; restart hfid once that is mended", s.Embedded.Err()))
	case <-s.ctx.Done():
	}
}

// follow reads etcd, or takes up where the mirror stands, and applies what a watch tells.
func (s *Store) follow() error {
	s.mu.Lock()
	load := s.mirror == nil || s.mustLoad
	s.mu.Unlock()
	select {
	case <-s.reload:
	default:
	}
	if load {
		if err := s.load(s.ctx); err != nil {
			return err
		}
		s.healthy()
	}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(s.ctx))
	defer cancel()
	s.mu.Lock()
	from := s.mirror.revision + 1
	s.mu.Unlock()
	watch := s.client.Watch(ctx, string(s.keys), clientv3.WithPrefix(), clientv3.WithRev(from))
	for {
		select {
		case <-s.reload:
			return errors.New("etcd does not hold what was followed")
		case response, ok := <-watch:
			if !ok {
				return errors.New("the watch ended")
			}
			if err := response.Err(); err != nil {
				s.mu.Lock()
				s.mustLoad = s.mustLoad || errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev)
				s.mu.Unlock()
				return fmt.Errorf("the watch ended: %w", err)
			}
			s.apply(response.Events)
		}
	}
}

// apply takes in events, revision by revision; etcd never splits one.
func (s *Store) apply(events []*clientv3.Event) {
	if len(events) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mirror
	triggered, losses := m.trigger, m.losses
	head := s.keys.head()
	for i := 0; i < len(events); {
		revision, headWritten := events[i].Kv.ModRevision, false
		for ; i < len(events) && events[i].Kv.ModRevision == revision; i++ {
			if events[i].Type == clientv3.EventTypeDelete {
				m.remove(string(events[i].Kv.Key))
				continue
			}
			m.put(events[i].Kv)
			headWritten = headWritten || string(events[i].Kv.Key) == head
		}
		m.revision = revision
		s.adoptEpoch()
		if !s.epochWanted {
			s.seen = max(s.seen, revision)
		}
		if headWritten {
			s.takeUp()
		}
	}
	m.settle()
	if m.losses != losses {
		s.replicaLostAt = s.Clock()
	}
	s.noteChange(m.trigger != triggered)
}

// noteChange follows up a change of the mirror. The caller holds mu.
func (s *Store) noteChange(triggered bool) {
	m := s.mirror
	switch {
	case !m.midPublication():
		s.midSince = time.Time{}
	case s.midSince.IsZero():
		s.midSince = time.Now()
	}
	s.noteDrift()
	if t := s.term; t != nil {
		if _, present := m.leaders[t.key]; !present && m.revision >= t.revision {
			t.end()
		} else if triggered {
			t.trigger()
		}
	}
	if number := s.epoch.Number; s.epochWanted && m.epoch.valid && m.floor < number {
		s.work.Go(func() { s.raiseFloor(number) })
	}
	s.signal()
}

// noteDrift keeps track of since when there is drift; what it is, Drift finds
// out when it is asked. The caller holds mu.
func (s *Store) noteDrift() {
	if s.driftFresh && s.driftSeen.Status == api.DriftNone && s.heldBack() {
		// There was none before the publication now under way.
		return
	}
	s.driftFresh = false
	switch comparable := s.comparable(); {
	case !comparable:
		s.driftSince = nil
	case !s.mirror.drifted(s.state, s.epoch, s.renewed()):
		s.driftSince = nil
		s.driftSeen = api.Drift{Status: api.DriftNone, Items: []api.DriftItem{}}
		s.driftFresh = true
	case s.driftSince == nil:
		now := s.Clock()
		s.driftSince = &now
	}
}

// adoptEpoch puts the store's epoch in force if it is a later one. The caller holds mu.
func (s *Store) adoptEpoch() {
	if stored := s.mirror.epoch; stored.valid && stored.value.Number > s.epoch.Number {
		s.epoch, s.epochRevision, s.epochWanted = stored.value, stored.modRevision, false
		s.seen = stored.modRevision
	}
}

// takeUp makes the mirror's set the state, if it is what the head says. The
// mirror stands at the head's revision. The caller holds mu.
func (s *Store) takeUp() {
	m := s.mirror
	m.settle()
	revision := reconciler.Revision{Epoch: s.epoch, Number: m.head.modRevision}
	if !m.head.valid || s.epoch.Number == 0 || s.wantsEpoch() || revision.Number < s.epochRevision {
		return
	}
	if !verified(m.head.value, m.set) || revision.Before(s.Known) || s.state != nil && revision.Before(s.state.Revision) {
		return
	}
	if s.state != nil {
		m.share(s.state.Set)
	}
	m.share(s.hint)
	s.state = &reconciler.State{Head: m.head.value, Set: m.set, Revision: revision}
}

// wantsEpoch says whether the leader must begin another epoch. The caller holds mu.
func (s *Store) wantsEpoch() bool {
	return s.epochWanted || s.epoch.Number == 0 || s.mirror.floor >= s.epoch.Number && s.mirror.epoch.valid && s.mirror.epoch.value == s.epoch
}

// revokeOldLease ends the leadership of the process before this one in the
// same data folder, which is dead: the folder is locked.
func (s *Store) revokeOldLease() {
	path := s.leaseFile()
	if path == "" {
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return
	}
	lease, err := strconv.ParseInt(strings.TrimSpace(string(text)), 16, 64)
	if err == nil {
		ctx, cancel := context.WithTimeout(s.ctx, s.RequestTimeout)
		_, err = s.client.Revoke(ctx, clientv3.LeaseID(lease))
		cancel()
	}
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		s.logger.Info("the former process's leadership has to run out", "error", err)
	}
}

func (s *Store) leaseFile() string {
	if s.DataDir == "" {
		return ""
	}
	return filepath.Join(s.DataDir, "etcd-lease")
}
