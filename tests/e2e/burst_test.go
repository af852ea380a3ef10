package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
)

// metric returns the sum of a metric over all labels.
func metric(t *testing.T, d *hfidtest.Daemon, name string) (sum float64) {
	t.Helper()
	found := false
	for lines := bufio.NewScanner(bytes.NewReader(d.Get("/metrics").Body)); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), " ")
		if labelled, _, _ := strings.Cut(series, "{"); labelled != name {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("the metric %q: %v", lines.Text(), err)
		}
		sum, found = sum+number, true
	}
	if !found {
		t.Fatalf("there is no metric %s", name)
	}
	return sum
}

// Two hundred pushes in a short time, each of another policy, cause fewer runs, and
// just one if they are over before the daemon fetches: a run applies the branch's
// current head, and skips the commits before it.
func TestABurstOfPushesIsOneRun(t *testing.T) {
	t.Parallel()
	const pushes = 200
	repo := gittest.New(t)
	first := commit(repo, "First", files(500, "a"))
	hashes := []string{first}
	for i := range pushes {
		hashes = append(hashes, repo.Commit(fmt.Sprint("Push ", i), files(i+1, "a")))
	}
	repo.Git("push", "-q", "origin", "HEAD:refs/heads/elsewhere")
	// Polled hourly: a push is noticed by file system notification only.
	d := hfidtest.Run(t, repo.Bare(), "--interval", "1h")
	d.WaitSynced(first)
	burst := func(hashes []string) {
		t.Helper()
		var moves strings.Builder
		for _, hash := range hashes {
			fmt.Fprintf(&moves, "start\nupdate refs/heads/main %s\ncommit\n", hash)
		}
		gittest.Input(t, repo.Bare(), moves.String(), "update-ref", "--stdin")
	}
	// settled returns the number of runs, once a commit is applied and no run follows.
	settled := func(hash string) float64 {
		t.Helper()
		d.WaitSynced(hash)
		time.Sleep(time.Second) // no run may follow
		seeStatus(t, d, "the last one", synced(hash, 1))
		return metric(t, d, "hfi_syncs_total")
	}
	before := settled(first)
	burst(hashes[1:])
	live := settled(hashes[pushes]) - before
	// The number depends on which is faster, git or a run. It is never one for each push.
	if live < 1 || live >= pushes {
		t.Errorf("%d pushes caused %v runs", pushes, live)
	}
	if history := len(d.Status().History); history != 1+int(live) {
		t.Errorf("after %v runs the history has %d entries", live, history)
	}

	before += live
	d.Freeze()
	slices.Reverse(hashes)
	burst(hashes[1:])
	d.Thaw()
	if held := settled(first) - before; held != 1 {
		t.Errorf("%d pushes that were over before the daemon fetched caused %v runs, want one", pushes, held)
	}
	t.Logf("%d pushes caused %v runs", pushes, live)
}

// Two hundred simultaneous webhooks cause a few fetches, and each gets a response
// immediately.
func TestABurstOfWebhooksIsAFewFetches(t *testing.T) {
	t.Parallel()
	const webhooks, most = 200, 10
	repo := gittest.New(t)
	first := commit(repo, "First", files(500, "a"))
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	d := hfidtest.Run(t, server.URL, "--interval", "1h")
	d.WaitSynced(first)
	triggers, runs, requests := metric(t, d, "hfi_triggers_total"), metric(t, d, "hfi_syncs_total"), server.Requests()

	second := commit(repo, "Second", files(500, "a", "b"))
	var senders sync.WaitGroup
	answers := make(chan string, webhooks)
	for range 20 {
		senders.Go(func() {
			for range webhooks / 20 {
				answer, err := d.Ask(t.Context(), http.MethodPost, "/v1/webhook", nil)
				if err != nil {
					answers <- err.Error()
				} else if answer.Status != http.StatusAccepted {
					answers <- fmt.Sprint(answer.Status, ": ", string(answer.Body))
				}
			}
		})
	}
	senders.Wait()
	close(answers)
	for answer := range answers {
		t.Errorf("a webhook gets %s", answer)
	}
	seeStatus(t, d, "the push", synced(second, 2))
	time.Sleep(time.Second) // no fetch may follow
	triggers, runs, requests = metric(t, d, "hfi_triggers_total")-triggers, metric(t, d, "hfi_syncs_total")-runs, server.Requests()-requests
	t.Logf("%d webhooks caused %v triggers, %v runs and %d requests to git", webhooks, triggers, runs, requests)
	if triggers < 1 || triggers > most {
		t.Errorf("%d webhooks caused %v triggers, want between 1 and %d", webhooks, triggers, most)
	}
	if runs != 1 {
		t.Errorf("one push was applied in %v runs", runs)
	}
	// Listing the refs takes one or two requests, fetching a few more.
	if requests > 3*most {
		t.Errorf("%d webhooks caused %d requests to git", webhooks, requests)
	}
}
