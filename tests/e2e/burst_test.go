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
	"syscall"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
)

// metric adds up the values of a metric, whatever its labels.
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

// Two hundred pushes in a moment, each of another policy, are fewer runs, and
// just one if they are over before the daemon looks: a run takes up where the
// branch is then, and what it passed over is never applied.
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
	// Hourly: a push is seen by the file system's word alone.
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
	// settled is how many runs there have been, once a commit is applied and no run follows.
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
	// How many depends on which is faster, git or a run; one for each push it never is.
	if live < 1 || live >= pushes {
		t.Errorf("%d pushes were %v runs", pushes, live)
	}
	if history := len(d.Status().History); history != 1+int(live) {
		t.Errorf("%v runs made a history of %d", live, history)
	}

	before += live
	d.Signal(syscall.SIGSTOP)
	slices.Reverse(hashes)
	burst(hashes[1:])
	d.Signal(syscall.SIGCONT)
	if held := settled(first) - before; held != 1 {
		t.Errorf("%d pushes that were over before the daemon looked were %v runs, want one", pushes, held)
	}
	t.Logf("%d pushes were %v runs", pushes, live)
}

// Two hundred webhooks at once have git looked at a few times, and each is
// answered at once.
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
		t.Errorf("a webhook is answered %s", answer)
	}
	seeStatus(t, d, "the push", synced(second, 2))
	time.Sleep(time.Second) // no look may follow
	triggers, runs, requests = metric(t, d, "hfi_triggers_total")-triggers, metric(t, d, "hfi_syncs_total")-runs, server.Requests()-requests
	t.Logf("%d webhooks were %v triggers, %v runs, %d requests to git", webhooks, triggers, runs, requests)
	if triggers < 1 || triggers > most {
		t.Errorf("%d webhooks were %v triggers, want between 1 and %d", webhooks, triggers, most)
	}
	if runs != 1 {
		t.Errorf("one push was applied in %v runs", runs)
	}
	// A look is one request or two, the fetch a few more.
	if requests > 3*most {
		t.Errorf("%d webhooks were %d requests to git", webhooks, requests)
	}
}
