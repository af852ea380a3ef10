package git

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

const (
	// cacheSize bounds go-git's cache of objects, in bytes, for each store.
	cacheSize = 16 << 20
	// maxObject bounds the objects that are read, in bytes. What is larger is no policy and no folder of policies.
	maxObject = 64 << 20
	// maxAlternates bounds the object stores that a repository borrows from.
	maxAlternates = 16
)

// rereads are the pauses before an object is looked for again in a store
// opened afresh: git gc may be moving it from one file to another.
var rereads = []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond}

// objects reads a repository's objects, and checks each against its hash.
// Loose ones it reads itself, which costs a small file's read; packed ones it
// leaves to go-git. It is shared by deltas: each takes it with use and gives
// it back with release.
type objects struct {
	gitFolder string
	trees     *trees

	// mu is held while go-git's stores, which are not made for concurrent use, are read.
	mu sync.Mutex
	// stores are those of the repository and its alternates; empty until a packed object is needed.
	stores []store
	// packed is when the folder of packs last changed before stores were opened.
	packed time.Time

	// users counts the deltas that read from it. Once it is retired and has none, it is closed.
	users   int
	retired bool
	// closed runs once, after the last user.
	closed func()
}

type store struct {
	*filesystem.Storage
	folder string
}

func openStore(gitFolder string) *filesystem.Storage {
	return filesystem.NewStorage(osfs.New(gitFolder), cache.NewObjectLRU(cacheSize))
}

// use takes the objects for one user, as they are now.
func (o *objects) use() *objects {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.users++
	if len(o.stores) > 0 && !o.packed.Equal(packsChanged(o.gitFolder)) {
		o.shut()
	}
	return o
}

func (o *objects) release() { o.leave(1, false) }

// retire says that no other user will come.
func (o *objects) retire() { o.leave(0, true) }

func (o *objects) leave(users int, retired bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.users -= users
	o.retired = o.retired || retired
	if !o.retired || o.users > 0 {
		return
	}
	o.shut()
	if o.closed != nil {
		o.closed()
		o.closed = nil
	}
}

// shut closes the stores; the next packed object opens them afresh.
func (o *objects) shut() {
	for _, s := range o.stores {
		_ = s.Close()
	}
	o.stores = nil
}

// shutNow is shut for who does not hold mu.
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

// opened is the stores, and the folders where loose objects are.
func (o *objects) opened() []store {
	if len(o.stores) > 0 {
		return o.stores
	}
	o.packed = packsChanged(o.gitFolder)
	for _, folder := range append([]string{o.gitFolder}, alternates(o.gitFolder)...) {
		// Open descriptors make many reads cheap, and outlive git gc.
		storage := filesystem.NewStorageWithOptions(osfs.New(folder), cache.NewObjectLRU(cacheSize), filesystem.Options{KeepDescriptors: true})
		o.stores = append(o.stores, store{storage, folder})
	}
	return o.stores
}

// alternates lists the git folders that a repository borrows objects from.
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
	text, err := o.read(ctx, plumbing.CommitObject, hash, maxObject)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", hash, err)
	}
	encoded := &plumbing.MemoryObject{}
	encoded.SetType(plumbing.CommitObject)
	if _, err := encoded.Write(text); err != nil {
		return nil, err
	}
	commit := &object.Commit{}
	if err := commit.Decode(encoded); err != nil {
		return nil, fail("Corrupt", reconciler.Stalled, "commit %s cannot be read: %w; run git fsck in the repository", hash, err)
	}
	return commit, nil
}

// tree is the raw text of a tree.
func (o *objects) tree(ctx context.Context, hash plumbing.Hash) ([]byte, error) {
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
	o.trees.put(hash, text)
	return text, nil
}

