package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/backoff"
	"github.com/boifi/hfi/internal/datadir"
)

// run follows etcd until the store is closed.
func (s *Store) run() {
	starts := backoff.New(50*time.Millisecond, maxEmbeddedWait)
	if s.Embedded != nil {
		if !s.startEmbedded(starts) {
			return
		}
		s.step(connecting{endpoints: []string{localAddress(s.Embedded.Address())}})
	}
	if !s.connectAgain() {
		return
	}
	if s.Embedded != nil {
		s.work.Go(func() { s.keepEmbedded(starts) })
	}
	if s.several() {
		s.work.Go(s.monitorEndpoints)
	}
	if s.Embedded == nil && s.Access.hasFiles() {
		s.work.Go(s.renew)
	}
	s.work.Go(s.probe)
	// Before a campaign of this process notes another lease in the same file.
	s.revokeOldLease()
	close(s.connected)
	s.work.Go(s.register)
	s.work.Go(s.announceEpochs)
	s.repeat("following etcd", s.follow)
}

// repeat calls f, which returns when it failed, until the store is closed.
// The waits between the calls grow unless f worked for a while.
func (s *Store) repeat(doing string, f func() error) {
	const working = 5 * time.Second
	for waits := s.waits(); s.ctx.Err() == nil; {
		began := time.Now()
		if err := f(); err != nil && s.ctx.Err() == nil {
			s.logger.Debug(doing+" ended; trying again", "error", err)
		}
		if time.Since(began) > working {
			waits.Reset()
		}
		_ = backoff.Sleep(s.ctx, waits.NextBackOff()) // The loop ends with ctx.
	}
}

// maxEmbeddedWait bounds the wait between two starts of the embedded server.
const maxEmbeddedWait = 10 * time.Second

// embeddedWorks is how long the embedded server has to run until the waits
// before its next starts begin with the shortest again.
const embeddedWorks = time.Minute

// startEmbedded tries until the embedded server runs, or returns false when the store is closed.
func (s *Store) startEmbedded(waits *backoff.Waits) bool {
	said := ""
	for {
		began := s.Clock()
		err := s.Embedded.Open(s.ctx)
		if err == nil {
			return true
		}
		if s.ctx.Err() != nil {
			return false
		}
		s.unreachable(began, err)
		if text := err.Error(); text != said {
			said = text
			s.logger.Error("the embedded etcd does not start; it is tried again, and the state served last stays served", "error", err)
		}
		if backoff.Sleep(s.ctx, waits.NextBackOff()) != nil {
			return false
		}
	}
}

