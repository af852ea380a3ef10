package etcd

import (
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// forgery is one or more writes of records that do not verify to one key.
type forgery struct {
	key   string
	count int
	// revision is that of the last of them, and problem what is wrong with it.
	revision int64
	problem  error
}

// noteForgery notes that a write of a key does not verify. Of each key the
// writes are counted, and the last one is kept.
func (c *cache) noteForgery(key string, kv *mvccpb.KeyValue, problem error) {
	if problem == nil {
		return
	}
	for i := range c.forgeries {
		if f := &c.forgeries[i]; f.key == key {
			f.count, f.revision, f.problem = f.count+1, kv.ModRevision, problem
			return
		}
	}
	c.forgeries = append(c.forgeries, forgery{key: key, count: 1, revision: kv.ModRevision, problem: problem})
}

// takeForgeries returns what was noted since it was last called, without what
// was written up to a revision: that was noted before.
func (c *cache) takeForgeries(after int64) (taken []forgery) {
	for _, f := range c.forgeries {
		if f.revision > after {
			taken = append(taken, f)
		}
	}
	c.forgeries = nil
	return taken
}

// forged says which record that decides what is served does not verify, and
// why, or is empty.
func (c *cache) forged() string {
	if c.head.problem != nil {
		return fmt.Sprintf("%s: %v", c.keys.head(), c.head.problem)
	}
	if c.epoch.problem != nil {
		return fmt.Sprintf("%s: %v", c.keys.epoch(), c.epoch.problem)
	}
	return ""
}

// logForgeryEvery is the least time between two log lines about one key: other
// writers may write as fast as they can.
const logForgeryEvery = 10 * time.Second

// reportForgeries counts and logs forgeries. Only the goroutine that owns the
// tracker calls it.
func (s *Store) reportForgeries(forgeries []forgery) {
	for _, f := range forgeries {
		if s.Forged != nil {
			s.Forged(f.key, f.count)
		}
		said := s.saidForged[f.key]
		said.count += f.count
		if now := s.Clock(); said.at.IsZero() || now.Sub(said.at) >= logForgeryEvery {
			s.logger.Warn("somebody wrote a record into etcd that does not verify; it is not used",
				"key", string(s.keys)+f.key, "problem", f.problem, "revision", f.revision, "writes", said.count)
			said = saidForgery{at: now}
		}
		s.saidForged[f.key] = said
	}
}

// saidForgery is when forgeries of a key were last logged, and how many came since.
type saidForgery struct {
	at    time.Time
	count int
}
