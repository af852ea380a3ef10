package etcd

import (
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// tracker is everything that a replica concludes from what it sees of etcd:
// which state is verified, which epoch is in force, what has drifted. It is a
// pure state machine: step takes an event and says what is to be done. It does
// no input or output, holds no lock and reads no clock. One goroutine of the
// store owns it.
type tracker struct {
	trackerConfig
	phase cachePhase
	// cache is nil exactly while phase is cacheEmpty.
	cache *cache
	// clusterID identifies the cluster that cache was read from.
	clusterID uint64
	epoch     epochTracker
	// state is the last verified state, or nil. It was verified at its head's
	// own revision, is never older than known, and its revision never goes back.
	state *reconciler.State
	// publication is the set that this replica publishes, if it leads. A set
	// that is read and equal is replaced by it, which makes comparing them cheap.
	publication *schema.Set
	// publishingSince is when the publication under way was first seen; zero
	// exactly while cache.midPublication is false.
	publishingSince time.Time
	drift           driftTracker
	suspicion       suspicion
	health          api.EtcdStatus
	// awaySince is when the attempt to reach etcd began that failed first, and
	// zero while etcd answers; warned says that this was logged.
	awaySince time.Time
	warned    bool
	// term is this replica's leadership, or nil.
	term *termKey
	// leader is the candidate that leads, or empty, and leaderSince when it was
	// first seen to.
	leader      candidate
	leaderSince time.Time
	// replicaLostAt is when another replica was last seen to leave, or may have left unseen.
	replicaLostAt time.Time
}

type trackerConfig struct {
	// known is the newest revision that this daemon has served, in this
	// process or before. No older state is verified.
	known reconciler.Revision
	// advertise is this replica's base URL, or empty.
	advertise string
	// publishGrace bounds how long a publication under way hides new drift.
	publishGrace time.Duration
	// proofGrace is how long a candidate may lead until it has shown that it is a replica.
	proofGrace time.Duration
	// suspectFor is how long a difference between a probe and the cache must
	// stay until the cache counts as stale: as long as an answer may take.
	suspectFor time.Duration
}

// cachePhase says what the cache is good for.
type cachePhase int

const (
	// cacheEmpty: etcd has not been read.
	cacheEmpty cachePhase = iota
	// cacheFollowing: the events of a watch from cache.revision on continue it.
	cacheFollowing
	// cacheStale: no watch can continue it, and etcd must be read again. It
	// still answers for what was seen last.
	cacheStale
)

// termKey is a leadership: the leader's key and the revision that created it.
type termKey struct {
	key      string
	revision int64
}

// suspicion is a difference between etcd and the cache that may be an event
// still on its way. It holds while the cache stays at revision; since is zero
// if there is none.
type suspicion struct {
	since    time.Time
	revision int64
}

// probeResult is what one probe of etcd returned.
type probeResult struct {
	revision    int64
	clusterID   uint64
	head, epoch *mvccpb.KeyValue
}

// The events.
type (
	// loaded: etcd was read. The cache is at the head's revision if that
	// could be read, else at revision, at which etcd was at least.
	loaded struct {
		cache     *cache
		clusterID uint64
		revision  int64
	}
	// watched: these events happened, in order; no revision is split.
	watched struct{ events []*clientv3.Event }
	// watchLost: etcd no longer has the events after cache.revision.
	watchLost struct{}
	// probed: etcd answered a probe. The cache was at the revision before
	// when the probe began, or before is 0. etcd raises alarms, unless it could
	// not be asked for them.
	probed struct {
		result      probeResult
		before      int64
		alarms      []string
		alarmsKnown bool
	}
	// unreachable: etcd did not answer, for this reason, since the attempt to
	// reach it began.
	unreachable struct {
		reason string
		began  time.Time
	}
	// connecting: these are the endpoints of the embedded server.
	connecting struct{ endpoints []string }
	// publishing: this replica, the leader, is about to publish the set.
	publishing struct{ set *schema.Set }
	// elected: this replica leads.
	elected struct{ term termKey }
	// resigned: this replica leads no more.
	resigned struct{}
	// rekeyed: the state keys have changed.
	rekeyed struct{}
	// timePassed: the time asked for by effects.wakeIn has passed.
	timePassed struct{}
)

// effects is what the store has to do after a step.
type effects struct {
	// notify: something changed that others wait for.
	notify bool
	// reload: end the watch and read etcd again.
	reload bool
	// reread: the same, for another reason than that etcd lost something.
	reread bool
	// announceEpoch, unless 0, is to be written to etcd for the leader.
	announceEpoch int64
	// endTerm, unless nil, is a leadership of this replica whose leader key is gone.
	endTerm *termKey
	// away: etcd has not answered for a while, and that is to be logged; back:
	// it answers again after that was logged.
	away, back bool
	// alarms, unless nil, are new alarms, to be logged.
	alarms []string
	// triggerTerm: a replica asked the leader, which is this one, to read git.
	triggerTerm bool
	// forgeries are to be counted and logged.
	forgeries []forgery
	// wakeIn, unless 0, is when timePassed is due.
	wakeIn time.Duration
}

// step applies an event, seen at a time.
func (t *tracker) step(now time.Time, event any) (out effects) {
	switch e := event.(type) {
	case loaded:
		t.load(now, e, &out)
	case watched:
		t.watch(now, e.events, &out)
	case watchLost:
		if t.phase == cacheFollowing {
			t.phase = cacheStale
		}
	case probed:
		t.probe(now, e, &out)
	case unreachable:
		t.unreachable(now, e, &out)
	case connecting:
		t.health.Endpoints = e.endpoints
	case publishing:
		t.publication = e.set
	case elected:
		t.term = &e.term
	case resigned:
		t.term = nil
	case rekeyed:
		// What verifies with the keys was decided when it was read.
		if t.phase == cacheFollowing {
			t.phase, out.reread = cacheStale, true
		}
	case timePassed:
		if t.cache != nil {
			before := t.drift.state
			t.updateDrift(now)
			out.notify = t.drift.state != before
		}
	}
	if t.listDrift(now) {
		out.notify = true
	}
	out.wakeIn = t.wakeIn(now)
	return out
}

// load replaces the cache.
func (t *tracker) load(now time.Time, e loaded, out *effects) {
	triggered, seen := false, int64(0)
	if t.cache != nil {
		seen = t.cache.revision
		triggered = e.cache.trigger != t.cache.trigger
		// A replica that left in between was not seen to.
		t.replicaLostAt = now
	}
	if t.state != nil {
		e.cache.intern(t.state.Set)
	}
	if t.cache != nil {
		e.cache.keepReport(t.cache.report)
	} else {
		e.cache.keepReport(leaderReport{})
	}
	t.cache, t.clusterID, t.phase, t.suspicion = e.cache, e.clusterID, cacheFollowing, suspicion{}
	t.epoch.loaded(t.cache, e.revision)
	if t.cache.head.present {
		t.verifyHead()
	}
	out.forgeries = t.cache.takeForgeries(seen)
	t.conclude(now, triggered, out)
	t.healthy(now, out)
}

// watch applies events revision by revision.
func (t *tracker) watch(now time.Time, events []*clientv3.Event, out *effects) {
	if len(events) == 0 || t.cache == nil {
		return
	}
	trigger, losses := t.cache.trigger, t.cache.losses
	head := t.cache.keys.head()
	for i := 0; i < len(events); {
		revision, headWritten := events[i].Kv.ModRevision, false
		for ; i < len(events) && events[i].Kv.ModRevision == revision; i++ {
			if events[i].Type == clientv3.EventTypeDelete {
				t.cache.remove(string(events[i].Kv.Key))
				continue
			}
			t.cache.put(events[i].Kv)
			headWritten = headWritten || string(events[i].Kv.Key) == head
		}
		t.cache.revision = revision
		t.epoch.advanced(t.cache)
		if headWritten {
			t.verifyHead()
		}
	}
	t.cache.flush()
	out.forgeries = t.cache.takeForgeries(0)
	if t.cache.losses != losses {
		t.replicaLostAt = now
	}
	t.conclude(now, t.cache.trigger != trigger, out)
}

// verifyHead makes the cache's set the state if it is what the head says. The
// cache is at the head's revision, or at a later one if that could not be
// read any more.
func (t *tracker) verifyHead() {
	t.cache.flush()
	head := t.cache.head
	revision := reconciler.Revision{Epoch: t.epoch.value, Number: head.modRevision}
	switch {
	case !head.valid, t.epoch.ended(), head.epoch != t.epoch.value:
		return
	case revision.Before(t.known), t.state != nil && revision.Before(t.state.Revision):
		return
	case !verified(head.value, t.cache.set):
		return
	}
	if t.state != nil {
		t.cache.intern(t.state.Set)
	}
	t.cache.intern(t.publication)
	t.state = &reconciler.State{Head: head.value, Set: t.cache.set, Revision: revision}
}

// conclude draws the conclusions from a change of the cache.
func (t *tracker) conclude(now time.Time, triggered bool, out *effects) {
	switch {
	case !t.cache.midPublication():
		t.publishingSince = time.Time{}
	case t.publishingSince.IsZero():
		t.publishingSince = now
	}
	t.updateDrift(now)
	t.trackLeader(now)
	if t.term != nil {
		if t.cache.lost(*t.term) {
			out.endTerm = t.term
		}
		out.triggerTerm = triggered && out.endTerm == nil
	}
	if t.phase == cacheFollowing && (t.cache.foreign.hasRoomForDropped() || t.cache.policiesMissing() || t.cache.leadersMissing() || t.cache.replicasMissing()) {
		// Those that were dropped can, or must, be known now.
		t.phase, out.reload = cacheStale, true
	}
	out.announceEpoch = t.epoch.announce(t.cache)
	out.notify = true
}

// probe compares etcd with the cache, to notice that it is not the store which
// the watch follows: a watch on a store that was wiped waits without an error
// until its revision comes round.
func (t *tracker) probe(now time.Time, e probed, out *effects) {
	if t.phase == cacheFollowing && t.stale(now, e) {
		t.phase, t.suspicion = cacheStale, suspicion{}
		out.reload = true
	}
	if e.alarmsKnown && !slices.Equal(e.alarms, t.health.Alarms) {
		t.health.Alarms, out.notify = e.alarms, true
		out.alarms = e.alarms
	}
	t.healthy(now, out)
}

// stale reports that a probe shows another store than the one that the cache
// was read from. Since etcd cannot go back, that is certain when it is
// before the revision at which the cache was when the probe began. Any other
// difference may be an event still on its way, or one after the probe: the
// cache is suspected, and is stale once its revision has not changed for suspectFor. But
// what was written up to the probe's revision cannot be on its way once the
// watch has passed that revision: so an etcd that was wiped, and has caught up
// with the cache's revision, is recognized while events keep arriving.
func (t *tracker) stale(now time.Time, e probed) bool {
	if e.result.clusterID != t.clusterID || e.result.revision < e.before {
		return true
	}
	modified := func(kv *mvccpb.KeyValue) int64 {
		if kv == nil {
			return 0
		}
		return kv.ModRevision
	}
	differs := modified(e.result.head) != t.cache.head.modRevision || modified(e.result.epoch) != t.cache.epoch.modRevision
	switch {
	case !differs:
		t.suspicion = suspicion{}
	case t.cache.revision >= e.result.revision && max(t.cache.head.modRevision, t.cache.epoch.modRevision) <= e.result.revision:
		return true
	case t.suspicion.since.IsZero() || t.suspicion.revision != t.cache.revision:
		t.suspicion = suspicion{since: now, revision: t.cache.revision}
	default:
		return now.Sub(t.suspicion.since) >= t.suspectFor
	}
	return false
}

func (t *tracker) healthy(now time.Time, out *effects) {
	out.notify = out.notify || !t.health.Healthy
	t.health.Healthy, t.health.Error, t.health.LastSeenAt = true, alarmText(t.health.Alarms), &now
	out.back = t.warned
	t.awaySince, t.warned = time.Time{}, false
}

// awayBeforeWarning is how long etcd does not answer until that is logged:
// longer than etcd takes to elect a leader of its own.
const awayBeforeWarning = 2 * time.Second

func (t *tracker) unreachable(now time.Time, e unreachable, out *effects) {
	out.notify = t.health.Healthy || t.health.Error != e.reason
	t.health.Healthy, t.health.Error = false, e.reason
	if t.awaySince.IsZero() {
		t.awaySince = e.began
	}
	if !t.warned && now.Sub(t.awaySince) >= awayBeforeWarning {
		t.warned, out.away = true, true
	}
}

// publicationPending reports that the leader is publishing, and has not been
// for longer than a publication takes.
func (t *tracker) publicationPending(now time.Time) bool {
	return t.cache.midPublication() && now.Sub(t.publishingSince) < t.publishGrace
}

// wakeIn is how long it takes until time alone changes a conclusion: until a
// publication under way hides drift no longer, or drift is listed again.
func (t *tracker) wakeIn(now time.Time) time.Duration {
	switch {
	case t.cache == nil:
		return 0
	case t.drift.state == driftNone && t.publicationPending(now):
		return t.publishGrace - now.Sub(t.publishingSince)
	}
	return t.relistIn(now)
}

// dataReplaced reports that etcd's data are of another epoch than the state.
func (t *tracker) dataReplaced() bool {
	return t.epoch.ended() || t.state != nil && t.state.Revision.Epoch != t.epoch.value
}

// headVerified reports that the state is what etcd's head says.
func (t *tracker) headVerified() bool {
	return t.cache != nil && t.state != nil && !t.dataReplaced() &&
		t.cache.head.valid && t.cache.head.modRevision == t.state.Revision.Number
}

// epochStored reports that etcd holds the epoch in force. Without it a replica
// that starts cannot verify any head.
func (t *tracker) epochStored() bool {
	return t.cache != nil && t.cache.epoch.valid && t.cache.epoch.value == t.epoch.value
}
