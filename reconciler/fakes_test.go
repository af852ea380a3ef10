package reconciler_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// policies is a set of policies with these names and the same spec.
func policies(names ...string) *schema.Set {
	return delayed(100, names...)
}

// delayed is a set of policies that delay by ms milliseconds.
func delayed(ms int64, names ...string) *schema.Set {
	var entries []*schema.Entry
	for i, name := range names {
		entries = append(entries, schema.NewEntry(&schema.Policy{
			Metadata: schema.Metadata{Name: name},
			Spec: schema.Spec{
				Selector: schema.Selector{Service: schema.Any, Namespace: schema.Any},
				Rules:    []schema.Rule{{Fault: schema.Fault{Percentage: schema.All, DelayMS: ms}}},
			},
		}, schema.Origin{File: "policies/all.yaml", Line: i + 1}))
	}
	return schema.NewSet(entries...)
}

// numbered returns n names.
func numbered(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("policy-%03d", i))
	}
	return names
}

// repository is a Source and, since a fake needs no files, the Validator too.
type repository struct {
	mu      sync.Mutex
	commits []reconciler.Commit // oldest first
	sets    map[string]*schema.Verdict
	changed chan struct{}
	// without are the commits that have no policy folder.
	without map[string]bool

	// keys and keysErr are what Keys returns; cut says that Since is at its limit.
	keys string
	cut  bool

	keysErr, headErr, deltaErr, sinceErr, applyErr, folderErr error
	heads, deltas, folders                                    int
	headsAt                                                   []time.Time
	base                                                      string
	openDeltas                                                int
	// wholeOnly is set if Apply refuses a delta with a base; wholes counts the others then.
	wholeOnly bool
	wholes    int
	stale     bool
	// hangs is the method that blocks until released is closed.
	hangs    string
	released chan struct{}
}

func newRepository() *repository {
	return &repository{sets: map[string]*schema.Verdict{}, without: map[string]bool{}, changed: make(chan struct{}, 1)}
}

func (f *repository) commit(commit reconciler.Commit, verdict *schema.Verdict) {
	f.mu.Lock()
	commit.Approved = commit.Approved || commit.Signature == nil
	f.commits = append(f.commits, commit)
	f.sets[commit.Hash] = verdict
	f.mu.Unlock()
	f.notify()
}

func (f *repository) notify() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *repository) fail(change func(f *repository)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// hang blocks if method is the one that hangs.
func (f *repository) hang(ctx context.Context, method string) error {
	f.mu.Lock()
	hangs, released := f.hangs == method, f.released
	f.mu.Unlock()
	if !hangs {
		return nil
	}
	select {
	case <-released:
		return nil
	case <-ctx.Done():
		return &reconciler.SourceError{Reason: "TimedOut", Consequence: reconciler.Retry, Err: ctx.Err()}
	}
}

func (f *repository) Head(ctx context.Context) (string, error) {
	if err := f.hang(ctx, "Head"); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heads++
	f.headsAt = append(f.headsAt, time.Now())
	if f.headErr != nil {
		return "", f.headErr
	}
	if len(f.commits) == 0 {
		return "", &reconciler.SourceError{Reason: "RepositoryEmpty", Consequence: reconciler.WaitForPush, Err: fmt.Errorf("no commits")}
	}
	return f.commits[len(f.commits)-1].Hash, nil
}

func (f *repository) find(hash string) int {
	return slices.IndexFunc(f.commits, func(c reconciler.Commit) bool { return c.Hash == hash })
}

func (f *repository) Delta(ctx context.Context, base, head string) (*reconciler.Delta, error) {
	if err := f.hang(ctx, "Delta"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deltas++
	if f.deltaErr != nil {
		return nil, f.deltaErr
	}
	f.openDeltas++
	// The fake lists no files: a delta with a base says that there are none.
	before, after := f.sets[base], f.sets[head]
	if before == nil || before.Set == nil || after.Set == nil || before.Set.Digest() != after.Set.Digest() {
		base = ""
	}
	delta := &reconciler.Delta{Commit: f.commits[f.find(head)], Base: base, Close: func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.openDeltas--
		return nil
	}}
	if f.without[head] {
		delta.Missing = &reconciler.SourceError{Reason: "PathMissing", Consequence: reconciler.WaitForPush, Err: fmt.Errorf("commit %s has no folder", head)}
	}
	return delta, nil
}

func (f *repository) HasFolder(_ context.Context, commit string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.folders++
	return f.find(commit) >= 0 && !f.without[commit], f.folderErr
}

func (f *repository) Since(_ context.Context, base, head string) (reconciler.Commits, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sinceErr != nil {
		return reconciler.Commits{}, f.sinceErr
	}
	if f.find(head) < 0 {
		return reconciler.Commits{}, &reconciler.SourceError{Reason: "ObjectMissing", Consequence: reconciler.Retry, Err: fmt.Errorf("no commit %s", head)}
	}
	since := slices.Clone(f.commits[min(f.find(base), f.find(head))+1 : f.find(head)+1])
	slices.Reverse(since)
	return reconciler.Commits{List: since, All: f.find(base) >= 0 && !f.cut, Cut: f.cut}, nil
}

func (f *repository) Keys() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys, f.keysErr
}

func (f *repository) Changed() <-chan struct{} { return f.changed }
func (f *repository) Close() error             { return nil }

func (f *repository) Base() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.base
}

