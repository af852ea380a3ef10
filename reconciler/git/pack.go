package git

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/boifi/hfi/reconciler"
)

// packLimits bound the pack that a server sends. go-git's own indexing has
// no such limits: it allocates as many entries as the pack announces, holds
// each object whole, and does not honour the context.
type packLimits struct {
	// objects bounds their number. The index of each takes some 200 bytes of memory.
	objects uint32
	// unpacked bounds the sum of their sizes, in bytes.
	unpacked int64
	// delta bounds an object that is sent as a delta, its base, and the deltas that
	// lead to it, in bytes: to resolve a delta, they must be in memory. Larger ones
	// are left out of the index. No policy and no folder of policies is as large.
	delta int64
	// depth bounds a chain of deltas, as git does.
	depth int32
}

var defaultPackLimits = packLimits{objects: 1 << 20, unpacked: 64 << 30, delta: maxObject, depth: 4095}

// resolvedSize bounds the objects in memory that are bases of other objects, in bytes.
const resolvedSize = 32 << 20

// receivingStore is a store for one fetch, which indexes packs within packLimits.
type receivingStore struct {
	*filesystem.Storage
	ctx       context.Context
	operation *operation
	clone     *clone
}

// PackfileWriter implements storer.PackfileWriter.
func (r *receivingStore) PackfileWriter() (io.WriteCloser, error) {
	folder := filepath.Join(r.clone.folder, "objects", "pack")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(folder, "tmp_pack_")
	if err != nil {
		return nil, err
	}
	r.operation.packBegins()
	return &packWriter{File: file, store: r}, nil
}

// packWriter writes a pack to a file, and indexes it when it is closed.
type packWriter struct {
	*os.File
	store *receivingStore
	size  int64
}

// ReadFrom hides the one of the file, so that Write sees everything.
func (w *packWriter) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{w}, r)
}

func (w *packWriter) Write(p []byte) (int, error) {
	n, err := w.File.Write(p)
	w.size += int64(n)
	return n, err
}

func (w *packWriter) Close() (err error) {
	temporary := w.Name()
	defer func() {
		if err != nil || w.size == 0 {
			_ = os.Remove(temporary)
		}
	}()
	if w.size == 0 {
		return w.File.Close()
	}
	index, leftOut, err := w.index()
	if err = errors.Join(err, w.File.Close()); err != nil {
		return err
	}
	name := filepath.Join(filepath.Dir(temporary), "pack-"+plumbing.Hash(index.PackfileChecksum).String())
	// go-git looks for packs, so the index comes first.
	if err := writeIndex(name+".idx", index); err != nil {
		return err
	}
	if err := os.Rename(temporary, name+".pack"); err != nil {
		return err
	}
	w.store.clone.objects.leaveOut(leftOut)
	w.store.Reindex()
	return nil
}

func (w *packWriter) index() (*idxfile.MemoryIndex, leftOut, error) {
	if _, err := w.Seek(0, io.SeekStart); err != nil {
		return nil, leftOut{}, err
	}
	x := &packIndexer{ctx: w.store.ctx, limits: w.store.operation.source.packLimits, server: w.store.operation.source.address.display, file: w.File}
	return x.index()
}

func writeIndex(name string, index *idxfile.MemoryIndex) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = idxfile.NewEncoder(file).Encode(index)
	return errors.Join(err, file.Close())
}

// packIndexer makes the index of a pack.
type packIndexer struct {
	ctx    context.Context
	limits packLimits
	server string
	file   io.ReadSeeker

	packReader
	entries []packEntry
	// waiting are the deltas to objects that are named by hash, and not found yet.
	waiting  map[plumbing.Hash][]int32
	resolved *cache.BufferLRU
}

// packEntry is an object of a pack. Positions are those in packIndexer.entries,
// and none is -1.
type packEntry struct {
	offset int64
	hash   plumbing.Hash
	crc    uint32
	// kind is that of the object itself, and invalid until a delta is resolved.
	kind plumbing.ObjectType
	// base is the position of a delta's base, child that of one delta to this
	// object, and sibling that of another delta to the same base.
	base, child, sibling int32
	// depth is the number of deltas that lead to the object, and deltas their size.
	depth  int32
	deltas int64
	// exceeds is the limit that a delta exceeds, and after passOnLeftOut also that of its base.
	exceeds limit
}

// limit is one of packLimits that leaves an object out of the index.
type limit uint8

const (
	withinLimits limit = iota
	sizeLimit
	depthLimit
)

