package git

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/reconciler"
)

// replaces is a delta from a base of some size to a text.
func replaces(base int, text string) []byte {
	delta := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(base)), uint64(len(text)))
	return append(append(delta, byte(len(text))), text...)
}

// addChain adds an object, and a number of deltas from each to the next. It returns the
// last one's content.
func (p *pack) addChain(kind plumbing.ObjectType, length int, content func(int) string) string {
	text := content(0)
	at := p.add(kind, uint64(len(text)), nil, strings.NewReader(text))
	for n := range length {
		before := len(text)
		text = content(n + 1)
		at = p.addDelta(at, replaces(before, text))
	}
	return text
}

// commitOf returns a commit with one policy, and its trees.
func commitOf(blob plumbing.Hash) (folder, root, commit []byte) {
	folder = append([]byte("100644 a.yaml\x00"), blob[:]...)
	inside := hashObject(plumbing.TreeObject, folder)
	root = append([]byte("40000 policies\x00"), inside[:]...)
	return folder, root, fmt.Appendf(nil, "tree %s\nauthor Ada <ada@example.com> 1 +0000\ncommitter Ada <ada@example.com> 1 +0000\n\nx\n", hashObject(plumbing.TreeObject, root))
}

// deepPack is a pack of a commit whose policy is the last of a chain of deltas.
func deepPack(length int) (content []byte, head, policy string) {
	p := newPack(uint32(length + 4))
	policy = p.addChain(plumbing.BlobObject, length, func(n int) string { return fmt.Sprintf("# %08d", n) })
	folder, root, commit := commitOf(hashObject(plumbing.BlobObject, []byte(policy)))
	p.add(plumbing.TreeObject, uint64(len(folder)), nil, bytes.NewReader(folder))
	p.add(plumbing.TreeObject, uint64(len(root)), nil, bytes.NewReader(root))
	p.add(plumbing.CommitObject, uint64(len(commit)), nil, bytes.NewReader(commit))
	return p.end(), hashObject(plumbing.CommitObject, commit).String(), policy
}

// A local repository's chains of deltas are read up to the depth that git writes, and a
// deeper one is an error that says how to mend it.
func TestDeepChainsOfDeltas(t *testing.T) {
	for _, c := range []struct {
		length int
		reason string
	}{{4095, ""}, {4096, "Unsupported"}, {10_000, "Unsupported"}} {
		t.Run(fmt.Sprint(c.length), func(t *testing.T) {
			repo := gittest.New(t)
			content, head, policy := deepPack(c.length)
			gittest.Input(t, repo.Bare(), string(content), "index-pack", "--stdin")
			repo.Server("update-ref", "refs/heads/main", head)
			if got := repo.Server("cat-file", "-p", "main:policies/a.yaml"); got != policy {
				t.Fatalf("git reads %q, want %q", got, policy)
			}
			s := open(t, repo.Bare(), "policies")
			contents, err := readAll(t, s, "", head)
			if c.reason != "" {
				if err == nil {
					t.Fatal("the chain was read")
				}
				wantError(t, err, c.reason, reconciler.Stalled)
				for _, part := range []string{`"policies/a.yaml"`, "more than 4095 deltas", "git repack -a -d -f"} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("the error does not have %q: %v", part, err)
					}
				}
				repo.Server("repack", "-a", "-d", "-f", "-q")
				contents, err = readAll(t, s, "", head)
			}
			if err != nil || contents["policies/a.yaml"] != policy {
				t.Errorf("read %q, want %q, with the error %v", contents["policies/a.yaml"], policy, err)
			}
		})
	}
}

// writePack writes a pack into a repository, with an index of one object.
func writePack(t testing.TB, gitFolder string, content []byte, hash plumbing.Hash, offset int) {
	t.Helper()
	checksum := plumbing.Hash(content[len(content)-len(plumbing.Hash{}):])
	writer := &idxfile.Writer{}
	writer.Add(hash, uint64(offset), 0)
	if err := writer.OnFooter(checksum); err != nil {
		t.Fatal(err)
	}
	index, err := writer.Index()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(gitFolder, "objects", "pack", "pack-"+checksum.String())
	if err := errors.Join(writeIndex(name+".idx", index), os.WriteFile(name+".pack", content, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// A read from a hostile pack in a local repository takes a bounded amount of memory, and ends with its
// context.
func TestHostileLocalPacks(t *testing.T) {
	const mib, large = 1 << 20, 4 << 20
	limits := defaultPackLimits
	limits.delta = 2 * mib
	hash := plumbing.NewHash(strings.Repeat("1", 40))
	for _, c := range []struct {
		name string
		pack func() (content []byte, offset int)
		want string
	}{
		{"a chain of large objects", func() ([]byte, int) {
			p := newPack(4001)
			at := p.add(plumbing.BlobObject, 2*mib, nil, io.LimitReader(zeros{}, 2*mib))
			for range 4000 {
				at = p.addDelta(at, copies(2*mib, 2*mib))
			}
			return p.end(), at
		}, context.Canceled.Error()},
		{"a small delta to a huge object and back", func() ([]byte, int) {
			p := newPack(3)
			at := p.add(plumbing.BlobObject, mib, nil, io.LimitReader(zeros{}, mib))
			at = p.addDelta(at, copies(mib, 1<<32))
			at = p.addDelta(at, copies(1<<32, 10))
			return p.end(), at
		}, "more than 2 MiB"},
		{"a delta that inflates to more than is read", func() ([]byte, int) {
			p := newPack(2)
			at := p.add(plumbing.BlobObject, 1, nil, strings.NewReader("x"))
			distance := byte(p.Len() - at)
			at = p.add(plumbing.OFSDeltaObject, large, []byte{distance}, io.MultiReader(bytes.NewReader(copies(1, 1)), io.LimitReader(zeros{}, large-6)))
			return p.end(), at
		}, "more than 2 MiB"},
		{"a delta to a large object", func() ([]byte, int) {
			p := newPack(2)
			at := p.add(plumbing.BlobObject, large, nil, io.LimitReader(zeros{}, large))
			at = p.addDelta(at, copies(large, 10))
			return p.end(), at
		}, "more than 2 MiB"},
		{"an object that is longer than announced", func() ([]byte, int) {
			p := newPack(1)
			at := p.add(plumbing.BlobObject, 1, nil, io.LimitReader(zeros{}, large))
			return p.end(), at
		}, "exceeds declared size"},
		{"an object that is shorter than announced", func() ([]byte, int) {
			p := newPack(1)
			at := p.add(plumbing.BlobObject, 10, nil, strings.NewReader("x"))
			return p.end(), at
		}, "has 1 bytes instead of 10"},
		{"a delta to itself", func() ([]byte, int) {
			p := newPack(1)
			at := p.add(plumbing.REFDeltaObject, 6, hash[:], bytes.NewReader(copies(2, 2)))
			return p.end(), at
		}, "more than 4095 deltas"},
	} {
		t.Run(c.name, func(t *testing.T) {
			repo := gittest.New(t)
			content, offset := c.pack()
			writePack(t, repo.Bare(), content, hash, offset)
			o := &objects{gitFolder: repo.Bare(), trees: &trees{}, limits: limits}
			defer o.retire()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			timer := time.AfterFunc(100*time.Millisecond, cancel)
			if c.want != context.Canceled.Error() {
				timer.Stop()
			}
			ended := make(chan error, 1)
			go func() {
				_, err := o.read(ctx, plumbing.BlobObject, hash, maxObject)
				ended <- err
			}()
			select {
			case err := <-ended:
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
			case <-time.After(testTimeout):
				t.Fatal("the read goes on")
			}
		})
	}
}
