package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
)

func newPeerClient() *http.Client {
	return &http.Client{
		// No proxy: filters do not use one to reach a replica either.
		Transport: &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second, DialContext: NewDialer().DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it redirects to another address")
		},
	}
}

// peerAnswer is the result of asking a replica.
type peerAnswer struct {
	api.Replica
	// report is nil for this replica itself, and if Error is set.
	report *ReplicaReport
	// at is when the answer came.
	at time.Time
}

// round is the key of a request to all peers.
const round = "peers"

// askPeers asks all peers at once, within PeerTimeout. Callers that come while
// a round is under way get its answers.
func (f *Fleet) askPeers(ctx context.Context, replicas []api.Replica) ([]peerAnswer, error) {
	if !slices.ContainsFunc(replicas, func(r api.Replica) bool { return r.ID != f.ID }) {
		answers := make([]peerAnswer, 0, 1)
		for _, self := range replicas {
			answers = append(answers, peerAnswer{Replica: self})
		}
		return answers, nil
	}
	result := f.rounds.DoChan(round, func() (any, error) {
		// Not the context of a caller: others share the answers.
		limit, cancel := context.WithTimeout(f.ctx, f.PeerTimeout)
		defer cancel()
		answers := f.askAll(limit, replicas)
		if f.ctx.Err() != nil {
			return nil, ErrClosed
		}
		return answers, nil
	})
	select {
	case answers := <-result:
		if answers.Err != nil {
			return nil, answers.Err
		}
		return answers.Val.([]peerAnswer), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("asking the other replicas for their filters: %w", ctx.Err())
	}
}

// waitForRound waits until no round is under way, by joining it.
func (f *Fleet) waitForRound() {
	_, _, _ = f.rounds.Do(round, func() (any, error) { return nil, ErrClosed })
}

func (f *Fleet) askAll(ctx context.Context, replicas []api.Replica) []peerAnswer {
	answers := make([]peerAnswer, len(replicas))
	var limit answersLimit
	limit.bytes.Store(maxAnswers * f.MaxPeerAnswer)
	limit.entries.Store(maxAnswers * int64(f.MaxVMs+maxUnconfirmed))
	var requests sync.WaitGroup
	for i, replica := range replicas {
		answers[i] = peerAnswer{Replica: replica}
		if replica.ID == f.ID || replica.Error != "" {
			continue
		}
		requests.Go(func() {
			report, err := f.askPeer(ctx, replica, &limit)
			if err != nil {
				answers[i].Error = err.Error()
				return
			}
			answers[i].report, answers[i].at = report, time.Now()
		})
	}
	requests.Wait()
	return answers
}

// askPeer asks one replica for its report.
func (f *Fleet) askPeer(ctx context.Context, replica api.Replica, limit *answersLimit) (*ReplicaReport, error) {
	if replica.URL == "" {
		return nil, errors.New("its address is not known: start it with --advertise")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(replica.URL, "/")+api.RouteFilters+"?local=true", nil)
	if err != nil {
		return nil, fmt.Errorf("its --advertise is not a URL: %w", err)
	}
	response, err := f.client.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("it did not answer within %s", f.PeerTimeout)
		}
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			// Without the method and the URL.
			err = wrapped.Err
		}
		return nil, fmt.Errorf("it does not answer: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it responds %s", response.Status)
	}
	body := &limitedBody{from: response.Body, own: f.MaxPeerAnswer, shared: &limit.bytes}
	report, err := readReport(body, &limit.entries)
	switch {
	case body.own < 0:
		return nil, fmt.Errorf("its answer has more than %d bytes", f.MaxPeerAnswer)
	case body.exceeded || errors.Is(err, errTooManyVMs):
		return nil, errors.New("its answer is too large, together with those of the other replicas")
	case ctx.Err() != nil:
		return nil, fmt.Errorf("it did not answer within %s", f.PeerTimeout)
	case err != nil:
		return nil, fmt.Errorf("its answer cannot be read: %w", err)
	}
	if report.Replica != replica.ID {
		return nil, fmt.Errorf("replica %.60q responds at its address: check its --advertise", report.Replica)
	}
	return report, nil
}

func sortReplicas(list []api.Replica) {
	slices.SortFunc(list, func(a, b api.Replica) int { return cmp.Compare(a.ID, b.ID) })
}
