package etcd

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// mirror is what etcd holds under the prefix at one revision. It knows
// meanings and does no input or output.
type mirror struct {
	keys keys
	// revision is the one that the mirror stands at: all changes up to it are in, none after it.
	revision int64
	// set is what the policy keys mean, with their origins, except for what pending says.
	set *schema.Set
	// pending are policies changed since set was made; nil where deleted.
	pending map[string]*schema.Entry
	// foreign are the names under policies/ whose values are no policy of that name. Of the values nothing is kept.
	foreign map[string]struct{}
	origins [schema.Buckets]bucketOrigins
	// stale are the buckets whose origins changed since set was made.
	stale    map[int]struct{}
	head     record[reconciler.Head]
	epoch    record[reconciler.Epoch]
	floor    int64
	findings *reconciler.LeaderReport
	history  map[int64]api.HistoryEntry
	// leaders are the candidates by key.
	leaders map[string]candidate
	// replicas are those registered, by ID; losses counts those that went, or
	// were replaced by another life of theirs, self's own lives left out.
	replicas map[string]registration
	losses   int
	self     string
	// publishing is the lease of the leader that is in the middle of a publication, or 0.
	publishing int64
	trigger    int64
}

// record is a key's value and where it comes from.
type record[T any] struct {
	value T
	// present: the key exists. valid: and its value could be read.
	present, valid bool
	modRevision    int64
}

type bucketOrigins struct {
	present, valid bool
	byName         map[string]schema.Origin
	// compared is the set's bucket that byName was last compared with, and differs what came out.
	compared **schema.Entry
	differs  bool
}

type candidate struct {
	id             string
	lease          int64
	createRevision int64
}

func newMirror(keys keys) *mirror {
	return &mirror{
		keys: keys, set: schema.NewSet(),
		pending: map[string]*schema.Entry{}, foreign: map[string]struct{}{}, stale: map[int]struct{}{},
		history: map[int64]api.HistoryEntry{}, leaders: map[string]candidate{},
		replicas: map[string]registration{},
	}
}

// put takes in a key's value.
func (m *mirror) put(kv *mvccpb.KeyValue) {
	key, ok := strings.CutPrefix(string(kv.Key), string(m.keys))
	if !ok {
		return
	}
	folder, name, nested := strings.Cut(key, "/")
	if !nested {
		m.putRecord(key, kv)
		return
	}
	switch folder {
	case "policies":
		m.putPolicy(name, kv.Value)
	case "origins":
		if bucket, ok := bucketOf(name); ok {
			byName, valid := decodeOrigins(kv.Value)
			m.origins[bucket] = bucketOrigins{present: true, valid: valid, byName: byName}
			m.stale[bucket] = struct{}{}
		}
	case "history":
		var entry api.HistoryEntry
		if number, ok := historyNumber(name); ok && len(kv.Value) <= maxHistoryEntry {
			// An entry that cannot be read is kept as an empty one, so that it is deleted in its turn.
			_ = json.Unmarshal(kv.Value, &entry)
			m.history[number] = entry
		} else if ok {
			m.history[number] = api.HistoryEntry{}
		}
	case "leader":
		m.leaders[string(kv.Key)] = candidate{id: string(kv.Value), lease: kv.Lease, createRevision: kv.CreateRevision}
	case "replicas":
		m.putReplica(name, kv)
	}
}

func (m *mirror) putRecord(key string, kv *mvccpb.KeyValue) {
	switch key {
	case "head":
		value, valid := decodeHead(kv.Value)
		m.head = record[reconciler.Head]{value: value, present: true, valid: valid, modRevision: kv.ModRevision}
	case "epoch":
		value, valid := decodeEpoch(kv.Value)
		m.epoch = record[reconciler.Epoch]{value: value, present: true, valid: valid, modRevision: kv.ModRevision}
	case "epoch-floor":
		if json.Unmarshal(kv.Value, &m.floor) != nil || m.floor < 0 || m.floor > maxEpoch {
			m.floor = 0
		}
	case "status":
		var findings reconciler.LeaderReport
		if json.Unmarshal(kv.Value, &findings) == nil {
			m.findings = &findings
		}
	case "publishing":
		m.publishing = kv.Lease
	case "trigger":
		m.trigger = kv.ModRevision
	}
}