func (f *repository) Apply(ctx context.Context, delta *reconciler.Delta) (*schema.Verdict, error) {
	if err := f.hang(ctx, "Apply"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.applyErr != nil {
		return nil, f.applyErr
	}
	if f.wholeOnly && delta.Base != "" {
		return nil, fmt.Errorf("not enough: %w", reconciler.ErrWholeCommit)
	}
	if f.wholeOnly {
		f.wholes++
	}
	f.base, f.stale = delta.Commit.Hash, false
	verdict := *f.sets[delta.Commit.Hash]
	verdict.Warnings = append(verdict.Warnings, delta.Warnings...)
	return &verdict, nil
}

func (f *repository) Stale() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stale
}

// storage is a Store in memory.
type storage struct {
	mu       sync.Mutex
	state    *reconciler.State
	verified bool
	forged   string
	drift    api.Drift
	history  []api.HistoryEntry
	report   *reconciler.LeaderReport
	// leaderless says that nobody holds the leadership; the report stays.
	leaderless, reportLost bool
	awaySince              time.Time
	health                 api.EtcdStatus
	number                 int64
	epoch                  int64
	changed                chan struct{}

	// each value in elected ends a Campaign; terms counts the terms.
	elected    chan struct{}
	terms      int
	done       chan struct{}
	resigned   int
	triggers   chan struct{}
	publishErr error
	recordErr  error
	reportErr  error
	published  []reconciler.Publication
	publishAt  []time.Time
	reports    []reconciler.LeaderReport
	triggered  int
}

func newStorage() *storage {
	f := &storage{
		verified: true, epoch: 1, changed: make(chan struct{}, 1), elected: make(chan struct{}, 8), triggers: make(chan struct{}, 1),
		health: api.EtcdStatus{Mode: api.External, Endpoints: []string{"http://etcd"}, Healthy: true},
		drift:  api.Drift{Status: api.DriftNone},
	}
	f.elected <- struct{}{}
	return f
}

// change edits what the store holds, as another writer or an outage would.
func (f *storage) change(edit func(f *storage)) {
	f.mu.Lock()
	edit(f)
	f.mu.Unlock()
	f.notify()
}

func (f *storage) notify() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *storage) View() *reconciler.StoreView {
	f.mu.Lock()
	defer f.mu.Unlock()
	leader := ""
	if f.report != nil && !f.leaderless {
		leader = f.report.Leader
	}
	return &reconciler.StoreView{
		Leader: leader, ReportCurrent: leader != "", ReportLost: f.reportLost, AwaySince: f.awaySince,
		State: f.state, HeadVerified: f.verified && f.forged == "" && f.state != nil, Forged: f.forged, Drift: f.drift,
		History: slices.Clone(f.history), LeaderReport: f.report, Health: f.health,
	}
}

func (f *storage) Changed() <-chan struct{} { return f.changed }

func (f *storage) Trigger(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.triggered++
	if !f.health.Healthy {
		return fmt.Errorf("etcd is away")
	}
	return nil
}

func (f *storage) Campaign(ctx context.Context) (reconciler.Term, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.elected:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.terms++
	f.done = make(chan struct{})
	return &term{storage: f, done: f.done}, nil
}

type term struct {
	*storage
	done chan struct{}
}

func (t *term) Done() <-chan struct{}     { return t.done }
func (t *term) Triggers() <-chan struct{} { return t.triggers }

func (t *term) Resign(context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resigned++
	return nil
}

func (t *term) Publish(ctx context.Context, p reconciler.Publication) (*reconciler.State, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.publishAt = append(t.publishAt, time.Now())
	if t.publishErr != nil {
		return nil, t.publishErr
	}
	t.published = append(t.published, p)
	t.number++
	t.state = &reconciler.State{
		Head:     reconciler.Head{Commit: p.Commit, Digest: p.Set.Digest(), Count: p.Set.Len(), At: time.Now()},
		Set:      p.Set,
		Revision: reconciler.Revision{Epoch: reconciler.Epoch{Number: t.epoch, ID: "x"}, Number: t.number},
	}
	t.verified, t.forged, t.drift = true, "", api.Drift{Status: api.DriftNone}
	if p.Entry != nil {
		t.history = append([]api.HistoryEntry{*p.Entry}, t.history...)
	}
	t.notify()
	return t.state, nil
}

func (t *term) Record(_ context.Context, entry api.HistoryEntry) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.recordErr != nil {
		return t.recordErr
	}
	t.history = append([]api.HistoryEntry{entry}, t.history...)
	return nil
}

func (t *term) Report(_ context.Context, report *reconciler.LeaderReport) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reportErr != nil {
		return t.reportErr
	}
	t.reports = append(t.reports, *report)
	t.report, t.reportLost = report, false
	t.notify()
	return nil
}

// disk is a LastGood in memory. Its fields are set before it is opened; set and
// saves are for a disk in use.
type disk struct {
	mu    sync.Mutex
	kept  *reconciler.State
	saved []*reconciler.State
	// The errors of Save, Check and Load.
	err, check, damage error
}

// set changes the errors of Save and Check.
func (d *disk) set(err, check error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err, d.check = err, check
}

// saves is how often a state was to be saved.
func (d *disk) saves() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.saved)
}

func (d *disk) Load() (*reconciler.State, error) { return d.kept, d.damage }
func (d *disk) Check() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.check
}
func (d *disk) Save(state *reconciler.State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.saved = append(d.saved, state)
	return d.err
}
