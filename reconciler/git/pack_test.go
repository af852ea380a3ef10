package git

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/reconciler"
)

// pack builds a pack by hand.
type pack struct {
	bytes.Buffer
	compressor *zlib.Writer
}

func newPack(count uint32) *pack {
	p := &pack{compressor: zlib.NewWriter(nil)}
	p.WriteString("PACK")
	_ = binary.Write(p, binary.BigEndian, []uint32{2, count})
	return p
}

// add adds an object or a delta, with the size that its header announces, and returns its offset.
func (p *pack) add(kind plumbing.ObjectType, announced uint64, base []byte, content io.Reader) int {
	at := p.Len()
	next := byte(kind)<<4 | byte(announced&15)
	for announced >>= 4; announced > 0; announced >>= 7 {
		p.WriteByte(next | 0x80)
		next = byte(announced & 0x7f)
	}
	p.WriteByte(next)
	p.Write(base)
	p.compressor.Reset(p)
	_, _ = io.Copy(p.compressor, content)
	_ = p.compressor.Close()
	return at
}

// addDelta adds a delta to the object at an offset.
func (p *pack) addDelta(base int, delta []byte) int {
	distance := p.Len() - base
	reference := []byte{byte(distance & 0x7f)}
	for distance >>= 7; distance > 0; distance >>= 7 {
		distance--
		reference = append([]byte{byte(distance&0x7f) | 0x80}, reference...)
	}
	return p.add(plumbing.OFSDeltaObject, uint64(len(delta)), reference, bytes.NewReader(delta))
}

func (p *pack) end() []byte {
	sum := sha1.Sum(p.Bytes())
	p.Write(sum[:])
	return p.Bytes()
}

// copies is a delta that copies the first bytes of a base until the result has a size.
func copies(base, size uint64) []byte {
	delta := binary.AppendUvarint(binary.AppendUvarint(nil, base), size)
	for piece := min(base, 0xffffff); size > 0; size -= min(piece, size) {
		piece = min(piece, size)
		delta = append(delta, 0xf0, byte(piece), byte(piece>>8), byte(piece>>16))
	}
	return delta
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// The index of a pack is the same as git's, for packs with all kinds of objects
// and deltas, by offset and by hash.
func TestPackIndexAgreesWithGit(t *testing.T) {
	repo := gittest.New(t)
	random := rand.New(rand.NewPCG(1, 2))
	var lines []string
	for n := range 400 {
		lines = append(lines, fmt.Sprintf("line %d %x", n, random.Uint64()))
	}
	for n := range 60 {
		lines[random.IntN(len(lines))] = fmt.Sprintf("changed %d %x", n, random.Uint64())
		repo.Commit("commit", map[string]string{fmt.Sprintf("policies/%d.yaml", n%7): strings.Join(lines, "\n"), fmt.Sprintf("folder/%d/empty", n): ""})
	}
	repo.Push()
	repo.Server("tag", "-a", "-m", "a tag", "v1", "main")
	for _, option := range []string{"--delta-base-offset", "--no-delta-base-offset"} {
		t.Run(option, func(t *testing.T) {
			folder := t.TempDir()
			arguments := []string{"pack-objects", "--all", "--depth=40", "-q"}
			if option == "--delta-base-offset" {
				arguments = append(arguments, option)
			}
			name := filepath.Join(folder, "pack")
			hash := strings.TrimSpace(gittest.Input(t, repo.Bare(), "", append(arguments, name)...))
			want, err := os.ReadFile(name + "-" + hash + ".idx")
			if err != nil {
				t.Fatal(err)
			}
			file, err := os.Open(name + "-" + hash + ".pack")
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			index, left, err := (&packIndexer{ctx: t.Context(), limits: defaultPackLimits, file: file}).index()
			if err != nil || left != (leftOut{}) {
				t.Fatalf("left out %v, with the error %v", left, err)
			}
			var got bytes.Buffer
			if _, err := idxfile.NewEncoder(&got).Encode(index); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Error("the index differs from git's")
			}
		})
	}
}

