package lastgood

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/datadir"
	"github.com/boifi/hfi/internal/statekey"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// testKeys are those of the daemon whose data folder it is.
var testKeys = statekey.Random()

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func entry(t testing.TB, name string, delay int) *schema.Entry {
	t.Helper()
	policy, err := schema.Parse(fmt.Appendf(nil, `{"metadata":{"name":%q},"spec":{"rules":[{"fault":{"delay_ms":%d}}]}}`, name, delay))
	if err != nil {
		t.Fatal(err)
	}
	// git allows paths that are not UTF-8 or have a newline.
	return schema.NewEntry(policy, schema.Origin{File: "policies/\xff\n" + name + ".yaml", Line: delay, Commit: "c1"})
}

func state(number int64, set *schema.Set) *reconciler.State {
	return &reconciler.State{
		Head:     reconciler.Head{Commit: fmt.Sprintf("commit%d", number), Digest: set.Digest(), Count: set.Len(), At: time.Unix(1000+number, 0).UTC()},
		Set:      set,
		Revision: reconciler.Revision{Epoch: reconciler.Epoch{Number: 3, ID: "e.1-x"}, Number: number},
	}
}

func mustSave(t testing.TB, s *Store, state *reconciler.State) {
	t.Helper()
	if err := s.Save(state); err != nil {
		t.Fatal(err)
	}
}

// same compares states, with their policies' origins.
func same(a, b *reconciler.State) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Head == b.Head && a.Revision == b.Revision && len(schema.Diff(a.Set, b.Set)) == 0
}

func load(t testing.TB, folder string) *reconciler.State {
	t.Helper()
	loaded, err := New(folder, testKeys, quiet()).Load()
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// After a restart Load returns the saved state, an empty set too.
func TestLoadGivesWhatWasSaved(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "last-good")
	if loaded := load(t, folder); loaded != nil {
		t.Fatalf("without a journal: %v", loaded)
	}
	s := New(folder, testKeys, quiet())
	full := schema.NewSet(entry(t, "a", 1), entry(t, "b", 2), entry(t, "c", 3))
	for i, set := range []*schema.Set{
		schema.NewSet(),
		full,
		full.With([]*schema.Entry{entry(t, "b", 20)}, []string{"a"}),
		full.With([]*schema.Entry{full.Get("a").WithOrigin(schema.Origin{File: "elsewhere", Line: 9, Commit: "c2"})}, nil),
		full,
		schema.NewSet(),
	} {
		want := state(int64(i+1), set)
		mustSave(t, s, want)
		if loaded := load(t, folder); !same(loaded, want) {
			t.Fatalf("save %d: loaded %+v, want %+v", i, loaded, want)
		}
	}
}

// A save writes only what changed, and the size of the journal is bounded.
func TestSaveWritesChangesAndTheJournalIsBounded(t *testing.T) {
	folder := t.TempDir()
	s := New(folder, testKeys, quiet())
	s.Slack = 100
	var entries []*schema.Entry
	for i := range 200 {
		entries = append(entries, entry(t, fmt.Sprintf("p%04d", i), 1))
	}
	set := schema.NewSet(entries...)
	mustSave(t, s, state(1, set))
	base := size(t, folder)
	largest, rewritten := int64(0), false
	for i := range 450 {
		set = set.With([]*schema.Entry{entry(t, fmt.Sprintf("p%04d", i%200), i+2)}, nil)
		before := size(t, folder)
		mustSave(t, s, state(int64(i+2), set))
		after := size(t, folder)
		largest = max(largest, after)
		if after > before && after-before > 1000 {
			t.Fatalf("one changed policy of 200 added %d bytes", after-before)
		}
		rewritten = rewritten || after < before
	}
	// A rewritten set is a little larger, because its numbers have more digits.
	if !rewritten || largest > 2*(base+base/10)+s.Slack {
		t.Errorf("the journal grew from %d bytes to %d (rewritten: %v)", base, largest, rewritten)
	}
	if loaded := load(t, folder); !same(loaded, state(451, set)) {
		t.Error("Load does not return the last of many states")
	}
}