// keepEmbedded starts the embedded server again whenever it has failed.
func (s *Store) keepEmbedded(waits *backoff.Waits) {
	for {
		began := time.Now()
		select {
		case <-s.Embedded.Failed():
		case <-s.ctx.Done():
			return
		}
		err, before := s.Embedded.Err(), s.Embedded.Address()
		s.logger.Error("the embedded etcd is started again", "error", err)
		s.unreachable(s.Clock(), err)
		if time.Since(began) > embeddedWorks {
			waits.Reset()
		}
		if backoff.Sleep(s.ctx, waits.NextBackOff()) != nil || !s.startEmbedded(waits) {
			return
		}
		s.logger.Info("the embedded etcd runs again")
		if address := s.Embedded.Address(); address != before {
			endpoints := []string{localAddress(address)}
			moved := *s.connection.Load()
			moved.config.Endpoints = endpoints
			moved.client.SetEndpoints(endpoints...)
			s.connection.Store(&moved)
			s.step(connecting{endpoints: endpoints})
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

// unreachable tells the tracker that etcd has not answered since an attempt to
// reach it began. If the embedded server has failed, that is the reason,
// whatever the client's error.
func (s *Store) unreachable(began time.Time, err error) {
	if s.Embedded != nil {
		if failed := s.Embedded.Err(); failed != nil {
			err = failed
		}
	}
	s.step(unreachable{reason: err.Error(), began: began})
}

// follow reads etcd unless a watch can continue the cache, then watches. It
// returns when the watch ends.
func (s *Store) follow() error {
	for _, obsolete := range []chan struct{}{s.reload, s.rewatch} {
		select {
		case <-obsolete:
		default:
		}
	}
	if s.current().phase != cacheFollowing {
		if err := s.load(s.ctx); err != nil {
			s.suspect(err)
			return err
		}
	}
	if err := s.catchUp(s.ctx); err != nil {
		s.suspect(err)
		return err
	}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(s.ctx))
	defer cancel()
	// One that is shared puts each watch into the stream of the one before, and
	// behind it if a member that hangs has not begun that.
	watcher := clientv3.NewWatcher(s.etcd())
	defer watcher.Close()
	// Watch returns when etcd has created the watch, and waits without a limit.
	bounds, began, timeout := s.timeoutBounds(), time.Now(), s.watchTimeout()
	limit := time.AfterFunc(timeout, cancel)
	watch := watcher.Watch(ctx, string(s.keys), clientv3.WithPrefix(), clientv3.WithFragment(), clientv3.WithRev(s.current().revision+1))
	if !limit.Stop() {
		s.timeouts.watch.exceeded(timeout, bounds)
		s.suspect(context.DeadlineExceeded)
		return errors.New("etcd did not begin the watch in time")
	}
	s.timeouts.watch.observe(time.Since(began), bounds)
	queue := newWatchQueue()
	s.work.Go(func() { queue.fill(watch) })
	return s.watch(ctx, watcher, queue)
}

// watch hands the tracker what a watch sees. From time to time it has the watch
// say that it is alive, because one with a member that hangs waits forever.
func (s *Store) watch(ctx context.Context, watcher clientv3.Watcher, queue *watchQueue) error {
	tick := time.NewTicker(s.ProbeInterval)
	defer tick.Stop()
	var asked time.Time // zero unless an answer is due
	for {
		select {
		case <-s.reload:
			return errors.New("etcd no longer holds the data that were followed")
		case <-s.rewatch:
			return errors.New("a member of etcd does not answer")
		case <-tick.C:
			switch {
			case asked.IsZero():
				asked = time.Now()
				limit, cancel := context.WithTimeout(ctx, s.TryTimeout)
				err := watcher.RequestProgress(limit)
				cancel()
				if err != nil {
					return fmt.Errorf("the watch ended: %w", err)
				}
			case time.Since(asked) >= s.watchTimeout():
				s.suspect(context.DeadlineExceeded)
				return errors.New("the watch does not answer")
			}
		case <-queue.full:
			s.step(watchLost{})
			return errTooFarBehind
		case response, ok := <-queue.responses:
			asked = time.Time{}
			if !ok {
				return errors.New("the watch ended")
			}
			queue.taken(response)
			if err := response.Err(); err != nil {
				if errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev) {
					s.step(watchLost{})
				}
				s.suspect(err)
				return fmt.Errorf("the watch ended: %w", err)
			}
			s.step(watched{events: response.Events})
		}
	}
}

// watchTimeout is how long a watch may take to begin, or be silent when it is
// asked: short if there are other members to go to.
func (s *Store) watchTimeout() time.Duration {
	if s.several() {
		return s.timeouts.watch.current(s.timeoutBounds())
	}
	return s.RequestTimeout
}

// revokeOldLease ends the leadership of the process that used this data folder
// before. That process is dead, because the folder is locked.
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
		_, err = s.etcd().Revoke(ctx, clientv3.LeaseID(lease))
		cancel()
	}
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		s.logger.Info("the previous process's leadership could not be ended; its lease will expire", "error", err)
	}
}

func (s *Store) leaseFile() string {
	if s.DataDir == "" {
		return ""
	}
	return datadir.Folder(s.DataDir).EtcdLease()
}
