package git

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/reconciler"
)

// Tests leave no goroutine.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// testTimeout bounds what a test waits for on a busy machine.
const testTimeout = 30 * time.Second

// open returns an open source of the branch main, and closes it at the end of the test.
func open(t testing.TB, url, folder string, adjust ...func(*Source)) *Source {
	t.Helper()
	s := New(url, "main", folder, filepath.Join(t.TempDir(), "git"))
	s.Logger = slog.New(slog.DiscardHandler)
	for _, change := range adjust {
		change(s)
	}
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the source: %v", err)
		}
	})
	return s
}

// mustDelta returns the delta to head, closed, and the content of its files by path.
func mustDelta(t testing.TB, s *Source, base, head string) (*reconciler.Delta, map[string]string) {
	t.Helper()
	delta, err := s.Delta(t.Context(), base, head)
	if err != nil {
		t.Fatalf("delta from %q to %s: %v", base, head, err)
	}
	contents := map[string]string{}
	for _, file := range delta.Files {
		if file.Deleted || file.Refusal != "" {
			continue
		}
		text, err := file.Read(t.Context(), 1<<20)
		if err != nil {
			t.Fatalf("reading %q: %v", file.Path, err)
		}
		contents[file.Path] = string(text)
	}
	if err := delta.Close(); err != nil {
		t.Errorf("closing the delta: %v", err)
	}
	return delta, contents
}

func mustHead(t testing.TB, s *Source) string {
	t.Helper()
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatalf("head: %v", err)
	}
	return head
}

// wantError checks an error's reason and consequence.
func wantError(t testing.TB, err error, reason string, then reconciler.Consequence) {
	t.Helper()
	var known *reconciler.SourceError
	if !errors.As(err, &known) {
		t.Fatalf("got error %v, want a SourceError with reason %s", err, reason)
	}
	if known.Reason != reason || known.Consequence != then {
		t.Errorf("got reason %s and consequence %d, want %s and %d: %v", known.Reason, known.Consequence, reason, then, err)
	}
}

// waitSignal waits for a signal that the branch may have changed.
func waitSignal(t testing.TB, s *Source) {
	t.Helper()
	select {
	case <-s.Changed():
	case <-time.After(testTimeout):
		t.Fatal("no signal")
	}
}

// quiet waits until no signal came for 200 ms.
func quiet(s *Source) {
	for {
		select {
		case <-s.Changed():
		case <-time.After(200 * time.Millisecond):
			return
		}
	}
}

// followed waits until head is hash. It reads head after signals only.
func followed(t testing.TB, s *Source, hash string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	for {
		head, err := s.Head(ctx)
		if head == hash {
			return
		}
		select {
		case <-s.Changed():
		case <-ctx.Done():
			t.Fatalf("no signal for %s: head is %q (%v)", hash, head, err)
		}
	}
}

func pushed(t testing.TB, files map[string]string) (*gittest.Repo, string) {
	t.Helper()
	repo := gittest.New(t)
	hash := repo.Commit("Begin", files)
	repo.Push()
	return repo, hash
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}