// The time to index a pack follows its size, also if most of its deltas are left out: those
// of a chain that is too long, and those to objects that are not there.
func TestDeltasThatAreLeftOutTakeLittleTime(t *testing.T) {
	const half = 100_000
	p := newPack(2*half + 1)
	at := p.add(plumbing.BlobObject, 2, nil, strings.NewReader("xy"))
	for range half {
		p.add(plumbing.REFDeltaObject, 6, make([]byte, 20), bytes.NewReader(copies(2, 2)))
		at = p.addDelta(at, copies(2, 2))
	}
	began := time.Now()
	_, left, err := (&packIndexer{ctx: t.Context(), limits: defaultPackLimits, file: bytes.NewReader(p.end())}).index()
	if want := (leftOut{deep: 2*half - int(defaultPackLimits.depth)}); err != nil || left != want {
		t.Errorf("left out %v, want %v, with the error %v", left, want, err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A server's pack takes a bounded amount of memory, however much it announces
// and however much it inflates to. The source reads the repository again when the server has recovered.
func TestHostilePacks(t *testing.T) {
	const mib, gib, large = 1 << 20, 1 << 30, 96 << 20
	repo, first := pushed(t, policy(1))
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	for _, c := range []struct {
		name   string
		pack   func() []byte
		reason string
		then   reconciler.Consequence
		says   string
	}{
		{"more objects than there can be", func() []byte {
			p := newPack(1<<32 - 1)
			p.add(plumbing.BlobObject, 1, nil, strings.NewReader("x"))
			return p.end()
		}, "AnswerTooLarge", reconciler.Stalled, "a pack of 4294967295 objects"},
		{"objects that are shorter than announced", func() []byte {
			p := newPack(64)
			for range 64 {
				p.add(plumbing.BlobObject, gib, nil, strings.NewReader("x"))
			}
			return p.end()
		}, "UnexpectedAnswer", reconciler.Stalled, "has 1 bytes instead of 1073741824"},
		{"more than can be unpacked in time", func() []byte {
			p := newPack(1)
			p.add(plumbing.BlobObject, 1<<40, nil, strings.NewReader("x"))
			return p.end()
		}, "AnswerTooLarge", reconciler.Stalled, "objects of more than 65536 MiB together"},
		{"a large object", func() []byte {
			p := newPack(1)
			p.add(plumbing.BlobObject, large, nil, io.LimitReader(zeros{}, large))
			return p.end()
		}, "ObjectMissing", reconciler.Retry, ""},
		{"a small delta to a large object", func() []byte {
			p := newPack(2)
			base := p.add(plumbing.BlobObject, mib, nil, io.LimitReader(zeros{}, mib))
			p.addDelta(base, copies(mib, 4*gib))
			return p.end()
		}, "Unsupported", reconciler.WaitForPush, "has more than 16 MiB: keep large files out"},
		{"a delta that inflates to a large one", func() []byte {
			p := newPack(2)
			base := p.add(plumbing.BlobObject, 1, nil, strings.NewReader("x"))
			distance := byte(p.Len() - base)
			p.add(plumbing.OFSDeltaObject, large, []byte{distance}, io.LimitReader(zeros{}, large))
			return p.end()
		}, "Unsupported", reconciler.WaitForPush, "has more than 16 MiB: keep large files out"},
		{"a chain of deltas that is too long", func() []byte {
			p := newPack(101)
			at := p.add(plumbing.BlobObject, 2, nil, strings.NewReader("xy"))
			for range 100 {
				at = p.addDelta(at, copies(2, 2))
			}
			return p.end()
		}, "Unsupported", reconciler.Stalled, "a chain of more than 50 deltas: run git repack -a -d -f in the server's repository"},
		{"a large object and a chain that is too long", func() []byte {
			p := newPack(103)
			base := p.add(plumbing.BlobObject, mib, nil, io.LimitReader(zeros{}, mib))
			p.addDelta(base, copies(mib, 4*gib))
			at := p.add(plumbing.BlobObject, 2, nil, strings.NewReader("xy"))
			for range 100 {
				at = p.addDelta(at, copies(2, 2))
			}
			return p.end()
		}, "Unsupported", reconciler.Stalled, "more than 16 MiB, or because the server sends it as a chain of more than 50 deltas"},
		{"a delta to itself", func() []byte {
			p := newPack(1)
			p.add(plumbing.OFSDeltaObject, 2, []byte{0}, bytes.NewReader(copies(0, 0)))
			return p.end()
		}, "UnexpectedAnswer", reconciler.Stalled, "invalid OFS delta offset"},
		{"a delta to an object that is not there", func() []byte {
			p := newPack(1)
			p.add(plumbing.REFDeltaObject, 2, make([]byte, 20), bytes.NewReader(copies(0, 0)))
			return p.end()
		}, "UnexpectedAnswer", reconciler.Stalled, "reference delta not found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			content := c.pack()
			server.Break(func(git http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method != http.MethodPost {
						git.ServeHTTP(w, r)
						return
					}
					w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
					_, _ = io.WriteString(w, "00000008NAK\n")
					for piece := range slices.Chunk(content, 60_000) {
						_, _ = fmt.Fprintf(w, "%04x\x01%s", 5+len(piece), piece)
					}
					_, _ = io.WriteString(w, "0000")
				})
			})
			s := open(t, server.URL, "policies", func(s *Source) { s.packLimits.delta, s.packLimits.depth = 16*mib, 50 })
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := s.Delta(t.Context(), "", first)
			runtime.ReadMemStats(&after)
			wantError(t, err, c.reason, c.then)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want a message with %q", err, c.says)
			}
			if allocated := (after.TotalAlloc - before.TotalAlloc) >> 20; allocated > 60 {
				t.Errorf("allocated %d MiB for a pack of %d KiB", allocated, len(content)>>10)
			}
			if left, _ := filepath.Glob(filepath.Join(s.dataDir, "*", "objects", "pack", "tmp_*")); len(left) > 0 {
				t.Errorf("%v was left behind", left)
			}
			server.Break(nil)
			mustDelta(t, s, "", first)
		})
	}
}
