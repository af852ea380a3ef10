package reconciler

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// Store is where published policies live and where daemons meet: etcd. It
// follows what the store holds by itself; its methods without a context
// answer from memory.
type Store interface {
	// State is the last verified state, or nil before there was one. Its
	// revisions only grow.
	State() *State
	// HeadVerified says whether State is what the store's head says. While it
	// is not, though the store is healthy, the leader publishes again whatever
	// is done about drift: the store was wiped, restored, or written by another
	// version, and a replica that starts would have nothing to serve.
	HeadVerified() bool
	// Drift is what the store holds now that State does not say.
	Drift() api.Drift
	// History is newest first.
	History() []api.HistoryEntry
	// Findings are the leader's latest, or nil.
	Findings() *LeaderReport
	// Health is what was last seen of the store itself.
	Health() api.EtcdStatus
	// Changed receives a value when any of the above may have changed.
	Changed() <-chan struct{}
	// Trigger asks the leader, whoever it is, to look at git now.
	Trigger(ctx context.Context) error
	// Campaign waits until this daemon leads.
	Campaign(ctx context.Context) (Term, error)
}

// Term is a time of leadership. Every write in it is fenced: once another
// leads, it changes nothing and returns ErrDeposed.
type Term interface {
	// Done is closed when the leadership has ended.
	Done() <-chan struct{}
	// Triggers receives a value when a replica asked to look at git.
	Triggers() <-chan struct{}
	// Publish makes the store hold exactly the publication's set, whatever
	// it held before, verifies that it does, and returns the verified state.
	Publish(ctx context.Context, publication Publication) (*State, error)
	// Record adds to the history without publishing.
	Record(ctx context.Context, entry api.HistoryEntry) error
	// Report stores the leader's findings where followers read them.
	Report(ctx context.Context, findings *LeaderReport) error
	// Resign ends the leadership at once.
	Resign(ctx context.Context) error
}

// ErrDeposed says that another daemon leads, or may lead, by now.
var ErrDeposed = errors.New("this daemon does not lead any more")

// MaxHistory is how many entries the store keeps, and so how far back a
// state counts as an earlier one.
const MaxHistory = 200

// Publication is a set to publish. Repairs republish the set of the head.
type Publication struct {
	Commit string
	Set    *schema.Set
	// Entry goes into the history together with the head; nil for a repair.
	Entry *api.HistoryEntry
}

// Head is the store's record of what is published.
type Head struct {
	Commit string        `json:"commit"`
	Digest schema.Digest `json:"digest"`
	Count  int           `json:"count"`
	// At is when it was published, by the leader's clock: for people, never for order.
	At time.Time `json:"at"`
}

// State is a set of policies that was verified against its head's digest.
type State struct {
	Head     Head
	Set      *schema.Set
	Revision Revision
}

// Revision orders states: by epoch, then by etcd's revision of the head.
type Revision struct {
	Epoch  Epoch
	Number int64
}

// Epoch is one life of a store's data. A wiped store starts another.
type Epoch struct {
	// Number is one more than the last that the daemon that started it knew.
	Number int64 `json:"number"`
	// ID is drawn at random, and tells apart epochs that got the same number.
	ID string `json:"id"`
}

// String is NUMBER-ID.REVISION, as in the X-Hfi-Revision header.
func (r Revision) String() string {
	return fmt.Sprintf("%d-%s.%d", r.Epoch.Number, r.Epoch.ID, r.Number)
}

// ParseRevision reads what Revision.String wrote, and nothing else: every
// revision has one spelling.
func ParseRevision(text string) (Revision, error) {
	epoch, rest, _ := strings.Cut(text, "-")
	dot := strings.LastIndexByte(rest, '.')
	if dot > 0 {
		number, err1 := strconv.ParseInt(epoch, 10, 64)
		revision, err2 := strconv.ParseInt(rest[dot+1:], 10, 64)
		r := Revision{Epoch: Epoch{Number: number, ID: rest[:dot]}, Number: revision}
		if err1 == nil && err2 == nil && number >= 0 && revision >= 0 && r.String() == text {
			return r, nil
		}
	}
	return Revision{}, fmt.Errorf("revision %.60q is not of the form NUMBER-ID.REVISION", text)
}

// Before says whether r is older than other. Of two epochs that share a
// number neither is older: their order is not known.
func (r Revision) Before(other Revision) bool {
	if r.Epoch.Number != other.Epoch.Number {
		return r.Epoch.Number < other.Epoch.Number
	}
	return r.Epoch.ID == other.Epoch.ID && r.Number < other.Number
}

// LastGood keeps the last verified state where it outlives everything else:
// in the daemon's data folder.
type LastGood interface {
	// Load gives the state kept, or nil if there is none.
	Load() (*State, error)
	// Save keeps a state. It returns once the state would survive a crash.
	Save(state *State) error
}
