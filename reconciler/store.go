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
// follows by itself what the store holds.
type Store interface {
	// View is the newest view of the store. It answers from memory, at once.
	View() *StoreView
	// Changed receives a value when View may give another view than before.
	Changed() <-chan struct{}
	// Trigger asks the leader, whichever replica it is, to read git now.
	Trigger(ctx context.Context) error
	// Campaign waits until this daemon leads.
	Campaign(ctx context.Context) (Term, error)
}

// StoreView is what is known about the store at one moment. A view never changes,
// and its fields belong together: code that decides something, or reports a
// status, takes one view for all of it.
type StoreView struct {
	// State is the last verified state, or nil before there was one. Its
	// revision never goes back from one view to the next.
	State *State
	// HeadVerified says whether State is what the store's head says, and the
	// store holds its epoch; it implies that State is not nil. While it is false
	// and Health is healthy, the leader publishes again in either drift mode:
	// the store was wiped, restored, or written by another version, and a
	// replica that starts would have nothing to serve.
	HeadVerified bool
	// Drift is what the store holds and State does not, or the other way
	// round. Its status is DriftUnknown unless Health is healthy; Mode and Heal
	// are empty.
	Drift api.Drift
	// Forged says which record of the store decides what is served and was not
	// written by a replica with the same key, and why it is none; or is empty.
	// Such a record is not used; HeadVerified is false as long as it is there.
	Forged string
	// History is newest first, at most MaxHistory entries.
	History []api.HistoryEntry
	// LeaderReport is the report last stored by a leader, or nil.
	LeaderReport *LeaderReport
	// ReportCurrent says that LeaderReport was stored by the replica that leads
	// now, in its present term.
	ReportCurrent bool
	// ReportLost says that the store no longer holds LeaderReport: another
	// writer deleted it, or put something else there.
	ReportLost bool
	// Leader is the ID of the replica that leads, or empty.
	Leader string
	// Health is what was last seen of the store itself. Healthy in it says
	// that the store answers, whatever alarms it raises; if it raises some,
	// Error says what they mean.
	Health api.EtcdStatus
	// AwaySince is when the store ceased to answer; zero while it answers, and
	// before the first attempt to reach it has failed.
	AwaySince time.Time
}

// Term is a time of leadership. Every write in it is fenced: once another
// replica leads, it changes nothing and returns ErrDeposed.
type Term interface {
	// Done is closed when the leadership has ended.
	Done() <-chan struct{}
	// Triggers receives a value when a replica asked to read git.
	Triggers() <-chan struct{}
	// Publish makes the store hold exactly the publication's set, whatever it
	// held before, verifies that it does, and returns the verified state. The
	// store's view then has this state or a newer one.
	Publish(ctx context.Context, publication Publication) (*State, error)
	// Record adds an entry to the history without publishing.
	Record(ctx context.Context, entry api.HistoryEntry) error
	// Report stores the leader's report for its followers.
	Report(ctx context.Context, report *LeaderReport) error
	// Resign ends the leadership at once.
	Resign(ctx context.Context) error
}

// ErrDeposed means that another daemon leads, or may lead.
var ErrDeposed = errors.New("this daemon is no longer the leader")

// MaxHistory is how many entries the store keeps. A set counts as an earlier
// published one if it is among them.
const MaxHistory = 200

// Publication is a set to publish. Repairs republish the set of the head.
type Publication struct {
	Commit string
	Set    *schema.Set
	// Entry is added to the history in the head's transaction; nil for a repair.
	Entry *api.HistoryEntry
}

// Head is the store's record of what is published.
type Head struct {
	Commit string        `json:"commit"`
	Digest schema.Digest `json:"digest"`
	Count  int           `json:"count"`
	// At is when it was published, by the leader's clock. Nothing is ordered by it.
	At time.Time `json:"at"`
}

// State is a set of policies that was verified against its head: Set has
// Head's digest and count. It never changes.
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

// Epoch identifies one incarnation of a store's data. A wiped store starts another.
type Epoch struct {
	// Number is one more than the highest known to the leader that began the epoch.
	Number int64 `json:"number"`
	// ID is random. It tells apart epochs that got the same number.
	ID string `json:"id"`
}

// String is NUMBER-ID.REVISION, as in the X-Hfi-Revision header.
func (r Revision) String() string {
	return fmt.Sprintf("%d-%s.%d", r.Epoch.Number, r.Epoch.ID, r.Number)
}

// ParseRevision parses the form that Revision.String writes and accepts no
// other: every revision has one spelling.
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

// Before reports whether r is older than other. Of two epochs that share a
// number neither is older, because their order is not known.
func (r Revision) Before(other Revision) bool {
	if r.Epoch.Number != other.Epoch.Number {
		return r.Epoch.Number < other.Epoch.Number
	}
	return r.Epoch.ID == other.Epoch.ID && r.Number < other.Number
}

// LastGood keeps the last verified state where it outlives everything else:
// in the daemon's data folder.
type LastGood interface {
	// Load returns the state kept, or nil if there is none.
	Load() (*State, error)
	// Save keeps a state. It returns once the state would survive a crash.
	Save(state *State) error
	// Check returns what would prevent Save from keeping a state, as far as can
	// be seen without trying, ErrNotOnDisk if the state that was kept is gone, or nil.
	Check() error
}

// ErrNotOnDisk is the error of a LastGood whose state was removed from the disk
// after it was kept. Saving it again fixes that.
var ErrNotOnDisk = errors.New("the last good set was removed from disk")