func size(t testing.TB, folder string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(folder, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// journal saves three states, and returns the file and its length after each.
func journal(t testing.TB) ([]byte, []*reconciler.State, []int64) {
	folder := t.TempDir()
	s := New(folder, testKeys, quiet())
	set := schema.NewSet(entry(t, "a", 1), entry(t, "b", 2))
	var states []*reconciler.State
	var ends []int64
	for i := range 3 {
		set = set.With([]*schema.Entry{entry(t, "n", i+1)}, nil)
		if i == 2 {
			set = set.With(nil, []string{"a"})
		}
		states = append(states, state(int64(i+1), set))
		mustSave(t, s, states[i])
		ends = append(ends, size(t, folder))
	}
	text, err := os.ReadFile(filepath.Join(folder, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	return text, states, ends
}

// loadText loads a journal. For some it also checks that the store can save and load afterwards.
func loadText(t *testing.T, text []byte) (*reconciler.State, error) {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "journal"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(folder, testKeys, quiet())
	loaded, err := s.Load()
	if rand.IntN(16) != 0 {
		return loaded, err
	}
	next := state(99, schema.NewSet(entry(t, "z", 9)))
	mustSave(t, s, next)
	if again := load(t, folder); !same(again, next) {
		t.Fatalf("after damage, Load does not return the next saved state: %+v", again)
	}
	return loaded, err
}

// A journal that is truncated at any byte loads the last complete state before it.
func TestTruncatedJournalLoadsTheStateBefore(t *testing.T) {
	text, states, ends := journal(t)
	for cut := range len(text) {
		var want *reconciler.State
		for i, end := range ends {
			if int64(cut) >= end {
				want = states[i]
			}
		}
		loaded, err := loadText(t, text[:cut])
		if !same(loaded, want) {
			t.Fatalf("cut at %d: loaded %+v, want %+v", cut, loaded, want)
		}
		if (err == nil) != (want != nil) {
			t.Fatalf("cut at %d: error %v", cut, err)
		}
	}
}

// A journal with any bit flipped loads a state that was saved before that bit, or none.
func TestFlippedBitIsDetected(t *testing.T) {
	text, states, ends := journal(t)
	for at := range len(text) {
		flipped := bytes.Clone(text)
		flipped[at] ^= 1 << (at % 8)
		var want *reconciler.State
		for i, end := range ends {
			if int64(at) >= end {
				want = states[i]
			}
		}
		if loaded, err := loadText(t, flipped); !same(loaded, want) || (err == nil) != (want != nil) {
			t.Fatalf("bit flipped in byte %d: loaded %+v (%v), want %+v", at, loaded, err, want)
		}
	}
}

// Records with valid checksums are no state if their set differs from the head's digest.
func TestSetWithoutItsHeadsDigestIsNoState(t *testing.T) {
	good := state(1, schema.NewSet(entry(t, "a", 1)))
	text := appendState([]byte(magic), schema.NewSet(), good, testKeys)
	bad := state(2, schema.NewSet(entry(t, "a", 1), entry(t, "b", 2)))
	bad.Head.Digest = good.Head.Digest
	text = appendState(text, good.Set, bad, testKeys)
	if loaded, err := loadText(t, text); err != nil || !same(loaded, good) {
		t.Errorf("loaded %+v, %v", loaded, err)
	}
	wrong := state(3, good.Set)
	wrong.Head.Count++
	if loaded, err := loadText(t, appendState([]byte(magic), schema.NewSet(), wrong, testKeys)); err == nil || loaded != nil {
		t.Errorf("a wrong count: loaded %+v, %v", loaded, err)
	}
}

// If a journal was rewritten and the folder cannot be synced, either journal may
// be in place. The next save does not append to it as if it were the old one.
func TestSaveAfterAFailedRewrite(t *testing.T) {
	folder := t.TempDir()
	s := New(folder, testKeys, quiet())
	s.Slack = 100
	mustSave(t, s, state(1, schema.NewSet(entry(t, "a", 1))))
	s.writeFile = func(path string, content []byte) error {
		return errors.Join(datadir.WriteFile(path, content), errors.New("the folder cannot be synced"))
	}
	large := schema.NewSet()
	for i := range 20 {
		large = large.With([]*schema.Entry{entry(t, fmt.Sprintf("p%d", i), 1)}, nil)
	}
	if err := s.Save(state(2, large)); err == nil {
		t.Fatal("the journal was not rewritten, or the failure was not reported")
	}
	s.writeFile = datadir.WriteFile
	want := state(3, schema.NewSet(entry(t, "a", 2)))
	mustSave(t, s, want)
	if loaded := load(t, folder); !same(loaded, want) {
		t.Errorf("loaded %+v, want %+v", loaded, want)
	}
}

// A journal that somebody removed, alone or with its folder, is missed, and the
// next save writes it again.
func TestCheckMissesARemovedJournal(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "last-good")
	s := New(folder, testKeys, quiet())
	if err := s.Check(); err != nil {
		t.Errorf("before the first save: %v", err)
	}
	want := state(1, schema.NewSet(entry(t, "a", 1)))
	mustSave(t, s, want)
	for _, removed := range []string{filepath.Join(folder, "journal"), folder} {
		if err := s.Check(); err != nil {
			t.Errorf("with a journal: %v", err)
		}
		if err := os.RemoveAll(removed); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := s.Check(); !errors.Is(err, reconciler.ErrNotOnDisk) {
				t.Errorf("without %s: %v", removed, err)
			}
		}
		mustSave(t, s, want)
		if loaded := load(t, folder); !same(loaded, want) {
			t.Errorf("loaded %+v, want %+v", loaded, want)
		}
	}
}

// Invalid input causes no panic and no allocation beyond its size.
func FuzzLoad(f *testing.F) {
	text, _, _ := journal(f)
	f.Add(text)
	f.Add([]byte(magic))
	f.Add(append([]byte(magic), 0xff, 0xff, 0xff, 0x00, 1, 2, 3, 4, 'P'))
	f.Fuzz(func(t *testing.T, text []byte) {
		result, err := replay(bytes.NewReader(text), testKeys)
		if result.state == nil && err == nil {
			t.Fatal("neither a state nor an error")
		}
		if result.state != nil && result.state.Head.Digest != result.state.Set.Digest() {
			t.Fatal("an invalid state")
		}
		// Arbitrary bodies in records with valid checksums reach the decoders.
		_, _ = replay(io.MultiReader(bytes.NewReader([]byte(magic)), bytes.NewReader(appendRecord(nil, kindPut, text)), bytes.NewReader(appendRecord(nil, kindHead, text))), testKeys)
	})
}

func BenchmarkSaveOneChange(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := New(b.TempDir(), testKeys, quiet())
			var entries []*schema.Entry
			for i := range n {
				entries = append(entries, entry(b, fmt.Sprintf("p%05d", i), 1))
			}
			set := schema.NewSet(entries...)
			mustSave(b, s, state(1, set))
			for i := 0; b.Loop(); i++ {
				set = set.With([]*schema.Entry{entry(b, fmt.Sprintf("p%05d", rand.IntN(n)), i+2)}, nil)
				mustSave(b, s, state(int64(i+2), set))
			}
		})
	}
}
