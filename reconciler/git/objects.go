package git

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

const (
	// cacheSize bounds the cache of packed objects, in bytes.
	cacheSize = 16 << 20
	// maxObject bounds the objects that are read, in bytes. No policy and no folder of policies is larger.
	maxObject = 64 << 20
	// maxCommit bounds a commit and an annotated tag, in bytes. Most of it is the message.
	maxCommit = 4 << 20
	// maxAlternates bounds the alternate object stores of a repository.
	maxAlternates = 16
)

// rereads are the waits before an object is read again from reopened stores:
// git gc may be moving it from one file to another. They are fixed and few,
// because a move takes milliseconds.
var rereads = []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond}

// objects reads a repository's objects, and checks each against its hash, which
// go-git does not. It reads loose objects itself too, because go-git reads an
// object of any size whole. Deltas share it: each calls use and later release.
type objects struct {
	gitFolder string
	trees     *trees
	limits    packLimits

	// mu guards the stores, which are not safe for concurrent use.
	mu sync.Mutex
	// stores are the repository's packs and its alternates'; empty until a packed object is read.
	stores []*packs
	// unopened is why some packs of the stores could not be opened, or nil.
	unopened error
	// resolved makes chains of deltas cheap to read. It must be cleared when what needed
	// them has been read, because it counts the sizes of objects only, and small ones
	// take several times theirs.
	resolved *cache.BufferLRU
	// packed is the modification time of the folder of packs when the stores were opened.
	packed time.Time

	// leftOut are objects of fetched packs that are not in their indexes.
	leftOut leftOut

	// users counts the deltas that use it. It is closed once it is retired and has none.
	users   int
	retired bool
	// closed is called once, after the last user.
	closed func()
}

// use adds a user, and reopens the stores if packs were added or removed.
func (o *objects) use() *objects {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.users++
	if len(o.stores) > 0 && !o.packed.Equal(packsChanged(o.gitFolder)) {
		o.shut()
	}
	return o
}

func (o *objects) leaveOut(more leftOut) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.leftOut = leftOut{o.leftOut.large + more.large, o.leftOut.deep + more.deep}
}

// missing is the error for an object that is not found, if some were left out of an index, else nil.
func (o *objects) missing(kind plumbing.ObjectType, hash plumbing.Hash) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch l := o.leftOut; {
	case l.deep > 0 && l.large == 0:
		return fail("Unsupported", reconciler.Stalled, "%s %s is missing, perhaps because the server sends it as a chain of more than %d deltas: run git repack -a -d -f in the server's repository", kind, hash, o.limits.depth)
	case l.deep > 0:
		return fail("Unsupported", reconciler.Stalled, "%s %s is missing, perhaps because it, or an object that the server sends it as the difference to, has more than %d MiB, or because the server sends it as a chain of more than %d deltas: keep large files out of the policy folder, and run git repack -a -d -f in the server's repository", kind, hash, o.limits.delta>>20, o.limits.depth)
	case l.large > 0:
		return fail("Unsupported", reconciler.WaitForPush, "%s %s is missing, perhaps because it, or an object that the server sends it as the difference to, has more than %d MiB: keep large files out of the policy folder", kind, hash, o.limits.delta>>20)
	}
	return nil
}

func (o *objects) release() { o.leave(1, false) }

// retire closes the objects after their last user. No other may come.
func (o *objects) retire() { o.leave(0, true) }

func (o *objects) leave(users int, retired bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.users -= users
	o.retired = o.retired || retired
	if o.users > 0 {
		return
	}
	if !o.retired {
		if o.resolved != nil {
			o.resolved.Clear()
		}
		return
	}
	o.shut()
	if o.closed != nil {
		o.closed()
		o.closed = nil
	}
}

// shut closes the stores; the next packed object reopens them.
func (o *objects) shut() {
	for _, s := range o.stores {
		s.close()
	}
	o.stores, o.unopened, o.resolved = nil, nil, nil
}

// shutNow is shut for callers that do not hold mu.
func (o *objects) shutNow() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shut()
}

