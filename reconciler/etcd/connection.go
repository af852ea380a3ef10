package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/backoff"
)

// connection is a client of etcd, and what it was made of.
type connection struct {
	client *clientv3.Client
	config clientv3.Config
	// files identifies the content of the files that config was read from.
	files [32]byte
}

// etcd is the client. It must not be kept: another one follows it when a
// password or certificate has changed.
func (s *Store) etcd() *clientv3.Client { return s.connection.Load().client }

// settings reads the client's settings.
func (s *Store) settings() (clientv3.Config, [32]byte, error) {
	if s.Embedded != nil {
		return clientv3.Config{Endpoints: []string{localAddress(s.Embedded.Address())}}, [32]byte{}, nil
	}
	files := s.Access.fingerprint()
	config, err := s.Access.config()
	return config, files, err
}

// open reads the settings and connects. It waits for etcd only if there is a password.
func (s *Store) open() (*connection, error) {
	config, files, err := s.settings()
	if err != nil {
		return nil, fmt.Errorf("etcd's settings: %w", err)
	}
	client, err := s.connect(s.ctx, config)
	if err != nil {
		return nil, err
	}
	return &connection{client: client, config: config, files: files}, nil
}

// connectAgain tries until there is a client, or returns false when the store is closed.
func (s *Store) connectAgain() bool {
	for waits := s.waits(); ; {
		began := s.Clock()
		opened, err := s.open()
		if err == nil {
			s.connection.Store(opened)
			return true
		}
		s.unreachable(began, err)
		if backoff.Sleep(s.ctx, waits.NextBackOff()) != nil {
			return false
		}
	}
}

// renewEvery is the interval between checks of the files with credentials.
const renewEvery = time.Second

// renew makes another client whenever the files with credentials have changed,
// until the store is closed. The one before stays in use until etcd accepts the
// new credentials: a file may change before etcd's own settings do.
func (s *Store) renew() {
	waits := backoff.New(renewEvery, 10*time.Second)
	var failed [32]byte
	for wait := renewEvery; backoff.Sleep(s.ctx, wait) == nil; {
		wait = renewEvery
		files := s.Access.fingerprint()
		if files == s.connection.Load().files {
			continue
		}
		err := s.renewOnce()
		if err == nil {
			waits.Reset()
			continue
		}
		if files != failed {
			s.logger.Warn("the changed credentials for etcd do not work; trying again, and using the ones before", "error", err)
		}
		failed, wait = files, waits.NextBackOff()
	}
}

func (s *Store) renewOnce() error {
	next, err := s.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.RequestTimeout)
	defer cancel()
	if _, err := next.client.Get(ctx, s.keys.head(), clientv3.WithKeysOnly()); err != nil {
		_ = next.client.Close()
		return s.diagnose(next.config, err)
	}
	before := s.connection.Swap(next)
	s.logger.Info("using changed credentials for etcd")
	// What still uses it fails, and is tried again with the new one.
	if err := before.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		s.logger.Debug("closing the client before failed", "error", err)
	}
	return nil
}

// suspect has the endpoints checked if an error may come from a member that
// does not answer.
func (s *Store) suspect(err error) {
	if err == nil || !transient(err) {
		return
	}
	select {
	case s.suspected <- struct{}{}:
	default:
	}
}

// several reports whether there are several endpoints to choose from.
func (s *Store) several() bool { return s.Embedded == nil && len(s.Access.Endpoints) > 1 }

// recheckEvery is the time between two checks of the endpoints while some are left out.
const recheckEvery = 5 * time.Second

// monitorEndpoints leaves out endpoints that do not answer, until they do: etcd's
// client would go on sending every n-th request to a member that hangs, and
// notices that only after 13 s.
func (s *Store) monitorEndpoints() {
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	for leftOut := false; ; {
		select {
		case <-s.ctx.Done():
			return
		case <-s.suspected:
		case <-tick.C:
			if !leftOut {
				continue
			}
		}
		leftOut = s.checkEndpoints()
		if backoff.Sleep(s.ctx, s.TryTimeout/2) != nil {
			return
		}
	}
}

// checkEndpoints asks all endpoints, and uses those that answer. It reports
// whether it left some out. If none answers, all stay in use.
func (s *Store) checkEndpoints() bool {
	connection := s.connection.Load()
	all := connection.config.Endpoints
	using := s.answering(connection.client, all, s.TryTimeout)
	// All may be slow, or about to elect a leader.
	for began, limit := time.Now(), s.TryTimeout; len(using) == 0 && time.Since(began) < s.RequestTimeout; {
		// Members without a leader answer at once, and each question is a connection of its own.
		if backoff.Sleep(s.ctx, s.TryTimeout/5) != nil {
			break
		}
		limit = min(2*limit, s.RequestTimeout)
		using = s.answering(connection.client, all, limit)
	}
	if len(using) == 0 {
		using = slices.Clone(all)
	}
	before := connection.client.Endpoints()
	if s.ctx.Err() != nil || slices.Equal(using, before) {
		return len(using) < len(all)
	}
	connection.client.SetEndpoints(using...)
	if len(using) < len(all) {
		s.logger.Warn("members of etcd do not answer; using the others", "using", using)
		s.tries.interrupt()
		// The watch may be with one of those that were left out.
		select {
		case s.rewatch <- struct{}{}:
		default:
		}
	} else {
		s.logger.Info("all members of etcd are used again", "using", using)
	}
	return len(using) < len(all)
}

// answering are the endpoints that answer within a limit, and see a leader. Once
// one has answered, the others have about as long again, and TryTimeout at least:
// a member that hangs would take the whole limit, while a leader is elected.
func (s *Store) answering(client *clientv3.Client, endpoints []string, limit time.Duration) []string {
	leads, done := make([]bool, len(endpoints)), make(chan bool, len(endpoints))
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	began := time.Now()
	for i, endpoint := range endpoints {
		go func() {
			status, err := client.Status(ctx, endpoint)
			// One that refuses the request answers; one that sees no leader cannot serve.
			refuses := err != nil && !transient(err) && ctx.Err() == nil
			leads[i] = err == nil && status.Leader != 0 || refuses
			done <- err == nil || refuses
		}()
	}
	first := true
	for range endpoints {
		if answered := <-done; answered && first {
			first = false
			took := time.Since(began)
			defer time.AfterFunc(max(took, s.TryTimeout-took), cancel).Stop()
		}
	}
	var answering []string
	for i, endpoint := range endpoints {
		if leads[i] {
			answering = append(answering, endpoint)
		}
	}
	return answering
}
