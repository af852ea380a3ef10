package lastgood

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/statekey"
	"github.com/boifi/hfi/schema"
)

// A journal that somebody writes who has no state key is not loaded, though it
// is right in everything else, and the next save replaces it.
func TestAForgedJournalIsNotLoaded(t *testing.T) {
	for name, forger := range map[string]*statekey.Keys{"it is not signed": statekey.None(), "it is signed with another key": statekey.Random()} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			mustSave(t, New(folder, forger, quiet()), state(7, schema.NewSet(entry(t, "evil", 60_000))))
			s := New(folder, testKeys, quiet())
			if loaded, err := s.Load(); loaded != nil || !errors.Is(err, ErrForged) || !strings.Contains(err.Error(), name) {
				t.Errorf("loaded %+v, %v", loaded, err)
			}
			want := state(3, schema.NewSet(entry(t, "a", 1)))
			mustSave(t, s, want)
			if loaded := load(t, folder); !same(loaded, want) {
				t.Errorf("after a save: %+v", loaded)
			}
		})
	}
}

// What is changed in a signed head, or added after it, is not loaded.
func TestAForgedEndIsNotLoaded(t *testing.T) {
	folder := t.TempDir()
	s := New(folder, testKeys, quiet())
	want := state(3, schema.NewSet(entry(t, "a", 1)))
	mustSave(t, s, want)
	text, err := os.ReadFile(s.path())
	if err != nil {
		t.Fatal(err)
	}
	evil := state(4, schema.NewSet(entry(t, "evil", 60_000)))
	added := appendState(bytes.Clone(text), want.Set, evil, statekey.None())
	if loaded, err := loadText(t, added); err != nil || !same(loaded, want) {
		t.Errorf("with a forged end: %+v, %v", loaded, err)
	}
	// The signature of the head above, with another set's head.
	stolen := headOf(t, text)
	stolen.Head, stolen.Revision = evil.Head, evil.Revision.String()
	forged := appendRecord(appendRecord([]byte(magic), kindPut, encodeEntry(evil.Set.Get("evil"))), kindHead, encodeRecord(t, stolen))
	if loaded, err := loadText(t, forged); loaded != nil || !errors.Is(err, ErrForged) {
		t.Errorf("with a stolen signature: %+v, %v", loaded, err)
	}
	// A later revision of the same head would keep newer states from being served.
	later := headOf(t, text)
	later.Revision = state(1<<40, want.Set).Revision.String()
	forged = appendRecord(appendRecord([]byte(magic), kindPut, encodeEntry(want.Set.Get("a"))), kindHead, encodeRecord(t, later))
	if loaded, err := loadText(t, forged); loaded != nil || !errors.Is(err, ErrForged) {
		t.Errorf("with a later revision: %+v, %v", loaded, err)
	}
}

// A head that is signed with a key that is gone does not matter if a later one
// is signed with one that is there.
func TestAJournalOutlivesItsFirstKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	use := func(keys ...byte) *statekey.Keys {
		var lines []string
		for _, b := range keys {
			lines = append(lines, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)))
		}
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := statekey.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	folder := t.TempDir()
	set := schema.NewSet(entry(t, "a", 1), entry(t, "b", 1))
	mustSave(t, New(folder, use(1), quiet()), state(1, set))
	want := state(2, set.With(nil, []string{"a"}))
	mustSave(t, New(folder, use(2, 1), quiet()), want)
	if loaded, err := New(folder, use(2), quiet()).Load(); err != nil || !same(loaded, want) {
		t.Errorf("with the new key only: %+v, %v", loaded, err)
	}
	if loaded, err := New(folder, use(1), quiet()).Load(); err != nil || !same(loaded, state(1, set)) {
		t.Errorf("with the old key only: %+v, %v", loaded, err)
	}
}

// headOf is the last head of a journal.
func headOf(t *testing.T, text []byte) (head headRecord) {
	t.Helper()
	reader := bufio.NewReader(bytes.NewReader(text[len(magic):]))
	for {
		payload, err := readRecord(reader)
		if err != nil {
			return head
		}
		if payload[0] != kindHead {
			continue
		}
		if err := json.Unmarshal(payload[1:], &head); err != nil {
			t.Fatal(err)
		}
	}
}

func encodeRecord(t *testing.T, head headRecord) []byte {
	t.Helper()
	text, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
