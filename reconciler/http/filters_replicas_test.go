package http

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler/fleet"
)

// pair is two daemons that are peers.
func pair(t *testing.T, tune func(*Server)) (a, b *daemon) {
	var mu sync.Mutex
	var list []api.Replica
	replica := func(id string) *daemon {
		d := start(t, func(s *Server) {
			s.fleet.ID = id
			s.fleet.Replicas = func() fleet.Replicas {
				mu.Lock()
				defer mu.Unlock()
				return fleet.Replicas{List: list}
			}
			if tune != nil {
				tune(s)
			}
		})
		d.serve(stateOf(1, exampleSet()))
		return d
	}
	a, b = replica("a"), replica("b")
	mu.Lock()
	defer mu.Unlock()
	list = []api.Replica{{ID: "a", URL: a.url}, {ID: "b", URL: b.url + "/"}}
	return a, b
}

// A VM's requests go to all replicas in turn. Each replica reports the same
// filters, and none that waits on another replica is silent.
func TestFiltersOfAllReplicas(t *testing.T) {
	// Each wait is longer than the grace period, which is long enough for a busy machine.
	t.Parallel()
	a, b := pair(t, func(s *Server) { s.fleet.Grace = 3 * time.Second })
	runVM(t, "frontend-both", "1", "4s", a, b)
	runVM(t, "frontend-both", "2", "4s", b, a)
	runVM(t, "frontend-a", "1", "20s", a)
	runVM(t, "frontend-b", "1", "20s", b)
	a.awaitFilters(3, 0, 0)
	testtool.Throughout(t, 9*time.Second, "all is well for two waits", func() error {
		for _, d := range []*daemon{a, b} {
			status := d.filterStatus()
			if status.Current != 3 || status.Connected != 3 || !status.Complete || status.Items[2].VMs.Total > 2 {
				return fmt.Errorf("replica %s reports %+v", d.fleet.ID, status)
			}
		}
		return nil
	})
	// The local report has only the filters of that replica.
	local := a.ask("GET /v1/filters?local=true").expect(t, 200)
	if strings.Contains(local.body, "frontend-b\"") || !strings.Contains(local.body, `"replica":"a"`) {
		t.Errorf("the local report of a is %s", local.body)
	}
}

// A peer that gives no report is named, and no VM that may wait on it is silent.
func TestFiltersWithoutAPeersReport(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer hangs.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"replica":"z"}`) }))
	defer other.Close()
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `<html>`) }))
	defer html.Close()
	moved := httptest.NewServer(http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound))
	defer moved.Close()
	huge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"replica":"b","x":"%s"}`, strings.Repeat("x", 2000))
	}))
	defer huge.Close()
	full := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"replica":"b","full":true}`) }))
	defer full.Close()

	for name, test := range map[string]struct {
		url, error, incompleteReason, message string
	}{
		"stopped":            {url: gone.URL, error: "refused"},
		"hangs":              {url: hangs.URL, error: "within 2s"},
		"another":            {url: other.URL, error: `replica "z" responds at its address`},
		"no daemon":          {url: html.URL, error: "cannot be read"},
		"moved":              {url: moved.URL, error: "redirects"},
		"too much":           {url: huge.URL, error: "more than 1000 bytes"},
		"an unknown address": {url: "", error: "--advertise"},
		"no address":         {url: "http://%zz", error: "--advertise"},
		"full":               {url: full.URL, message: "more VMs asked than"},
		"etcd unreachable":   {url: "", error: "--advertise", incompleteReason: "etcd is unreachable", message: "etcd is unreachable"},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, func(s *Server) {
				s.fleet.ID, s.fleet.PeerTimeout, s.fleet.MaxPeerAnswer = "a", 2*time.Second, 1000
				s.fleet.Grace = 50 * time.Millisecond
				s.fleet.Replicas = func() fleet.Replicas {
					return fleet.Replicas{List: []api.Replica{{ID: "a"}, {ID: "b", URL: test.url}}, IncompleteReason: test.incompleteReason}
				}
			})
			d.serve(stateOf(1, exampleSet()))
			d.applies("p", "1")
			time.Sleep(60 * time.Millisecond) // for longer than the VM's grace
			status := d.filterStatus()
			if status.Complete || len(status.Replicas) != 2 || status.Replicas[0].Error != "" || !strings.Contains(status.Replicas[1].Error, test.error) ||
				(test.error == "") != (status.Replicas[1].Error == "") || !strings.Contains(status.Message, test.message) {
				t.Errorf("got %+v", status)
			}
			if status.Silent != 0 || status.Behind != 1 || !strings.Contains(status.Items[0].Message, "may wait elsewhere") {
				t.Errorf("without a report of b, the VM is %+v", status.Items)
			}
		})
	}
}

// For SettleTime after the loss of a replica no VM is silent: it may still be
// connected to the lost replica. A replica that saw the loss reports it to the
// others, which may have started later.
func TestFiltersAfterTheLossOfAReplica(t *testing.T) {
	var lost atomic.Pointer[time.Time]
	lost.Store(new(time.Time))
	a, b := pair(t, func(s *Server) { s.fleet.Grace, s.fleet.SettleTime = 50*time.Millisecond, 5*time.Second })
	known := a.fleet.Replicas
	a.fleet.Replicas = func() fleet.Replicas {
		all := known()
		all.LostAt = *lost.Load()
		return all
	}
	a.applies("p", "1")
	a.awaitFilters(0, 0, 1)
	b.awaitFilters(0, 0, 1)
	now := time.Now()
	lost.Store(&now)
	for _, d := range []*daemon{a, b} {
		if status := d.filterStatus(); status.Silent != 0 || status.Behind != 1 || !status.Complete || !strings.Contains(status.Items[0].Message, "a replica left 0 s ago") {
			t.Errorf("just after the loss: %+v", status)
		}
	}
	a.awaitFilters(0, 0, 1)
	b.awaitFilters(0, 0, 1)
}

// Concurrent status requests share one request to each peer, and a client that
// closes its request does not affect the others.
func TestStatusRequestsShareOneRequestToAPeer(t *testing.T) {
	var mu sync.Mutex
	now, most, total := 0, 0, 0
	peer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		now, total = now+1, total+1
		most = max(most, now)
		mu.Unlock()
		time.Sleep(50 * time.Millisecond) // it takes a while, and others could come in that time
		mu.Lock()
		now--
		mu.Unlock()
		fmt.Fprint(w, `{"replica":"b","filters":[]}`)
	}))
	defer peer.Close()
	d := start(t, func(s *Server) {
		s.fleet.ID, s.fleet.PeerTimeout = "a", waitLimit
		s.fleet.Replicas = func() fleet.Replicas {
			return fleet.Replicas{List: []api.Replica{{ID: "b", URL: peer.URL}}}
		}
	})
	var work sync.WaitGroup
	for i := range 60 {
		work.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
			if i%3 == 0 {
				ctx, cancel = context.WithTimeout(context.Background(), 10*time.Millisecond)
			}
			defer cancel()
			got, err := d.tryAsk(ctx, "GET /v1/status")
			if i%3 != 0 && (err != nil || !strings.Contains(got.body, `"complete":true`)) {
				t.Errorf("%v: %+v", err, got)
			}
		})
	}
	work.Wait()
	mu.Lock()
	defer mu.Unlock()
	if most != 1 || total > 30 {
		t.Errorf("the peer got %d requests, %d at the same time", total, most)
	}
}
