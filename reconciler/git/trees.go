package git

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/boifi/hfi/reconciler"
)

const (
	// treesSize bounds each generation of cached trees, in bytes. The tree of a
	// folder with 10,000 policies has half a MiB.
	treesSize = 8 << 20
	// treesKept is the size from which on the next delta begins a generation.
	treesKept = 1 << 20
	// treeCost is what a cached tree takes besides its text.
	treeCost = 128
)

// trees caches trees between deltas, so that a delta to the next commit reads
// only the trees that changed. It has two generations: the younger replaces the
// older when it is full, and once it has a little more than a delta's trees.
// With more, the cache would grow with the number of commits, and for nothing:
// a delta compares with the commit before.
type trees struct {
	mu         sync.Mutex
	young, old map[plumbing.Hash][]byte
	size       int
}

// begin is called before a delta.
func (c *trees) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size > treesKept {
		c.age()
	}
}

// age makes the younger generation the older one.
func (c *trees) age() {
	c.old, c.young, c.size = c.young, map[plumbing.Hash][]byte{}, 0
}

func (c *trees) get(hash plumbing.Hash) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if text, known := c.young[hash]; known {
		return text, true
	}
	text, known := c.old[hash]
	if known {
		c.keep(hash, text)
	}
	return text, known
}

func (c *trees) put(hash plumbing.Hash, text []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(hash, text)
}

func (c *trees) keep(hash plumbing.Hash, text []byte) {
	if len(text) > treesSize {
		return
	}
	if _, known := c.young[hash]; known {
		return
	}
	if c.young == nil || c.size+len(text) > treesSize {
		c.age()
	}
	c.young[hash] = text
	c.size += len(text) + treeCost
}

// Types of a tree's entries: the upper bits of their modes.
const (
	typeBits   = 0o170000
	typeFolder = 0o040000
	typeLink   = 0o120000
	typeModule = 0o160000
	typeFile   = 0o100000
)

// entry is an entry of a tree. The zero value means no entry. Trees are parsed
// here because go-git allocates every entry of a tree, where a delta needs the
// few that differ.
type entry struct {
	mode uint32
	name []byte
	hash plumbing.Hash
	// raw is the encoded entry.
	raw []byte
}

func (e *entry) folder() bool { return e.mode&typeBits == typeFolder }

// file says whether the entry exists and is not a folder.
func (e *entry) file() bool { return e.mode != 0 && !e.folder() }

// kind names what an entry is that is not a folder.
func (e *entry) kind() string {
	switch e.mode & typeBits {
	case typeLink:
		return "a symbolic link"
	case typeModule:
		return "a submodule"
	}
	return "a file"
}

// subtree is the hash of the entry if it is a folder, or zero.
func (e *entry) subtree() plumbing.Hash {
	if e.folder() {
		return e.hash
	}
	return plumbing.ZeroHash
}

// next decodes the first entry of a tree and returns the rest. The entry's slices share the text's memory.
func next(text []byte) (entry, []byte, error) {
	space, end := bytes.IndexByte(text, ' '), bytes.IndexByte(text, 0)
	const hashSize = len(plumbing.Hash{})
	if space < 1 || end < space || len(text) < end+1+hashSize {
		return entry{}, nil, errors.New("its last entry is cut off")
	}
	mode, err := strconv.ParseUint(string(text[:space]), 8, 16)
	if err != nil {
		return entry{}, nil, fmt.Errorf("an entry has the mode %.20q", text[:space])
	}
	e := entry{mode: uint32(mode), name: text[space+1 : end], raw: text[:end+1+hashSize]}
	copy(e.hash[:], text[end+1:])
	switch kind := e.mode & typeBits; {
	case kind != typeFolder && kind != typeLink && kind != typeModule && kind != typeFile:
		return entry{}, nil, fmt.Errorf("an entry has the mode %o", mode)
	case len(e.name) == 0, string(e.name) == ".", string(e.name) == "..", bytes.IndexByte(e.name, '/') >= 0:
		return entry{}, nil, fmt.Errorf("an entry has the name %.60q", e.name)
	}
	return e, text[len(e.raw):], nil
}

