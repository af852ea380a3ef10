package git

import (
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
)

// Close cancels hanging operations, waits for them, and may be called twice.
// TestMain checks that no goroutine is left.
func TestCloseCancelsOperations(t *testing.T) {
	repo, first := pushed(t, policy(1))
	web := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	shell := gittest.ServeSSH(t, repo)
	web.Break(web.Hang)
	shell.Hang(true)
	for url, asked := range map[string]func() int{web.URL: web.Requests, shell.URL: shell.Held} {
		before := asked()
		s := open(t, url, "policies", func(s *Source) { s.SSHKeyFile, s.KnownHostsFile = shell.KeyFile, shell.KnownHostsFile })
		failed := make(chan error)
		go func() {
			_, err := s.Delta(t.Context(), "", first)
			failed <- err
		}()
		testtool.Eventually(t, "the server is asked", func() bool { return asked() > before })
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
		select {
		case err := <-failed:
			wantError(t, err, "Canceled", reconciler.Retry)
		case <-time.After(testTimeout):
			t.Fatal("the delta still runs after Close")
		}
		if err := s.Close(); err != nil {
			t.Errorf("closing again: %v", err)
		}
	}
}

// A source that was never opened can be closed.
func TestCloseUnopened(t *testing.T) {
	if err := New("nowhere", "main", ".", t.TempDir()).Close(); err != nil {
		t.Error(err)
	}
}