// read is an object's content, if it has no more than limit bytes. A larger
// blob is a *schema.TooLarge; what is larger than maxObject is damage or abuse.
func (o *objects) read(ctx context.Context, kind plumbing.ObjectType, hash plumbing.Hash, limit int64) ([]byte, error) {
	for _, pause := range rereads {
		text, err := o.readChecked(kind, hash, limit)
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
	text, err := o.readChecked(kind, hash, limit)
	if err != nil {
		err = objectError(err)
	}
	return text, err
}

func (o *objects) readChecked(kind plumbing.ObjectType, hash plumbing.Hash, limit int64) ([]byte, error) {
	text, err := o.readOnce(kind, hash, limit)
	if err == nil && sum(kind, text) != hash {
		err = fail("Corrupt", reconciler.Stalled, "the content of %s %s is damaged; run git fsck in the repository", kind, hash)
	}
	return text, err
}

func (o *objects) readOnce(kind plumbing.ObjectType, hash plumbing.Hash, limit int64) (text []byte, err error) {
	if text, err = loose(o.gitFolder, kind, hash, limit); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return text, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	defer recovered(kind, hash, &err)
	for _, s := range o.opened() {
		if s.folder != o.gitFolder {
			if text, err := loose(s.folder, kind, hash, limit); err == nil {
				return text, nil
			}
		}
		text, err := packedObject(s.Storage, kind, hash, limit)
		if !errors.Is(err, plumbing.ErrObjectNotFound) {
			return text, err
		}
	}
	return nil, plumbing.ErrObjectNotFound
}

// recovered turns go-git's panics, which some damaged packs cause, into errors.
func recovered(kind plumbing.ObjectType, hash plumbing.Hash, err *error) {
	if cause := recover(); cause != nil {
		*err = fail("Corrupt", reconciler.Stalled, "%s %s cannot be read: %v; run git fsck in the repository", kind, hash, cause)
	}
}

func packedObject(s *filesystem.Storage, kind plumbing.ObjectType, hash plumbing.Hash, limit int64) ([]byte, error) {
	encoded, err := s.EncodedObject(kind, hash)
	if err != nil {
		return nil, err
	}
	if err := tooLarge(kind, hash, encoded.Size(), limit); err != nil {
		return nil, err
	}
	reader, err := encoded.Reader()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	return readSized(reader, encoded.Size())
}

// tooLarge is the error for an object of more than limit bytes, if it has them.
func tooLarge(kind plumbing.ObjectType, hash plumbing.Hash, size, limit int64) error {
	switch {
	case size <= min(limit, maxObject):
		return nil
	case kind == plumbing.BlobObject && size > limit:
		return &schema.TooLarge{Size: size}
	}
	return fail("Unsupported", reconciler.WaitForPush, "%s %s has %d bytes; at most %d are read", kind, hash, size, maxObject)
}

// readSized reads exactly size bytes and the end.
func readSized(reader io.Reader, size int64) ([]byte, error) {
	text := make([]byte, size)
	if _, err := io.ReadFull(reader, text); err != nil {
		return nil, fmt.Errorf("reading %d bytes: %w", size, noEOF(err))
	}
	// The checksum of the compressed data is checked at its end.
	if n, err := reader.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		return nil, fmt.Errorf("there is more than the %d bytes announced, or damage at their end: %w", size, errors.Join(errDamaged, err))
	}
	return text, nil
}

var errDamaged = errors.New("the object is damaged")

// noEOF keeps an early end from looking like the regular one.
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
	// The header is KIND SP SIZE NUL; it is read byte by byte so as to take none of the content.
	var header []byte
	for one := make([]byte, 1); ; {
		if _, err := io.ReadFull(inflated, one); err != nil {
			return nil, nil, "", 0, noEOF(err)
		}
		if one[0] == 0 {
			break
		}
		if header = append(header, one[0]); len(header) > 32 {
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
		return nil, fmt.Errorf("%w: it is a %s, not a %s", errDamaged, kind, want)
	}
	if err := tooLarge(want, hash, size, limit); err != nil {
		return nil, err
	}
	return readSized(content, size)
}

// sum is an object's hash. It need not withstand forgery: whoever can write
// into the repository can push.
func sum(kind plumbing.ObjectType, content []byte) plumbing.Hash {
	h := sha1.New()
	fmt.Fprintf(h, "%s %d\x00", kind, len(content))
	_, _ = io.Copy(h, bytes.NewReader(content))
	var hash plumbing.Hash
	h.Sum(hash[:0])
	return hash
}