func (m *mirror) putPolicy(name string, value []byte) {
	entry, ok := decodePolicy(name, value)
	m.pending[name] = entry
	if ok {
		delete(m.foreign, name)
	} else {
		m.foreign[name] = struct{}{}
	}
}

// remove takes in that a key is gone.
func (m *mirror) remove(fullKey string) {
	key, ok := strings.CutPrefix(fullKey, string(m.keys))
	if !ok {
		return
	}
	folder, name, nested := strings.Cut(key, "/")
	if nested {
		switch folder {
		case "policies":
			m.pending[name] = nil
			delete(m.foreign, name)
		case "origins":
			if bucket, ok := bucketOf(name); ok {
				m.origins[bucket] = bucketOrigins{}
				m.stale[bucket] = struct{}{}
			}
		case "history":
			if number, ok := historyNumber(name); ok {
				delete(m.history, number)
			}
		case "leader":
			delete(m.leaders, fullKey)
		case "replicas":
			m.removeReplica(name)
		}
		return
	}
	switch key {
	case "head":
		m.head = record[reconciler.Head]{}
	case "epoch":
		m.epoch = record[reconciler.Epoch]{}
	case "epoch-floor":
		m.floor = 0
	case "status":
		m.findings = nil
	case "publishing":
		m.publishing = 0
	}
}

// settle brings set up to date. Its cost follows what changed.
func (m *mirror) settle() {
	if len(m.pending) == 0 && len(m.stale) == 0 {
		return
	}
	var puts []*schema.Entry
	var deletes []string
	for name, entry := range m.pending {
		if entry == nil {
			deletes = append(deletes, name)
			continue
		}
		puts = append(puts, m.withOrigin(entry))
	}
	for bucket := range m.stale {
		for _, entry := range m.set.Bucket(bucket) {
			if _, changed := m.pending[entry.Name()]; changed {
				continue
			}
			if placed := m.withOrigin(entry); placed != entry {
				puts = append(puts, placed)
			}
		}
	}
	m.set = m.set.With(puts, deletes)
	clear(m.pending)
	clear(m.stale)
}

func (m *mirror) withOrigin(entry *schema.Entry) *schema.Entry {
	name := entry.Name()
	origin := m.origins[schema.BucketOf(name)].byName[name]
	if origin == entry.Origin {
		return entry
	}
	return entry.WithOrigin(origin)
}

// share lets the mirror use another set that is equal to its own in meaning
// and origins, so that comparing the two later costs nothing.
func (m *mirror) share(other *schema.Set) {
	m.settle()
	if other != nil && other != m.set && len(schema.Diff(m.set, other)) == 0 {
		m.set = other
	}
}

// leader is the candidate that leads.
func (m *mirror) leader() (candidate, bool) {
	var first candidate
	for _, c := range m.leaders {
		if c.lease == 0 {
			continue // a stranger's: candidates hang on leases
		}
		if first.createRevision == 0 || c.createRevision < first.createRevision {
			first = c
		}
	}
	return first, first.createRevision != 0
}

// midPublication says that the leader, still alive, is between two
// transactions of a publication.
func (m *mirror) midPublication() bool {
	leader, ok := m.leader()
	return ok && m.publishing != 0 && leader.lease == m.publishing
}

// lastHistory is the highest number in the history, or 0.
func (m *mirror) lastHistory() int64 {
	var last int64
	for number := range m.history {
		last = max(last, number)
	}
	return last
}

// entries are the history, newest first, at most reconciler.MaxHistory.
func (m *mirror) entries() []api.HistoryEntry {
	numbers := m.historyNumbers()
	entries := make([]api.HistoryEntry, 0, min(len(numbers), reconciler.MaxHistory))
	for i := len(numbers) - 1; i >= 0 && len(entries) < reconciler.MaxHistory; i-- {
		if entry := m.history[numbers[i]]; entry.Commit != "" {
			entries = append(entries, entry)
		}
	}
	return entries
}

// historyNumbers are the history's numbers, ascending.
func (m *mirror) historyNumbers() []int64 {
	return slices.Sorted(maps.Keys(m.history))
}
