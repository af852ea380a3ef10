package etcd

import (
	"bytes"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/statekey"
	"github.com/boifi/hfi/schema"
)

// cache is what etcd holds under the prefix at one revision. It decodes keys
// and does no input or output.
type cache struct {
	keys   keys
	signer signer
	// self is the ID of the replica whose cache this is.
	self string
	// revision is the one that the cache is at: it has all changes up to
	// it, and none after it. It only grows.
	revision int64
	// set is what the policy keys and their origins say, except for what
	// pending and stale have still to change in it; flush empties both.
	set *schema.Set
	// known has policies that need not be decoded again while etcd is read.
	known *schema.Set
	// pending are policies changed since set was built; nil for deleted ones.
	pending map[string]*schema.Entry
	// stale are the buckets whose origins changed since set was built.
	stale map[int]struct{}
	// foreign are the names under policies/ whose values are not a policy of
	// that name, or are one too many. None of them is in set. Their values are
	// not kept.
	foreign foreignNames
	// count and bytes, of memory, are of the policies in set and pending, at
	// most maxCount and maxBytes: anyone who can write to etcd can write
	// policies. policyDropped are the bytes of the smallest that was one too
	// many, or 0.
	count, bytes       int
	maxCount, maxBytes int
	policyDropped      int
	origins            [schema.Buckets]bucketOrigins
	head               headKey
	epoch              epochKey
	// forgeries are those not taken yet, at most one for each key.
	forgeries []forgery
	// floor is the highest epoch that a replica has announced, or 0.
	floor   int64
	report  leaderReport
	history history
	// leaders are the keys under leader/, at most maxCandidates; leadersDropped
	// is the lowest create revision of those that are not kept, or 0.
	leaders        map[string]candidate
	leadersDropped int64
	// term is what the key of that name says, and termModified when it was
	// written; both are 0 if there is none.
	term, termModified int64
	// replicas are those registered, by ID, at most maxRegistrations;
	// replicasDropped says that there were more.
	replicas        map[string]registration
	replicasDropped bool
	// losses counts the other replicas that left, or whose process was replaced.
	losses int
	// publishing is the lease of the leader that has begun a publication and
	// not finished it, or 0.
	publishing int64
	// trigger is the revision at which the trigger key was last written, or 0.
	trigger int64
	// contents counts the changes of what drift compares: policies, origins, head and epoch.
	contents int
}

// record is the value of a key.
type record[T any] struct {
	// value is of no meaning unless valid.
	value T
	// present says that the key exists, and valid that its value was also decoded
	// and its signature verified; valid implies present.
	present, valid bool
	// modRevision is the revision at which the key was written, 0 unless present.
	modRevision int64
}

// bucketOrigins are the origins of one bucket of policies.
type bucketOrigins struct {
	present, valid bool
	byName         map[string]schema.Origin
	// compared is the bucket that byName was last compared with, and differs the result.
	compared **schema.Entry
	differs  bool
}

func newCache(keys keys, self string, stateKeys *statekey.Keys) *cache {
	return &cache{
		keys: keys, signer: signer{prefix: string(keys), keys: stateKeys}, self: self, set: schema.NewSet(), known: schema.NewSet(),
		pending: map[string]*schema.Entry{}, foreign: foreignNames{names: map[string]struct{}{}}, maxCount: maxPolicies, maxBytes: maxPolicyBytes, stale: map[int]struct{}{},
		history: history{entries: map[int64]api.HistoryEntry{}}, leaders: map[string]candidate{},
		replicas: map[string]registration{},
	}
}

// put applies that a key was written.
func (c *cache) put(kv *mvccpb.KeyValue) {
	key, ok := strings.CutPrefix(string(kv.Key), string(c.keys))
	if !ok {
		return
	}
	folder, name, nested := strings.Cut(key, "/")
	if !nested {
		c.putRecord(key, kv)
		return
	}
	switch folder {
	case "policies":
		c.putPolicy(name, kv.Value)
	case "origins":
		if bucket, ok := bucketOf(name); ok {
			byName, valid := c.readOrigins(kv.Value)
			c.contents++
			c.origins[bucket] = bucketOrigins{present: true, valid: valid, byName: byName}
			c.stale[bucket] = struct{}{}
		}
	case "history":
		number, ok := historyNumber(name)
		if !ok {
			return
		}
		entry, problem := c.signer.decodeHistory(number, kv.Value)
		c.noteForgery("history", kv, problem)
		c.history.put(number, entry)
	case "leader":
		c.putCandidate(kv)
	case "replicas":
		c.putReplica(name, kv)
	}
}

