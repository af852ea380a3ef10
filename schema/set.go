//go:build !wasm

// The filter does not need sets. The hash functions would make its module about
// 3 % larger, which slows the start of each Envoy.

package schema

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
)

// Digest identifies the content of a set of policies: sets with equal digests
// have equal policies. It starts with the version of the canonical form and of
// the formula.
type Digest string

// DigestVersion is the version of the digests that this program computes.
// Digests of different versions cannot be compared.
const DigestVersion = "v1"

// Origin is the place of a policy in the repository. It does not affect the
// policy's canonical form or any digest.
type Origin struct {
	// File is relative to the repository's root; Line counts from 1.
	File string `json:"file"`
	Line int    `json:"line"`
	// Commit is the published commit that last changed the policy's content.
	Commit string `json:"commit"`
}

// Entry is a policy in a set. It is immutable.
type Entry struct {
	Policy *Policy
	// Canonical is Policy's canonical JSON.
	Canonical []byte
	// Hash is Canonical's SHA-256.
	Hash   [sha256.Size]byte
	Origin Origin
}

// NewEntry returns the entry of a policy. The policy must not be changed afterwards.
func NewEntry(policy *Policy, origin Origin) *Entry {
	text := policy.Canonical()
	return &Entry{Policy: policy, Canonical: text, Hash: sha256.Sum256(text), Origin: origin}
}

// WithOrigin returns a copy of the entry with another origin.
func (e *Entry) WithOrigin(origin Origin) *Entry {
	moved := *e
	moved.Origin = origin
	return &moved
}

// Name returns the policy's name.
func (e *Entry) Name() string { return e.Policy.Metadata.Name }

// Buckets is the number of buckets of a Set.
const Buckets = 256

// BucketOf returns the number of the bucket that a policy's name belongs to:
// the first byte of the name's SHA-256.
func BucketOf(name string) int { return int(sha256.Sum256([]byte(name))[0]) }

// Set is an immutable set of policies with distinct names. It is a Merkle tree
// with two levels, so that the cost of changing, comparing and digesting a
// large set depends on the size of the difference. Use NewSet to make one: the
// zero value and nil are not valid sets.
type Set struct {
	// buckets[i] is nil if the set has no policy in bucket i. Sets share the
	// buckets that they have in common.
	buckets [Buckets]*bucket
	size    int
	digest  func() Digest
	sorted  func() []*Entry
}

type bucket struct {
	// entries are sorted by name.
	entries []*Entry
	// hash is the SHA-256 of the hashes of the entries, in order.
	hash [sha256.Size]byte
}

// NewSet returns a set of entries. Of entries with the same name the last one wins.
func NewSet(entries ...*Entry) *Set {
	return empty().With(entries, nil)
}

func empty() *Set {
	set := &Set{}
	set.initLazy()
	return set
}

// initLazy prepares the values that are computed on first use.
func (s *Set) initLazy() {
	s.digest = sync.OnceValue(s.computeDigest)
	s.sorted = sync.OnceValue(s.sort)
}

// With returns a copy of the set in which puts are added or replaced, and the
// policies named by deletes are removed. A name that is in both is added.
func (s *Set) With(puts []*Entry, deletes []string) *Set {
	type edit struct {
		puts    []*Entry
		deletes []string
	}
	edits := map[int]*edit{}
	at := func(name string) *edit {
		i := BucketOf(name)
		if edits[i] == nil {
			edits[i] = &edit{}
		}
		return edits[i]
	}
	for _, name := range deletes {
		e := at(name)
		e.deletes = append(e.deletes, name)
	}
	for _, entry := range puts {
		e := at(entry.Name())
		e.puts = append(e.puts, entry)
	}
	next := &Set{buckets: s.buckets, size: s.size}
	next.initLazy()
	for i, e := range edits {
		before := next.buckets[i].list()
		after := editBucket(before, e.puts, e.deletes)
		next.buckets[i] = newBucket(after)
		next.size += len(after) - len(before)
	}
	return next
}