// leftOut counts the objects of a pack that are not in its index, by the limit that they exceed.
type leftOut struct{ large, deep int }

func (l *leftOut) count(exceeds limit) {
	if exceeds == depthLimit {
		l.deep++
	} else {
		l.large++
	}
}

const none = -1

// index reads the pack once for all objects but deltas, which need no memory,
// and then again for each delta, from a base to those that derive from it.
// left counts the objects that are left out.
func (x *packIndexer) index() (index *idxfile.MemoryIndex, left leftOut, err error) {
	x.packReader = packReader{packfile.NewScanner(&contextReader{x.ctx, x.file}), x.limits.delta}
	x.waiting, x.resolved = map[plumbing.Hash][]int32{}, cache.NewBufferLRU(resolvedSize)
	checksum, err := x.scan()
	if err != nil {
		return nil, left, x.explain(err)
	}
	for i := range x.entries {
		if x.entries[i].base == none && x.entries[i].kind.Valid() {
			if err := x.resolve(int32(i)); err != nil {
				return nil, left, x.explain(err)
			}
		}
	}
	writer, anyExceeds := &idxfile.Writer{}, x.passOnLeftOut()
	for i := range x.entries {
		e := &x.entries[i]
		switch {
		case e.kind.Valid():
			writer.Add(e.hash, uint64(e.offset), e.crc)
		case e.exceeds != withinLimits:
			left.count(e.exceeds)
		case e.base == none && anyExceeds != withinLimits: // The hash of an object that is left out is unknown.
			left.count(anyExceeds)
		default:
			return nil, left, fmt.Errorf("%w at offset %d of the pack", packfile.ErrReferenceDeltaNotFound, e.offset)
		}
	}
	if err := writer.OnFooter(checksum); err != nil {
		return nil, left, err
	}
	index, err = writer.Index()
	return index, left, err
}

// explain turns an error of a truncated pack into one that is known to be that.
func (x *packIndexer) explain(err error) error {
	switch {
	case x.ctx.Err() != nil:
		return x.ctx.Err()
	case errors.Is(err, errTooLargeToResolve): // The deltas are for smaller ones.
		return fmt.Errorf("%w: %w", packfile.ErrMalformedPackFile, err)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %w", packfile.ErrMalformedPackFile, noEOF(err))
	}
	return err
}

func (x *packIndexer) tooLarge(format string, args ...any) error {
	return fail("AnswerTooLarge", reconciler.Stalled, "%s sends "+format+": use a smaller repository", append([]any{x.server}, args...)...)
}

// scan reads the headers of all objects, and the hashes of those that are no deltas.
func (x *packIndexer) scan() (plumbing.Hash, error) {
	_, count, err := x.scanner.Header()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	if count > x.limits.objects {
		return plumbing.ZeroHash, x.tooLarge("a pack of %d objects, and at most %d are read", count, x.limits.objects)
	}
	unpacked := int64(0)
	for range count {
		header, err := x.scanner.NextObjectHeader()
		if err != nil {
			return plumbing.ZeroHash, err
		}
		if unpacked += header.Length; unpacked > x.limits.unpacked || header.Length < 0 {
			return plumbing.ZeroHash, x.tooLarge("objects of more than %d MiB together", x.limits.unpacked>>20)
		}
		if err := x.entry(header); err != nil {
			return plumbing.ZeroHash, err
		}
	}
	return x.scanner.Checksum()
}

func (x *packIndexer) entry(header *packfile.ObjectHeader) (err error) {
	e := packEntry{offset: header.Offset, base: none, child: none, sibling: none}
	var length int64
	position := int32(len(x.entries))
	switch header.Type {
	case plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject:
		hasher := plumbing.NewHasher(header.Type, header.Length)
		length, e.crc, err = x.scanner.NextObject(hasher)
		e.kind, e.hash = header.Type, hasher.Sum()
	case plumbing.OFSDeltaObject, plumbing.REFDeltaObject:
		var start deltaStart
		length, e.crc, err = x.scanner.NextObject(&start)
		from, to := start.sizes()
		e.deltas, e.depth = header.Length, 1
		if max(header.Length, from, to) > x.limits.delta {
			e.exceeds = sizeLimit
		}
		if header.Type == plumbing.REFDeltaObject {
			x.waiting[header.Reference] = append(x.waiting[header.Reference], position)
			break
		}
		base, found := slices.BinarySearchFunc(x.entries, header.OffsetReference, func(e packEntry, offset int64) int {
			return int(min(max(e.offset-offset, -1), 1))
		})
		if !found {
			return fmt.Errorf("%w: there is no object at the base of the delta at offset %d", packfile.ErrMalformedPackFile, e.offset)
		}
		e.base, e.sibling = int32(base), x.entries[base].child
		x.entries[base].child = position
	default:
		return fmt.Errorf("%w: object of type %d at offset %d", packfile.ErrMalformedPackFile, header.Type, header.Offset)
	}
	if err == nil {
		err = wrongLength(e.offset, length, header.Length)
	}
	x.entries = append(x.entries, e)
	return err
}

