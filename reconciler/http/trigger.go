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
	nethttp "net/http"
	"strings"
	"sync"
	"time"
)

// reconcile and webhook answer at once; the work comes after.
func (s *Server) reconcile(w nethttp.ResponseWriter, r *nethttp.Request) error {
	return s.accept(w)
}

// webhook is reconcile for git hosts: the same, but that its sender must know
// the secret, if there is one. What the body says does not matter.
func (s *Server) webhook(w nethttp.ResponseWriter, r *nethttp.Request) error {
	if s.WebhookSecret != nil {
		if err := s.verify(w, r); err != nil {
			return err
		}
	}
	return s.accept(w)
}

func (s *Server) accept(w nethttp.ResponseWriter) error {
	s.trigger()
	return writeJSON(w, nethttp.StatusAccepted, struct {
		Status string `json:"status"`
	}{"accepted"})
}

// verify checks the sender's proof: the token itself, as GitLab sends it, or
// the body's HMAC-SHA256, as GitHub, Gitea and Forgejo do.
func (s *Server) verify(w nethttp.ResponseWriter, r *nethttp.Request) error {
	forbidden := &httpError{
		status: nethttp.StatusForbidden, code: "forbidden",
		message: "the webhook must be signed with the secret: X-Hub-Signature-256 or X-Gitlab-Token is missing or wrong",
	}
	secret, err := s.WebhookSecret()
	if err != nil || secret == "" {
		s.Logger.Error("the webhook's secret cannot be had: refusing the webhook", "error", err)
		return &httpError{
			status: nethttp.StatusServiceUnavailable, code: "no_secret", retryAfter: 30,
			message: "the daemon is told to check webhooks and cannot read its secret",
		}
	}
	if token := r.Header.Get("X-Gitlab-Token"); token != "" {
		// Digests, so that the comparison's time does not tell the length either.
		given, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(secret))
		if subtle.ConstantTimeCompare(given[:], want[:]) != 1 {
			return forbidden
		}
		return nil
	}
	signature, found := strings.CutPrefix(r.Header.Get("X-Hub-Signature-256"), "sha256=")
	given, err := hex.DecodeString(signature)
	if !found || err != nil {
		return forbidden
	}
	mac := hmac.New(sha256.New, []byte(secret))
	if _, err := io.Copy(mac, nethttp.MaxBytesReader(w, r.Body, s.MaxWebhook)); err != nil {
		var large *nethttp.MaxBytesError
		if errors.As(err, &large) {
			return &httpError{
				status: nethttp.StatusRequestEntityTooLarge, code: "too_large",
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

// triggers makes one of many: while one is under way, any number of others
// become one that follows it.
type triggers struct {
	inFlight
	mu sync.Mutex
	// running: a goroutine is at it; again: it has to go once more.
	running, again bool
}

func (s *Server) trigger() {
	t := &s.triggers
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running {
		t.again = true
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
		if !t.again {
			t.running = false
			t.mu.Unlock()
			return
		}
		t.again = false
		t.mu.Unlock()
	}
}

// triggerOnce does not try again: the reconciler looks at git by itself too.
func (s *Server) triggerOnce() {
	ctx, cancel := context.WithTimeout(context.Background(), s.TriggerTimeout)
	defer cancel()
	outcome := "ok"
	if err := s.view.Trigger(ctx); err != nil {
		outcome = "failed"
		s.Logger.Warn("a trigger did not reach the leader: it looks at git at its next interval", "error", err)
	}
	s.Metrics.triggers.WithLabelValues(outcome).Inc()
}
