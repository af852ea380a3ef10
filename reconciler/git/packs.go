package git

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"

	"github.com/boifi/hfi/reconciler"
)

// packReader reads the objects of a pack: whole ones, and deltas.
type packReader struct {
	scanner *packfile.Scanner
	// limit bounds each object and each delta, in bytes.
	limit int64
}

var errTooLargeToResolve = errors.New("it is too large")

// inflate returns what the pack has at an offset: an object's content, or a delta.
func (r *packReader) inflate(offset int64) ([]byte, error) {
	header, err := r.scanner.SeekObjectHeader(offset)
	if err != nil {
		return nil, err
	}
	if header.Length > r.limit || header.Length < 0 {
		return nil, fmt.Errorf("%w: %d bytes at offset %d of the pack", errTooLargeToResolve, header.Length, offset)
	}
	text := fixedBuffer(make([]byte, 0, header.Length))
	if _, _, err := r.scanner.NextObject(&text); err != nil {
		return nil, err
	}
	return text, wrongLength(offset, int64(len(text)), header.Length)
}

// wrongLength returns an error if an object has not as many bytes as announced.
func wrongLength(offset, length, announced int64) error {
	if length == announced {
		return nil
	}
	return fmt.Errorf("%w: the object at offset %d has %d bytes instead of %d", packfile.ErrMalformedPackFile, offset, length, announced)
}

// patch returns the result of the delta at an offset.
func (r *packReader) patch(base []byte, offset int64) ([]byte, error) {
	delta, err := r.inflate(offset)
	if err != nil {
		return nil, err
	}
	var start deltaStart
	_, _ = start.Write(delta)
	if _, size := start.sizes(); size > r.limit {
		return nil, fmt.Errorf("%w: %d bytes from the delta at offset %d of the pack", errTooLargeToResolve, size, offset)
	}
	text, err := packfile.PatchDelta(base, delta)
	if err != nil {
		return nil, fmt.Errorf("%w: the delta at offset %d: %w", packfile.ErrMalformedPackFile, offset, err)
	}
	return text, nil
}

// size returns the size of the object at an offset, of which it reads no more than a
// delta's beginning.
func (r *packReader) size(offset int64) (int64, error) {
	header, err := r.scanner.SeekObjectHeader(offset)
	if err != nil || !header.Type.IsDelta() {
		return headerLength(header), err
	}
	content, err := r.scanner.ReadObject()
	if err != nil {
		return 0, err
	}
	defer content.Close()
	var start deltaStart
	if _, err := io.CopyN(&start, content, int64(len(start.text))); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	_, size := start.sizes()
	return size, nil
}

func headerLength(header *packfile.ObjectHeader) int64 {
	if header == nil {
		return 0
	}
	return header.Length
}

// packs reads the objects in a repository's packs, within packLimits. go-git follows a
// chain of deltas recursively to any depth (a delta to itself overflows the stack, which
// ends the process), holds in memory what they lead to however large it is, and does
// not honour a context.
type packs struct {
	gitFolder string
	limits    packLimits
	// resolved are the objects that may be bases of others. All packs that a
	// repository reads share it.
	resolved *cache.BufferLRU
	all      []*openPack
}

// openPack is a pack whose index is in memory. Its file is opened when it is first
// read, and stays open: that makes reads cheap, and they survive git gc.
type openPack struct {
	name   string
	number int64
	index  packIndex
	file   *os.File
	source contextReader
	reader packReader
}

// openPacks reads the indexes of a repository's packs. An index that cannot be read is an
// error, with which the other packs can be used.
func openPacks(gitFolder string, limits packLimits, resolved *cache.BufferLRU, number int64) (*packs, error) {
	p := &packs{gitFolder: gitFolder, limits: limits, resolved: resolved}
	folder := filepath.Join(gitFolder, "objects", "pack")
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	var problem error
	for _, entry := range entries {
		name, isIndex := strings.CutSuffix(entry.Name(), ".idx")
		if !isIndex || !strings.HasPrefix(name, "pack-") {
			continue
		}
		index, err := readIndex(filepath.Join(folder, entry.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // git gc just removed it.
		case err != nil:
			problem = fmt.Errorf("reading %s: %w", entry.Name(), err)
		default:
			p.all = append(p.all, &openPack{name: filepath.Join(folder, name+".pack"), number: number + int64(len(p.all)), index: index})
		}
	}
	return p, problem
}

func (p *packs) close() {
	for _, pack := range p.all {
		if pack.file != nil {
			_ = pack.file.Close()
		}
	}
}

// read returns an object's content, or plumbing.ErrObjectNotFound. It does not check
// the object's kind, which its hash proves.
func (p *packs) read(ctx context.Context, kind plumbing.ObjectType, hash plumbing.Hash, limit int64) ([]byte, error) {
	for _, pack := range p.all {
		offset, err := pack.index.offset(hash)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			continue
		}
		if err == nil {
			err = pack.open(p.limits.delta)
		}
		if errors.Is(err, fs.ErrNotExist) { // git gc just removed it.
			continue
		}
		if err != nil {
			return nil, err
		}
		pack.source.ctx = ctx
		text, err := p.resolve(pack, kind, hash, offset, limit)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return text, err
	}
	return nil, plumbing.ErrObjectNotFound
}

