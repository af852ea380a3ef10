package etcd

import (
	"strings"

	"github.com/boifi/hfi/schema"
)

// Bounds of what is kept of the keys under policies/ and origins/. What
// exceeds them is not treated as a policy, and so is drift.
const (
	maxPolicies    = 1 << 20
	maxPolicyBytes = 512 << 20 // of memory
	// maxForeignNames and maxForeignBytes bound the names of keys that are no policies.
	maxForeignNames = 100_000
	maxForeignBytes = 16 << 20
	// maxStrayOrigins and maxStrayBytes bound the origins in a bucket whose names
	// no policy has, and maxOriginBytes the length of a file's name.
	maxStrayOrigins = 64
	maxStrayBytes   = 64 << 10
	maxOriginBytes  = 16 << 10
)

// memoryOf is about how much memory a policy takes, decoded.
func memoryOf(entry *schema.Entry) int { return 8*len(entry.Canonical) + 512 }

// policiesMissing reports that policies were dropped, and that there is room
// for one of them now.
func (c *cache) policiesMissing() bool {
	return c.policyDropped > 0 && c.count < c.maxCount && c.bytes+c.policyDropped <= c.maxBytes
}

// foreignNames is a bounded set of names.
type foreignNames struct {
	names map[string]struct{}
	bytes int
	// dropped says that there were more than are kept.
	dropped bool
}

func (f *foreignNames) add(name string) {
	if _, known := f.names[name]; known {
		return
	}
	if len(f.names) >= maxForeignNames || f.bytes+len(name) > maxForeignBytes {
		f.dropped = true
		return
	}
	f.names[strings.Clone(name)] = struct{}{}
	f.bytes += len(name)
}

func (f *foreignNames) remove(name string) {
	if f.has(name) {
		delete(f.names, name)
		f.bytes -= len(name)
	}
}

func (f *foreignNames) has(name string) bool {
	_, known := f.names[name]
	return known
}

// hasRoomForDropped reports that names were dropped, and that there is room for them now.
func (f *foreignNames) hasRoomForDropped() bool {
	return f.dropped && len(f.names) < maxForeignNames/2 && f.bytes < maxForeignBytes/2
}

// readOrigins decodes a bucket of origins, and keeps what the policies known so
// far can need. hfi writes policies first. What is kept is copied, since a map
// keeps the size that it once had.
func (c *cache) readOrigins(value []byte) (origins map[string]schema.Origin, valid bool) {
	if len(value) > maxValue {
		return nil, false
	}
	decoded, valid := decodeOrigins(value)
	origins = map[string]schema.Origin{}
	stray, strayBytes := 0, 0
	for name, origin := range decoded {
		if len(origin.File) > maxOriginBytes || len(origin.Commit) > maxOriginBytes {
			return nil, false
		}
		if !c.holds(name) {
			size := len(name) + len(origin.File) + len(origin.Commit)
			if stray >= maxStrayOrigins || strayBytes+size > maxStrayBytes {
				valid = false
				continue
			}
			stray++
			strayBytes += size
		}
		origins[name] = origin
	}
	return origins, valid
}

// holds reports whether there is a key under policies/ with that name.
func (c *cache) holds(name string) bool {
	entry, changed := c.pending[name]
	return changed && entry != nil || !changed && c.set.Get(name) != nil || c.foreign.has(name)
}
