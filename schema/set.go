//go:build !wasm

// The filter has no part of this: what makes digests would make it larger by a
// thirtieth, which each Envoy pays for when it starts.

package schema

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
)

// Digest identifies a set of policies by its meaning: equal digests, equal
// sets. It starts with the version of the canonical form and of the formula.
type Digest string

// DigestVersion is the version that this program makes. A digest of another
// version cannot be compared with one of ours.
const DigestVersion = "v1"

// Origin says where in the repository a policy was written. It is no part of
// the policy's meaning, and of no digest.
type Origin struct {
	// File is relative to the repository's root; Line counts from 1.
	File string `json:"file"`
	Line int    `json:"line"`
	// Commit is the published commit that gave the policy its present meaning.
	Commit string `json:"commit"`
}

// Entry is a policy in a set. It is never changed once it is made.
type Entry struct {
	Policy *Policy
	// Canonical is Policy's canonical JSON.
	Canonical []byte
	// Hash is Canonical's SHA-256.
	Hash   [sha256.Size]byte
	Origin Origin
}

// NewEntry makes the entry of a policy, which must not be changed afterwards.
func NewEntry(policy *Policy, origin Origin) *Entry {
	text := policy.Canonical()
	return &Entry{Policy: policy, Canonical: text, Hash: sha256.Sum256(text), Origin: origin}
}

// WithOrigin is the same policy from another place.
func (e *Entry) WithOrigin(origin Origin) *Entry {
	moved := *e
	moved.Origin = origin
	return &moved
}

// Name is the policy's name.
func (e *Entry) Name() string { return e.Policy.Metadata.Name }

// Buckets is how many parts a Set is kept in.
const Buckets = 256

// BucketOf is the part of a Set that a policy's name belongs to: the first
// byte of the name's SHA-256.
func BucketOf(name string) int { return int(sha256.Sum256([]byte(name))[0]) }

// Set is an immutable set of policies with different names: a Merkle tree of
// two levels, so that changing, comparing and digesting a large set costs
// what the difference costs. The zero value and nil are not sets; use NewSet.
type Set struct {
	// buckets[i] is nil where the set has no policy of bucket i. A bucket is
	// shared between all sets in which it is the same.
	buckets [Buckets]*bucket
	size    int
	digest  func() Digest
	sorted  func() []*Entry
}

type bucket struct {
	// entries are in the order of their names.
	entries []*Entry
	// hash is the SHA-256 of the entries' hashes in that order.
	hash [sha256.Size]byte
}

// NewSet makes a set; of entries with one name the last one counts.
func NewSet(entries ...*Entry) *Set {
	return empty().With(entries, nil)
}

func empty() *Set {
	set := &Set{}
	set.lazies()
	return set
}

func (s *Set) lazies() {
	s.digest = sync.OnceValue(s.computeDigest)
	s.sorted = sync.OnceValue(s.sort)
}

// With is the set with some entries put in (or replaced) and some names taken
// out. A name that is in both is put in.
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
	next.lazies()
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

// Len is the number of policies.
func (s *Set) Len() int { return s.size }

// Get is the entry of that name, or nil.
func (s *Set) Get(name string) *Entry {
	entries := s.buckets[BucketOf(name)].list()
	i, found := slices.BinarySearchFunc(entries, name, func(e *Entry, name string) int { return cmp.Compare(e.Name(), name) })
	if !found {
		return nil
	}
	return entries[i]
}

// Entries are all entries by name. The slice is shared: do not change it.
func (s *Set) Entries() []*Entry { return s.sorted() }

// Bucket is the entries of one bucket by name, shared: do not change it.
func (s *Set) Bucket(i int) []*Entry { return s.buckets[i].list() }

func (s *Set) sort() []*Entry {
	all := make([]*Entry, 0, s.size)
	for _, b := range s.buckets {
		all = append(all, b.list()...)
	}
	slices.SortFunc(all, byEntryName)
	return all
}

// Digest is the set's digest: the version, a colon, and the SHA-256, in
// hexadecimal, of every non-empty bucket's number (one byte) and hash.
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

// Change is how one name differs between two sets: Old is nil where it was
// added, New where it was taken out.
type Change struct {
	Name     string
	Old, New *Entry
}

// SameMeaning says that only the policy's origin differs.
func (c Change) SameMeaning() bool {
	return c.Old != nil && c.New != nil && c.Old.Hash == c.New.Hash
}

// Diff lists, bucket by bucket, the names whose entries differ in meaning or
// in origin. Buckets that the two sets share cost nothing.
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