func (p *openPack) open(limit int64) (err error) {
	if p.file != nil {
		return nil
	}
	if p.file, err = os.Open(p.name); err != nil {
		return err
	}
	p.source = contextReader{ReadSeeker: p.file}
	p.reader = packReader{packfile.NewScanner(&p.source), limit}
	return nil
}

// resolve returns the content of the object at an offset.
func (p *packs) resolve(pack *openPack, kind plumbing.ObjectType, hash plumbing.Hash, offset, limit int64) ([]byte, error) {
	size, err := pack.reader.size(offset)
	if err != nil {
		return nil, err
	}
	if err := tooLarge(kind, hash, size, limit); err != nil {
		return nil, err
	}
	deltas, base, text, err := p.chain(pack, kind, hash, offset)
	if err != nil {
		return nil, err
	}
	if base != none {
		if text, err = pack.reader.inflate(base); err == nil {
			p.resolved.Put(pack.key(base), text)
		}
	}
	for _, at := range slices.Backward(deltas) {
		if err = cmp.Or(err, pack.source.ctx.Err()); err != nil {
			break
		}
		if text, err = pack.reader.patch(text, at); err == nil {
			p.resolved.Put(pack.key(at), text)
		}
	}
	if errors.Is(err, errTooLargeToResolve) {
		return nil, p.tooLargeChain(kind, hash)
	}
	return text, err
}

// chain returns the offsets of the deltas that lead to the object at an offset, last first,
// and of their base; or, with none for the base, the content of a base that was resolved.
func (p *packs) chain(pack *openPack, kind plumbing.ObjectType, hash plumbing.Hash, offset int64) (deltas []int64, base int64, text []byte, err error) {
	for at, total := offset, int64(0); ; {
		if text, known := p.resolved.Get(pack.key(at)); known {
			return deltas, none, text, nil
		}
		header, err := pack.reader.scanner.SeekObjectHeader(at)
		if err != nil {
			return nil, 0, nil, err
		}
		if !header.Type.IsDelta() {
			return deltas, at, nil, nil
		}
		if len(deltas) >= int(p.limits.depth) {
			return nil, 0, nil, fail("Unsupported", reconciler.Stalled, "%s %s is stored as a chain of more than %d deltas; at most that many are read: run git repack -a -d -f in the repository", kind, hash, p.limits.depth)
		}
		if total += header.Length; total > p.limits.delta {
			return nil, 0, nil, p.tooLargeChain(kind, hash)
		}
		deltas = append(deltas, at)
		if at = header.OffsetReference; header.Type == plumbing.REFDeltaObject {
			if at, err = pack.index.offset(header.Reference); err != nil {
				return nil, 0, nil, fmt.Errorf("%w: the delta at offset %d is to %s, which is not in the pack", packfile.ErrMalformedPackFile, header.Offset, header.Reference)
			}
		}
	}
}

func (p *packs) tooLargeChain(kind plumbing.ObjectType, hash plumbing.Hash) error {
	return fail("Unsupported", reconciler.Stalled, "%s %s is stored as deltas to an object of more than %d MiB, or as deltas of that size; smaller ones are read: run git -c core.bigFileThreshold=%dm repack -a -d -f in the repository", kind, hash, p.limits.delta>>20, p.limits.delta>>20)
}

// offsetBits is how many bits of a key in packs.resolved are the offset in the pack.
const offsetBits = 44

func (p *openPack) key(offset int64) int64 { return p.number<<offsetBits | offset }