func editBucket(before, puts []*Entry, deletes []string) []*Entry {
	byName := make(map[string]*Entry, len(before)+len(puts))
	for _, entry := range before {
		byName[entry.Name()] = entry
	}
	for _, name := range deletes {
		delete(byName, name)
	}
	for _, entry := range puts {
		byName[entry.Name()] = entry
	}
	after := make([]*Entry, 0, len(byName))
	for _, entry := range byName {
		after = append(after, entry)
	}
	slices.SortFunc(after, byEntryName)
	return after
}

func byEntryName(a, b *Entry) int { return cmp.Compare(a.Name(), b.Name()) }

func newBucket(entries []*Entry) *bucket {
	if len(entries) == 0 {
		return nil
	}
	hash := sha256.New()
	for _, entry := range entries {
		hash.Write(entry.Hash[:])
	}
	b := &bucket{entries: entries}
	hash.Sum(b.hash[:0])
	return b
}

func (b *bucket) list() []*Entry {
	if b == nil {
		return nil
	}
	return b.entries
}

// Len returns the number of policies.
func (s *Set) Len() int { return s.size }

// Get returns the entry with a name, or nil.
func (s *Set) Get(name string) *Entry {
	entries := s.buckets[BucketOf(name)].list()
	i, found := slices.BinarySearchFunc(entries, name, func(e *Entry, name string) int { return cmp.Compare(e.Name(), name) })
	if !found {
		return nil
	}
	return entries[i]
}

// Entries returns all entries, sorted by name. The slice is shared: do not change it.
func (s *Set) Entries() []*Entry { return s.sorted() }

// Bucket returns the entries of one bucket, sorted by name. The slice is
// shared: do not change it.
func (s *Set) Bucket(i int) []*Entry { return s.buckets[i].list() }

func (s *Set) sort() []*Entry {
	all := make([]*Entry, 0, s.size)
	for _, b := range s.buckets {
		all = append(all, b.list()...)
	}
	slices.SortFunc(all, byEntryName)
	return all
}

// Digest returns the digest of the set: the version, a colon, and the
// hexadecimal SHA-256 of the number (one byte) and the hash of each non-empty
// bucket.
func (s *Set) Digest() Digest { return s.digest() }

func (s *Set) computeDigest() Digest {
	hash := sha256.New()
	for i, b := range s.buckets {
		if b != nil {
			hash.Write([]byte{byte(i)})
			hash.Write(b.hash[:])
		}
	}
	return Digest(fmt.Sprintf("%s:%s", DigestVersion, hex.EncodeToString(hash.Sum(nil))))
}

// Change is the difference between two sets in one name. Old is nil if the
// policy was added, New is nil if it was removed.
type Change struct {
	Name     string
	Old, New *Entry
}

// OriginOnly reports whether only the policy's origin has changed.
func (c Change) OriginOnly() bool {
	return c.Old != nil && c.New != nil && c.Old.Hash == c.New.Hash
}

// Diff returns, bucket by bucket, the names whose entries differ in content or
// in origin. Buckets that the two sets share are not compared.
func Diff(from, to *Set) []Change {
	var changes []Change
	for i := range from.buckets {
		if from.buckets[i] != to.buckets[i] {
			changes = diffBucket(changes, from.buckets[i].list(), to.buckets[i].list())
		}
	}
	return changes
}

func diffBucket(changes []Change, from, to []*Entry) []Change {
	for len(from) > 0 || len(to) > 0 {
		switch {
		case len(to) == 0 || len(from) > 0 && from[0].Name() < to[0].Name():
			changes = append(changes, Change{Name: from[0].Name(), Old: from[0]})
			from = from[1:]
		case len(from) == 0 || to[0].Name() < from[0].Name():
			changes = append(changes, Change{Name: to[0].Name(), New: to[0]})
			to = to[1:]
		default:
			if a, b := from[0], to[0]; a != b && (a.Hash != b.Hash || a.Origin != b.Origin) {
				changes = append(changes, Change{Name: a.Name(), Old: a, New: b})
			}
			from, to = from[1:], to[1:]
		}
	}
	return changes
}
