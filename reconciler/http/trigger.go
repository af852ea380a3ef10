package http

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// reconcile is POST /v1/reconcile and, for git hosts, POST /v1/webhook. The
// request is authenticated if there is a secret; else the content of its body
// does not matter. It answers before the trigger is done.
func (s *Server) reconcile(w http.ResponseWriter, r *http.Request) error {
	if s.WebhookSecret != nil {
		if err := s.verify(w, r); err != nil {
			return err
		}
	}
	s.trigger()
	return writeJSON(w, http.StatusAccepted, api.Accepted{Status: "accepted"})
}

// verify authenticates a trigger: by the secret itself, as GitLab sends it and
// Azure DevOps as a password, or by the body's HMAC-SHA256, as GitHub, Gitea,
// Forgejo, Bitbucket and Gogs send it.
func (s *Server) verify(w http.ResponseWriter, r *http.Request) error {
	forbidden := &httpError{
		status: http.StatusForbidden, code: "forbidden",
		message: "the request must be signed with the webhook's secret: X-Hub-Signature-256, or the header of another git host, is missing or wrong",
	}
	secret, err := s.WebhookSecret()
	if err != nil || secret == "" {
		s.Logger.Error("refusing a trigger: the webhook's secret cannot be read, or is empty", "error", err)
		return &httpError{
			status: http.StatusServiceUnavailable, code: "no_secret", retryAfter: 30,
			message: "the daemon cannot read the secret that authenticates webhooks",
		}
	}
	if token, found := sentSecret(r); found {
		// Digests, so that the time of the comparison does not reveal the length.
		given, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(secret))
		if subtle.ConstantTimeCompare(given[:], want[:]) != 1 {
			return forbidden
		}
		return nil
	}
	given := signature(r)
	if given == nil {
		return forbidden
	}
	mac := hmac.New(sha256.New, []byte(secret))
	if _, err := io.Copy(mac, http.MaxBytesReader(w, r.Body, s.MaxWebhook)); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return &httpError{
				status: http.StatusRequestEntityTooLarge, code: "too_large",
				message: fmt.Sprintf("a webhook's body may have %d bytes", s.MaxWebhook),
			}
		}
		return badRequest("reading the webhook's body: %v", err)
	}
	if !hmac.Equal(given, mac.Sum(nil)) {
		return forbidden
	}
	return nil
}

// sentSecret returns the secret that a webhook has in its headers. A signature
// comes before a password, which may be meant for a proxy.
func sentSecret(r *http.Request) (secret string, found bool) {
	if token := r.Header.Get("X-Gitlab-Token"); token != "" {
		return token, true
	}
	if signature(r) != nil {
		return "", false
	}
	_, password, found := r.BasicAuth()
	return password, found
}

// signature returns the signature that a webhook has in its headers, or nil.
func signature(r *http.Request) []byte {
	for _, header := range []struct{ name, prefix string }{
		{"X-Hub-Signature-256", "sha256="}, // GitHub, Gitea, Forgejo
		{"X-Hub-Signature", "sha256="},     // Bitbucket; GitHub has a SHA-1 here
		{"X-Gogs-Signature", ""},
	} {
		text, found := strings.CutPrefix(r.Header.Get(header.name), header.prefix)
		if given, err := hex.DecodeString(text); found && text != "" && err == nil {
			return given
		}
	}
	return nil
}

// triggers coalesces requests: those that come during a trigger cause one more
// after it. singleflight would drop them, though git may have changed since
// the trigger began.
type triggers struct {
	inFlight
	mu sync.Mutex
	// running: a goroutine runs triggers; pending: it has to run one more.
	running, pending bool
}

func (s *Server) trigger() {
	t := &s.triggers
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running {
		t.pending = true
		return
	}
	if !t.enter() {
		return
	}
	t.running = true
	go s.runTriggers()
}

func (s *Server) runTriggers() {
	t := &s.triggers
	defer t.leave()
	for {
		s.triggerOnce()
		gap := time.NewTimer(s.TriggerGap)
		select {
		case <-gap.C:
		case <-s.draining:
			gap.Stop()
		}
		t.mu.Lock()
		if !t.pending {
			t.running = false
			t.mu.Unlock()
			return
		}
		t.pending = false
		t.mu.Unlock()
	}
}

// triggerOnce does not retry: the leader fetches from git at its interval too.
func (s *Server) triggerOnce() {
	ctx, cancel := context.WithTimeout(context.Background(), s.TriggerTimeout)
	defer cancel()
	outcome := "ok"
	if err := s.view.Trigger(ctx); err != nil {
		outcome = "failed"
		s.Logger.Warn("trigger did not reach the leader, which fetches at its next interval", "error", err)
	}
	s.Metrics.triggers.WithLabelValues(outcome).Inc()
}