func (c *cache) putRecord(key string, kv *mvccpb.KeyValue) {
	switch key {
	case "head":
		c.contents++
		c.head = c.signer.decodeHead(kv)
		c.noteForgery(key, kv, c.head.problem)
	case "epoch":
		c.contents++
		c.epoch = c.signer.decodeEpoch(kv)
		c.noteForgery(key, kv, c.epoch.problem)
	case "epoch-floor":
		var problem error
		c.floor, problem = c.signer.decodeFloor(kv.Value)
		c.noteForgery(key, kv, problem)
	case "status":
		c.putReport(kv)
	case "term":
		c.term, c.termModified = decodeTerm(kv.Value), kv.ModRevision
	case "publishing":
		c.publishing = kv.Lease
	case "trigger":
		c.trigger = kv.ModRevision
	}
}

func (c *cache) putPolicy(name string, value []byte) {
	c.contents++
	entry, ok := c.known.Get(name), true
	if entry == nil || !bytes.Equal(entry.Canonical, value) {
		entry, ok = decodePolicy(name, value)
	}
	c.account(name, nil)
	if ok = ok && c.account(name, entry); !ok {
		entry = nil
	}
	c.pending[name] = entry
	if ok {
		c.foreign.remove(name)
	} else {
		c.foreign.add(name)
	}
}

// removePolicy applies that a key under policies/ was deleted.
func (c *cache) removePolicy(name string) {
	c.contents++
	c.account(name, nil)
	c.pending[name] = nil
	c.foreign.remove(name)
}

// account adds an entry to the counts of the cache or, if it is nil, subtracts the
// one of that name. It returns false, and adds nothing, if that is too much.
func (c *cache) account(name string, entry *schema.Entry) bool {
	if entry == nil {
		before, changed := c.pending[name]
		if !changed {
			before = c.set.Get(name)
		}
		if before != nil {
			c.count--
			c.bytes -= memoryOf(before)
		}
		// Whatever comes next under that name is not counted against it twice.
		c.pending[name] = nil
		return true
	}
	size := memoryOf(entry)
	if c.count >= c.maxCount || c.bytes+size > c.maxBytes {
		if c.policyDropped == 0 || size < c.policyDropped {
			c.policyDropped = size
		}
		return false
	}
	c.count++
	c.bytes += size
	return true
}

// remove applies that a key was deleted.
func (c *cache) remove(fullKey string) {
	key, ok := strings.CutPrefix(fullKey, string(c.keys))
	if !ok {
		return
	}
	folder, name, nested := strings.Cut(key, "/")
	if nested {
		switch folder {
		case "policies":
			c.removePolicy(name)
		case "origins":
			if bucket, ok := bucketOf(name); ok {
				c.contents++
				c.origins[bucket] = bucketOrigins{}
				c.stale[bucket] = struct{}{}
			}
		case "history":
			if number, ok := historyNumber(name); ok {
				c.history.remove(number)
			}
		case "leader":
			delete(c.leaders, fullKey)
		case "replicas":
			c.removeReplica(name)
		}
		return
	}
	switch key {
	case "head":
		c.contents++
		c.head = headKey{}
	case "epoch":
		c.contents++
		c.epoch = epochKey{}
	case "epoch-floor":
		c.floor = 0
	case "status":
		c.report.lost = c.report.value != nil
	case "term":
		c.term, c.termModified = 0, 0
	case "publishing":
		c.publishing = 0
	}
}

// flush applies pending and stale to set. Its cost is that of what changed.
func (c *cache) flush() {
	if len(c.pending) == 0 && len(c.stale) == 0 {
		return
	}
	var puts []*schema.Entry
	var deletes []string
	for name, entry := range c.pending {
		if entry == nil {
			deletes = append(deletes, name)
			continue
		}
		puts = append(puts, c.withOrigin(entry))
	}
	for bucket := range c.stale {
		for _, entry := range c.set.Bucket(bucket) {
			if _, changed := c.pending[entry.Name()]; changed {
				continue
			}
			if placed := c.withOrigin(entry); placed != entry {
				puts = append(puts, placed)
			}
		}
	}
	c.set = c.set.With(puts, deletes)
	clear(c.pending)
	clear(c.stale)
}

func (c *cache) withOrigin(entry *schema.Entry) *schema.Entry {
	name := entry.Name()
	origin := c.origins[schema.BucketOf(name)].byName[name]
	if origin == entry.Origin {
		return entry
	}
	return entry.WithOrigin(origin)
}

// intern replaces set by another one if both are equal in meaning and origins,
// so that comparing the two later costs nothing.
func (c *cache) intern(other *schema.Set) {
	c.flush()
	if other != nil && other != c.set && len(schema.Diff(c.set, other)) == 0 {
		c.set = other
	}
}

// midPublication reports that the leader is alive and between two transactions
// of a publication.
func (c *cache) midPublication() bool {
	leader, ok := c.leader()
	return ok && c.publishing != 0 && leader.lease == c.publishing
}