// checkTree returns an error for a tree that git fsck reports because two readers may see
// different files in it: one entry of a name or another, or none. Modes that git does not
// write but reads as one that it does are accepted, as old histories have them.
func checkTree(text []byte) error {
	var last entry
	// above are the names of files, each of which begins the next one and the current
	// entry's: in git's order, other names may be between those of a file and a folder.
	var above [][]byte
	for len(text) > 0 {
		e, rest, err := next(text)
		if err != nil {
			return err
		}
		for len(above) > 0 && !bytes.HasPrefix(e.name, above[len(above)-1]) {
			above = above[:len(above)-1]
		}
		switch {
		case e.hash.IsZero():
			return fmt.Errorf("the entry %.60q has no object", e.name)
		case isDotGit(e.name):
			return fmt.Errorf("it has an entry with the name %.60q, which git refuses", e.name)
		case bytes.Equal(e.name, last.name), len(above) > 0 && len(above[len(above)-1]) == len(e.name):
			return fmt.Errorf("it has two entries with the name %.60q", e.name)
		case last.mode != 0 && !last.before(&e):
			return fmt.Errorf("its entries %.60q and %.60q are not in git's order", last.name, e.name)
		}
		if e.file() {
			above = append(above, e.name)
		}
		last, text = e, rest
	}
	return nil
}

// isDotGit says whether a name is .git on some file system: upper case or lower, with what
// NTFS drops at a name's end, as its short name on NTFS, or with code points that HFS+ ignores.
func isDotGit(name []byte) bool {
	for part := range bytes.SplitSeq(name, []byte(`\`)) {
		part, _, _ = bytes.Cut(part, []byte(":"))
		part = bytes.TrimRight(part, " .")
		if bytes.EqualFold(part, []byte(".git")) || bytes.EqualFold(part, []byte("git~1")) {
			return true
		}
	}
	if len(name) == len(".git") {
		return false
	}
	return bytes.EqualFold(bytes.Map(func(r rune) rune {
		switch {
		case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
			return -1
		}
		return r
	}, name), []byte(".git"))
}

// before is git's order of a tree's entries: a folder sorts as if its name ended with a slash.
func (e *entry) before(other *entry) bool {
	n := min(len(e.name), len(other.name))
	if c := bytes.Compare(e.name[:n], other.name[:n]); c != 0 {
		return c < 0
	}
	return e.at(n) < other.at(n)
}

func (e *entry) at(i int) byte {
	switch {
	case i < len(e.name):
		return e.name[i]
	case e.folder():
		return '/'
	}
	return 0
}

// difference returns the entries that only one of two trees has, or that
// differ. Both are in git's order.
func difference(from, to []byte) (was, is []entry, err error) {
	var a, b entry
	restA, restB := from, to
	for len(from) > 0 || len(to) > 0 {
		if len(restA) == len(from) && len(restB) == len(to) {
			// Skip equal entries without decoding them.
			same := common(from, to)
			from, to = from[same:], to[same:]
			restA, restB = from, to
			if len(from) == 0 && len(to) == 0 {
				break
			}
		}
		if len(from) > 0 && len(restA) == len(from) {
			if a, restA, err = next(from); err != nil {
				return nil, nil, err
			}
		}
		if len(to) > 0 && len(restB) == len(to) {
			if b, restB, err = next(to); err != nil {
				return nil, nil, err
			}
		}
		switch {
		case len(from) > 0 && len(to) > 0 && bytes.Equal(a.raw, b.raw):
			from, to = restA, restB
		case len(to) == 0 || len(from) > 0 && a.before(&b):
			was, from = append(was, a), restA
		case len(from) == 0 || b.before(&a):
			is, to = append(is, b), restB
		default:
			was, is = append(was, a), append(is, b)
			from, to = restA, restB
		}
	}
	return was, is, nil
}

// common is the length of the equal entries at the start of two trees.
func common(a, b []byte) (length int) {
	for {
		end := bytes.IndexByte(a[length:], 0)
		if end < 0 {
			return length
		}
		end += length + 1 + len(plumbing.Hash{})
		if end > len(a) || end > len(b) || !bytes.Equal(a[length:end], b[length:end]) {
			return length
		}
		length = end
	}
}

// lookup returns the entry with a name in a tree, or the zero entry.
func lookup(tree []byte, name string) (entry, error) {
	if !bytes.Contains(tree, []byte(" "+name+"\x00")) {
		// The bytes may also occur in a hash, so a match is decoded below.
		return entry{}, nil
	}
	for len(tree) > 0 {
		e, rest, err := next(tree)
		if err != nil {
			return entry{}, err
		}
		if string(e.name) == name {
			return e, nil
		}
		tree = rest
	}
	return entry{}, nil
}

// invalidTree is the error for a tree that was written with a defect: its hash is right.
func invalidTree(folder string, hash plumbing.Hash, err error) error {
	return fail("Corrupt", reconciler.WaitForPush, "the folder %.200q (tree %s) is not valid: %w, as git fsck reports; change a file in the folder, so that git writes it again, and push", cmp.Or(folder, "."), hash, err)
}