// resolve resolves the deltas to an object, and to those that result. A delta
// that is left out leaves out those that derive from it.
func (x *packIndexer) resolve(position int32) error {
	todo := x.derived(position, nil)
	for len(todo) > 0 {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		e, base := &x.entries[at], &x.entries[x.entries[at].base]
		e.depth, e.deltas = base.depth+1, base.deltas+e.deltas
		switch {
		case e.exceeds != withinLimits:
		case e.deltas > x.limits.delta:
			e.exceeds = sizeLimit
		case e.depth > x.limits.depth:
			e.exceeds = depthLimit
		}
		if e.exceeds != withinLimits {
			continue
		}
		content, err := x.content(at)
		if err != nil {
			return err
		}
		hasher := plumbing.NewHasher(base.kind, int64(len(content)))
		_, _ = hasher.Write(content)
		e.kind, e.hash = base.kind, hasher.Sum()
		todo = x.derived(at, todo)
	}
	return nil
}

// derived appends the deltas to an object whose hash is known.
func (x *packIndexer) derived(position int32, to []int32) []int32 {
	e := &x.entries[position]
	for at := e.child; at != none; at = x.entries[at].sibling {
		to = append(to, at)
	}
	byHash := x.waiting[e.hash]
	for _, at := range byHash {
		x.entries[at].base = position
	}
	delete(x.waiting, e.hash)
	return append(to, byHash...)
}

// passOnLeftOut leaves out the deltas to objects that are left out, and returns a limit
// that an object exceeds.
func (x *packIndexer) passOnLeftOut() (any limit) {
	for i := range x.entries {
		e := &x.entries[i]
		// A base that is not resolved was named by its offset, so it is before the delta.
		if e.exceeds == withinLimits && !e.kind.Valid() && e.base != none {
			e.exceeds = x.entries[e.base].exceeds
		}
		any = cmp.Or(any, e.exceeds)
	}
	return any
}

// content returns the content of an object whose base is resolved. It keeps the
// contents of bases, as far as there is room, and else resolves them again.
func (x *packIndexer) content(position int32) ([]byte, error) {
	var (
		deltas []int32
		text   []byte
	)
	for at := position; ; at = x.entries[at].base {
		kept, found := x.resolved.Get(x.entries[at].offset)
		if found {
			text = kept
			break
		}
		if x.entries[at].base == none {
			var err error
			if text, err = x.inflate(x.entries[at].offset); err != nil {
				return nil, err
			}
			x.keep(at, text)
			break
		}
		deltas = append(deltas, at)
	}
	for _, at := range slices.Backward(deltas) {
		var err error
		if text, err = x.patch(text, x.entries[at].offset); err != nil {
			return nil, err
		}
		x.keep(at, text)
	}
	return text, nil
}

func (x *packIndexer) keep(position int32, text []byte) {
	if e := &x.entries[position]; e.child != none || len(x.waiting) > 0 {
		x.resolved.Put(e.offset, text)
	}
}

// fixedBuffer takes as many bytes as it has room for.
type fixedBuffer []byte

func (b *fixedBuffer) Write(p []byte) (int, error) {
	n := min(len(p), cap(*b)-len(*b))
	if *b = append(*b, p[:n]...); n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// deltaStart keeps the beginning of a delta, with the sizes of its base and its result.
type deltaStart struct {
	text [2 * binary.MaxVarintLen64]byte
	kept int
}

func (d *deltaStart) Write(p []byte) (int, error) {
	d.kept += copy(d.text[d.kept:], p)
	return len(p), nil
}

func (d *deltaStart) sizes() (from, to int64) {
	first, length := binary.Uvarint(d.text[:d.kept])
	second, _ := binary.Uvarint(d.text[min(max(length, 0), d.kept):d.kept])
	// What is malformed fails when it is resolved.
	return int64(min(first, math.MaxInt64)), int64(min(second, math.MaxInt64))
}

// contextReader fails once its context has ended.
type contextReader struct {
	ctx context.Context
	io.ReadSeeker
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.ReadSeeker.Read(p)
}