func packsChanged(gitFolder string) time.Time {
	info, err := os.Stat(filepath.Join(gitFolder, "objects", "pack"))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// opened returns the stores, and opens them if necessary. The caller holds mu.
func (o *objects) opened() []*packs {
	if len(o.stores) > 0 {
		return o.stores
	}
	o.packed, o.resolved = packsChanged(o.gitFolder), cache.NewBufferLRU(cacheSize)
	count := int64(0)
	for _, folder := range append([]string{o.gitFolder}, alternates(o.gitFolder)...) {
		opened, err := openPacks(folder, o.limits, o.resolved, count)
		o.stores, o.unopened = append(o.stores, opened), errors.Join(o.unopened, err)
		count += int64(len(opened.all))
	}
	return o.stores
}

// alternates returns the git folders of a repository's alternate object stores.
func alternates(gitFolder string) []string {
	var folders []string
	todo := []string{gitFolder}
	for len(todo) > 0 && len(folders) < maxAlternates {
		at := filepath.Join(todo[0], "objects")
		todo = todo[1:]
		text, err := os.ReadFile(filepath.Join(at, "info", "alternates"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' {
				continue
			}
			if !filepath.IsAbs(line) {
				line = filepath.Join(at, line)
			}
			folders, todo = append(folders, filepath.Dir(line)), append(todo, filepath.Dir(line))
		}
	}
	return folders
}

func (o *objects) commit(ctx context.Context, hash plumbing.Hash) (*object.Commit, error) {
	commit, _, err := o.commitText(ctx, hash)
	return commit, err
}

// commitText also returns the commit as it is encoded, which its hash is of.
func (o *objects) commitText(ctx context.Context, hash plumbing.Hash) (*object.Commit, []byte, error) {
	text, err := o.read(ctx, plumbing.CommitObject, hash, maxCommit)
	if err != nil {
		return nil, nil, fmt.Errorf("commit %s: %w", hash, err)
	}
	commit, err := decodeCommit(text)
	if err != nil {
		return nil, nil, fail("Corrupt", reconciler.Stalled, "commit %s cannot be read: %w; run git fsck in the repository", hash, err)
	}
	return commit, text, nil
}

func decodeCommit(text []byte) (*object.Commit, error) {
	encoded := &plumbing.MemoryObject{}
	encoded.SetType(plumbing.CommitObject)
	if _, err := encoded.Write(text); err != nil {
		return nil, err
	}
	commit := &object.Commit{}
	return commit, commit.Decode(encoded)
}

// tree returns the encoded entries of a folder's tree, which checkTree has accepted.
func (o *objects) tree(ctx context.Context, hash plumbing.Hash, folder string) ([]byte, error) {
	if hash.IsZero() {
		return nil, nil
	}
	if text, known := o.trees.get(hash); known {
		return text, nil
	}
	text, err := o.read(ctx, plumbing.TreeObject, hash, maxObject)
	if err != nil {
		return nil, fmt.Errorf("tree %s: %w", hash, err)
	}
	if err := checkTree(text); err != nil {
		return nil, invalidTree(folder, hash, err)
	}
	o.trees.put(hash, text)
	return text, nil
}

// read returns the content of an object of at most limit bytes. The error for a
// larger blob is a *schema.TooLarge, and for other objects, and those larger
// than maxObject, a SourceError.
func (o *objects) read(ctx context.Context, kind plumbing.ObjectType, hash plumbing.Hash, limit int64) ([]byte, error) {
	for _, pause := range rereads {
		text, err := o.readChecked(ctx, kind, hash, limit)
		if large := (*schema.TooLarge)(nil); err == nil || errors.As(err, &large) {
			return text, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
		o.shutNow()
	}
	text, err := o.readChecked(ctx, kind, hash, limit)
	switch {
	case err == nil:
		return text, nil
	case errors.Is(err, plumbing.ErrObjectNotFound) && isPartial(o.gitFolder):
		return nil, fail("PartialClone", reconciler.Stalled, "the repository is a partial clone and lacks an object: use one made by git clone without --filter (%w)", err)
	case errors.Is(err, plumbing.ErrObjectNotFound):
		return nil, cmp.Or(o.missing(kind, hash), objectError(err))
	case errors.Is(err, idxfile.ErrMalformedIdxFile) && hasOldIndex(o.gitFolder):
		return nil, fail("Unsupported", reconciler.Stalled, "the repository has a pack index of version 1, which is not supported: run git index-pack on its packs, with pack.indexVersion 2")
	}
	return nil, objectError(err)
}

// hasOldIndex says whether a repository has a pack index of version 1.
func hasOldIndex(gitFolder string) bool {
	indexes, _ := filepath.Glob(filepath.Join(gitFolder, "objects", "pack", "*.idx"))
	for _, index := range indexes {
		if old, _ := isOldIndex(index); old {
			return true
		}
	}
	return false
}

// isOldIndex says whether a file begins with the table that version 1 begins
// with: numbers that do not fall. Version 2 begins with other bytes.
func isOldIndex(name string) (bool, error) {
	file, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer file.Close()
	var table [256]uint32
	if err := binary.Read(file, binary.BigEndian, &table); err != nil {
		return false, err
	}
	return slices.IsSorted(table[:]), nil
}

func (o *objects) readChecked(ctx context.Context, kind plumbing.ObjectType, hash plumbing.Hash, limit int64) ([]byte, error) {
	text, err := o.readOnce(ctx, kind, hash, limit)
	if err != nil || hashObject(kind, text) == hash {
		return text, err
	}
	for _, other := range []plumbing.ObjectType{plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject} {
		if hashObject(other, text) == hash {
			return nil, &otherKindError{is: other, want: kind}
		}
	}
	return nil, fail("Corrupt", reconciler.Stalled, "the content of %s %s is damaged; run git fsck in the repository", kind, hash)
}

// otherKindError is the error for an object of another kind than its use says.
type otherKindError struct{ is, want plumbing.ObjectType }

func (e *otherKindError) Error() string { return fmt.Sprintf("it is a %s, not a %s", e.is, e.want) }
func (e *otherKindError) Unwrap() error { return errDamaged }

func (o *objects) readOnce(ctx context.Context, kind plumbing.ObjectType, hash plumbing.Hash, limit int64) (text []byte, err error) {
	if text, err = loose(o.gitFolder, kind, hash, limit); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return text, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	defer recoverPanic(kind, hash, &err)
	for _, s := range o.opened() {
		if s.gitFolder != o.gitFolder {
			if text, err := loose(s.gitFolder, kind, hash, limit); err == nil {
				return text, nil
			}
		}
		text, err := s.read(ctx, kind, hash, limit)
		if !errors.Is(err, plumbing.ErrObjectNotFound) {
			return text, err
		}
	}
	return nil, cmp.Or(o.unopened, plumbing.ErrObjectNotFound)
}

// recoverPanic turns a panic into an error: go-git panics on some damaged packs.
func recoverPanic(kind plumbing.ObjectType, hash plumbing.Hash, err *error) {
	if cause := recover(); cause != nil {
		*err = fail("Corrupt", reconciler.Stalled, "%s %s cannot be read: %v; run git fsck in the repository", kind, hash, cause)
	}
}

// tooLarge returns an error for an object of more than limit bytes.
func tooLarge(kind plumbing.ObjectType, hash plumbing.Hash, size, limit int64) error {
	switch {
	case size <= min(limit, maxObject):
		return nil
	case kind == plumbing.BlobObject && size > limit:
		return &schema.TooLarge{Size: size}
	}
	return fail("Unsupported", reconciler.WaitForPush, "%s %s has %d bytes; at most %d are read", kind, hash, size, min(limit, maxObject))
}

// readSized reads exactly size bytes and checks that no more follow.
func readSized(reader io.Reader, size int64) ([]byte, error) {
	text := make([]byte, size)
	if _, err := io.ReadFull(reader, text); err != nil {
		return nil, fmt.Errorf("reading %d bytes: %w", size, noEOF(err))
	}
	// The checksum of the compressed data is checked at its end.
	if n, err := reader.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		return nil, fmt.Errorf("the content is longer than the %d bytes announced, or damaged at its end: %w", size, errors.Join(errDamaged, err))
	}
	return text, nil
}

var errDamaged = errors.New("the object is damaged")

// noEOF returns io.ErrUnexpectedEOF for io.EOF.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func openLoose(gitFolder string, hash plumbing.Hash) (file *os.File, content io.Reader, kind string, size int64, err error) {
	name := hash.String()
	file, err = os.Open(filepath.Join(gitFolder, "objects", name[:2], name[2:]))
	if err != nil {
		return nil, nil, "", 0, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", errDamaged, err)
			_ = file.Close()
		}
	}()
	inflated, err := zlib.NewReader(bufio.NewReaderSize(file, 4096))
	if err != nil {
		return nil, nil, "", 0, noEOF(err)
	}
	// The header is KIND SP SIZE NUL. It is read byte by byte, so that the content is left.
	var header []byte
	for next := make([]byte, 1); ; {
		if _, err := io.ReadFull(inflated, next); err != nil {
			return nil, nil, "", 0, noEOF(err)
		}
		if next[0] == 0 {
			break
		}
		if header = append(header, next[0]); len(header) > 32 {
			return nil, nil, "", 0, errors.New("its header is too long")
		}
	}
	kind, digits, _ := strings.Cut(string(header), " ")
	if size, err = strconv.ParseInt(digits, 10, 63); err != nil || size < 0 {
		return nil, nil, "", 0, fmt.Errorf("its header is %q", header)
	}
	return file, inflated, kind, size, nil
}

func loose(gitFolder string, want plumbing.ObjectType, hash plumbing.Hash, limit int64) ([]byte, error) {
	file, content, kind, size, err := openLoose(gitFolder, hash)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if kind != want.String() {
		is, err := plumbing.ParseObjectType(kind)
		if err != nil {
			return nil, fmt.Errorf("%w: its kind is %q", errDamaged, kind)
		}
		return nil, &otherKindError{is: is, want: want}
	}
	if err := tooLarge(want, hash, size, limit); err != nil {
		return nil, err
	}
	return readSized(content, size)
}

// hashObject returns an object's hash. Plain SHA-1 will do, because an attacker
// who can write to the repository can also push.
func hashObject(kind plumbing.ObjectType, content []byte) plumbing.Hash {
	h := sha1.New()
	fmt.Fprintf(h, "%s %d\x00", kind, len(content))
	_, _ = io.Copy(h, bytes.NewReader(content))
	var hash plumbing.Hash
	h.Sum(hash[:0])
	return hash
}
