package etcd

import "github.com/boifi/hfi/reconciler"

// epochState says how etcd's data relate to the epoch in force.
type epochState int

const (
	// epochNone: no epoch is known, to this replica or in etcd.
	epochNone epochState = iota
	// epochCurrent: etcd's data are of the epoch in force.
	epochCurrent
	// epochLost: etcd's data are of another epoch: it was wiped, restored from
	// a backup, or replaced.
	epochLost
	// epochSuperseded: etcd's data are of the epoch in force, but another replica
	// has announced one with the same or a higher number.
	epochSuperseded
)

func (s epochState) String() string {
	switch s {
	case epochNone:
		return "none"
	case epochCurrent:
		return "current"
	case epochLost:
		return "lost"
	case epochSuperseded:
		return "superseded"
	}
	return "invalid"
}

// epochTracker follows the epochs of etcd's data.
type epochTracker struct {
	state epochState
	// value is the epoch in force. It only gives way to one with a higher
	// number, or with maxEpoch, and is zero exactly while state is epochNone.
	value reconciler.Epoch
	// seen is the highest revision of etcd seen with value. If etcd answers
	// with a lower one, it has lost revisions.
	seen int64
}

// newEpochTracker begins with the newest revision that this replica has served, or none.
func newEpochTracker(known reconciler.Revision) epochTracker {
	t := epochTracker{value: known.Epoch, seen: known.Number}
	if known.Epoch.Number > 0 {
		t.state = epochCurrent
	}
	return t
}

// ended reports that the leader must begin another epoch before it publishes.
// Until then no head of etcd's is verified.
func (t *epochTracker) ended() bool { return t.state != epochCurrent }

// loaded follows a complete read of etcd, which was at a revision.
func (t *epochTracker) loaded(c *cache, revision int64) {
	t.adopt(c.epoch)
	switch sameEpoch := c.epoch.valid && c.epoch.value == t.value; {
	case t.value.Number == 0:
		t.state = epochNone
	case !sameEpoch || revision < t.seen:
		t.state = epochLost
	default:
		t.state = epochCurrent
	}
	if t.state != epochLost {
		t.seen = revision
	}
	t.compareFloor(c)
}

// advanced follows the events of one revision.
func (t *epochTracker) advanced(c *cache) {
	t.adopt(c.epoch)
	if t.state != epochLost {
		t.seen = max(t.seen, c.revision)
	}
	t.compareFloor(c)
}

// adopt puts etcd's epoch in force if it is a later one. With the highest
// number there is none higher: there etcd's epoch always is the later one.
func (t *epochTracker) adopt(stored epochKey) {
	if !stored.valid {
		return
	}
	last := stored.value.Number == maxEpoch && stored.value != t.value
	if stored.value.Number > t.value.Number || last {
		*t = epochTracker{state: epochCurrent, value: stored.value, seen: stored.modRevision}
	}
}

// compareFloor compares the epoch in force with the one that another replica has announced.
func (t *epochTracker) compareFloor(c *cache) {
	switch t.state {
	case epochCurrent, epochSuperseded:
		t.state = epochCurrent
		if c.floor >= t.value.Number && c.epoch.valid && c.epoch.value == t.value {
			t.state = epochSuperseded
		}
	}
}

// announce returns the number of the epoch in force if etcd holds an earlier
// one, since the leader may not know it; else 0.
func (t *epochTracker) announce(c *cache) int64 {
	if t.state == epochLost && c.epoch.valid && c.floor < t.value.Number {
		return t.value.Number
	}
	return 0
}

// maxClaimedEpoch is the highest number in an epoch record that does not verify
// from which the next one continues. Other writers cannot use up the numbers
// with it.
const maxClaimedEpoch = 1_000_000

// next returns the number for the epoch that the leader begins. A leader that
// knows no epoch continues from one whose key it does not have, because clients
// take no set of an earlier epoch than they have.
func (t *epochTracker) next(c *cache) int64 {
	number := max(t.value.Number, c.floor)
	if c.epoch.valid {
		number = max(number, c.epoch.value.Number)
	}
	if t.state == epochNone && c.epoch.claimed <= maxClaimedEpoch {
		number = max(number, c.epoch.claimed)
	}
	return min(number+1, maxEpoch)
}
