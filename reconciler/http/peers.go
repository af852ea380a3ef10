package http

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	nethttp "net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// peers asks the other replicas which filters wait on them.
type peers struct {
	client *nethttp.Client
	mu     sync.Mutex
	// round is the one under way, or nil: who asks meanwhile shares it.
	round *round
	work  inFlight
}

func newPeers() peers {
	return peers{client: &nethttp.Client{
		// No proxy: peers are asked directly, as filters ask them.
		Transport: &nethttp.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second},
		CheckRedirect: func(*nethttp.Request, []*nethttp.Request) error {
			return errors.New("it redirects")
		},
	}}
}

func (p *peers) close() {
	p.work.closeAndWait()
	p.client.CloseIdleConnections()
}

// round is one question to all peers.
type round struct {
	// done is closed when answers is set.
	done    chan struct{}
	answers []peerAnswer
}

// peerAnswer is what came of asking a replica.
type peerAnswer struct {
	api.Replica
	// seen is nil for this replica itself, and where there is an error.
	seen *seenHere
	// at is when the answer came: no age in it has grown by less since.
	at time.Time
}

// askPeers asks all of them at once, within PeerTimeout. However many clients
// want to know, one question at a time is under way.
func (s *Server) askPeers(ctx context.Context, replicas []api.Replica) ([]peerAnswer, error) {
	if !slices.ContainsFunc(replicas, func(r api.Replica) bool { return r.ID != s.ID }) {
		answers := make([]peerAnswer, 0, 1)
		for _, myself := range replicas {
			answers = append(answers, peerAnswer{Replica: myself})
		}
		return answers, nil
	}
	p := &s.peers
	p.mu.Lock()
	current := p.round
	if current == nil {
		if !p.work.enter() {
			p.mu.Unlock()
			return nil, &httpError{status: nethttp.StatusServiceUnavailable, code: "stopping", message: "this daemon is shutting down", retryAfter: 1}
		}
		current = &round{done: make(chan struct{})}
		p.round = current
		go func() {
			defer p.work.leave()
			// Nobody's own context: others wait for it too.
			limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.PeerTimeout)
			defer cancel()
			current.answers = s.askAll(limit, replicas)
			p.mu.Lock()
			p.round = nil
			p.mu.Unlock()
			close(current.done)
		}()
	}
	p.mu.Unlock()
	select {
	case <-current.done:
		return current.answers, nil
	case <-ctx.Done():
		return nil, errGone
	}
}

func (s *Server) askAll(ctx context.Context, replicas []api.Replica) []peerAnswer {
	answers := make([]peerAnswer, len(replicas))
	var asking sync.WaitGroup
	for i, replica := range replicas {
		answers[i] = peerAnswer{Replica: replica}
		if replica.ID == s.ID || replica.Error != "" {
			continue
		}
		asking.Go(func() {
			seen, err := s.askPeer(ctx, replica)
			if err != nil {
				answers[i].Error = err.Error()
				return
			}
			answers[i].seen, answers[i].at = seen, time.Now()
		})
	}
	asking.Wait()
	return answers
}

// askPeer asks one replica what it has seen.
func (s *Server) askPeer(ctx context.Context, replica api.Replica) (*seenHere, error) {
	if replica.URL == "" {
		return nil, errors.New("it does not say where it can be reached: start it with --advertise")
	}
	request, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodGet, strings.TrimSuffix(replica.URL, "/")+"/v1/filters?local=true", nil)
	if err != nil {
		return nil, fmt.Errorf("its --advertise is no address: %w", err)
	}
	response, err := s.peers.client.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("it did not answer within %s", s.PeerTimeout)
		}
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			// The method and the URL are known.
			err = wrapped.Err
		}
		return nil, fmt.Errorf("it does not answer: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != nethttp.StatusOK {
		return nil, fmt.Errorf("it answers %s", response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, s.MaxPeerAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("its answer breaks off: %w", err)
	}
	if int64(len(body)) > s.MaxPeerAnswer {
		return nil, fmt.Errorf("its answer has more than %d bytes", s.MaxPeerAnswer)
	}
	var seen seenHere
	if err := json.Unmarshal(body, &seen); err != nil {
		return nil, fmt.Errorf("its answer cannot be read: %w", err)
	}
	if seen.Replica != replica.ID {
		return nil, fmt.Errorf("replica %.60q answers in its place: its --advertise leads elsewhere", seen.Replica)
	}
	return &seen, nil
}

func sortReplicas(list []api.Replica) {
	slices.SortFunc(list, func(a, b api.Replica) int { return cmp.Compare(a.ID, b.ID) })
}
