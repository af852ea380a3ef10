package http

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/reconciler/served"
	"github.com/boifi/hfi/schema"
)

const frontendWaits = "GET /v1/policies?service=frontend&namespace=demo&wait=60s"

func (d *daemon) wakeups() float64 { return testutil.ToFloat64(d.Metrics.wakeups) }

// empty waits until no client waits, and the hub has no topics.
func (d *daemon) empty() {
	d.t.Helper()
	eventually(d.t, "no client waits and the hub has no topics", func() bool {
		d.hub.mu.Lock()
		defer d.hub.mu.Unlock()
		return d.Metrics.waiting.Load() == 0 && len(d.hub.topics) == 0 && len(d.hub.byKey) == 0
	})
}

// A waiting client is woken only by a change of its own policies.
func TestWaitingIsWokenByItsOwnChange(t *testing.T) {
	for name, test := range map[string]struct {
		puts    []*schema.Entry
		deletes []string
		woken   bool
	}{
		"its policy changes":                                    {puts: []*schema.Entry{entry("front-demo", "frontend", "demo", 9)}, woken: true},
		"its policy is deleted":                                 {deletes: []string{"front-demo"}, woken: true},
		"a wildcard policy is added":                            {puts: []*schema.Entry{entry("new", "", "", 9)}, woken: true},
		"a policy of its namespace is added":                    {puts: []*schema.Entry{entry("new", "", "demo", 9)}, woken: true},
		"its policy gets another selector":                      {puts: []*schema.Entry{entry("front-demo", "cart", "demo", 1)}, woken: true},
		"another policy gets its selector":                      {puts: []*schema.Entry{entry("catalog", "frontend", "demo", 5)}, woken: true},
		"another workload's policy changes":                     {puts: []*schema.Entry{entry("catalog", "productcatalog", "demo", 9)}},
		"a policy of its service in another namespace is added": {puts: []*schema.Entry{entry("new", "frontend", "shop", 9)}},
		"a policy of another namespace is added":                {puts: []*schema.Entry{entry("new", "", "shop", 9)}},
		"its policy moves to another file":                      {puts: []*schema.Entry{exampleSet().Get("front-demo").WithOrigin(schema.Origin{File: "x"})}},
		"only the commit changes":                               {},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, nil)
			d.serve(stateOf(1, exampleSet()))
			tag := d.ask(frontendWaits).expect(t, 200).header.Get("ETag")
			got := d.begin(frontendWaits, "If-None-Match", tag)
			d.waiting(1)
			next := exampleSet().With(test.puts, test.deletes)
			d.serve(stateOf(2, next))
			if !test.woken {
				d.noAnswer(got)
				// The next change of its own policies wakes it.
				d.serve(stateOf(3, next.With([]*schema.Entry{entry("all", "", "", 77)}, nil)))
			}
			a := d.await(got).expect(t, 200)
			if a.header.Get("ETag") == tag || d.wakeups() != 1 {
				t.Errorf("answered %s after %v wake-ups", a.header.Get("ETag"), d.wakeups())
			}
			d.empty()
		})
	}
}

// A client that waits for all policies is woken by a change of any policy, but
// not by a change of an origin.
func TestWaitingForAll(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(1, exampleSet()))
	tag := d.ask("GET /v1/policies").header.Get("ETag")
	got := d.begin("GET /v1/policies?wait=60s", "If-None-Match", tag)
	d.waiting(1)
	d.serve(stateOf(2, exampleSet().With([]*schema.Entry{exampleSet().Get("all").WithOrigin(schema.Origin{})}, nil)))
	d.noAnswer(got)
	d.serve(stateOf(3, exampleSet().With(nil, []string{"catalog"})))
	if a := d.await(got).expect(t, 200); len(a.names(t)) != 4 || d.wakeups() != 1 {
		t.Errorf("got %v after %v wake-ups", a.names(t), d.wakeups())
	}
}

// A client that was woken and unsubscribes late does not remove the topic of
// those that have subscribed since.
func TestLateUnsubscribe(t *testing.T) {
	for _, to := range []served.Subject{{All: true}, {Workload: selection.Workload{Service: "frontend", Namespace: "demo"}}} {
		h, policies := newHub(), served.New()
		policies.Observe(h.update)
		policies.Serve(stateOf(1, exampleSet()))
		_, early := h.subscribe(to)
		policies.Serve(stateOf(2, schema.NewSet()))
		_, late := h.subscribe(to)
		h.unsubscribe(early)
		policies.Serve(stateOf(3, exampleSet()))
		select {
		case <-late.changed:
		default:
			t.Errorf("the change does not wake the subscriber of %+v", to)
		}
		h.unsubscribe(late)
		if len(h.topics) != 0 || len(h.byKey) != 0 {
			t.Errorf("the hub has %d topics", len(h.topics))
		}
	}
}

func TestWaitingEnds(t *testing.T) {
	d := start(t, func(s *Server) { s.MaxWait = 300 * time.Millisecond })
	d.serve(stateOf(1, exampleSet()))
	tag := d.ask(frontendWaits).header.Get("ETag")
	// The wait is the client's or, if that is shorter, the server's.
	for _, wait := range []string{"20ms", "0.05s", "1", "60s", "2h"} {
		a := d.await(d.begin("GET /v1/policies?service=frontend&namespace=demo&wait="+wait, "If-None-Match", tag)).expect(t, 304)
		if a.header.Get("ETag") != tag {
			t.Errorf("the 304 has the ETag %s", a.header.Get("ETag"))
		}
	}
	// The connection is still usable.
	if a := d.ask("GET /health"); a.code != 200 {
		t.Error("the connection is not usable after a wait")
	}
	// A client without policies, or with others, does not wait.
	d.MaxWait = time.Hour
	d.ask("GET /v1/policies?wait=1h").expect(t, 200)
	d.ask("GET /v1/policies?wait=1h", "If-None-Match", `"v1:0"`).expect(t, 200)
	// "*" waits for a change of the current policies.
	got := d.begin(frontendWaits, "If-None-Match", "*")
	d.waiting(1)
	d.serve(stateOf(2, schema.NewSet()))
	d.await(got).expect(t, 200)
	// A client that closes its request is removed, and counted with status 499.
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error, 1)
	go func() {
		_, err := d.tryAsk(ctx, frontendWaits, "If-None-Match", "*")
		left <- err
	}()
	d.waiting(1)
	cancel()
	if <-left == nil {
		t.Error("the canceled request succeeded")
	}
	d.empty()
	eventually(t, "it is counted", func() bool {
		return testutil.ToFloat64(d.Metrics.requests.WithLabelValues("/v1/policies", "499")) == 1
	})
}

func TestWaitingIsBounded(t *testing.T) {
	d := start(t, func(s *Server) { s.MaxWaiting = 1 })
	d.serve(stateOf(1, exampleSet()))
	got := d.begin(frontendWaits, "If-None-Match", "*")
	d.waiting(1)
	d.ask(frontendWaits, "If-None-Match", "*").expectError(t, 503, "too_many_waiting")
	d.ask("GET /v1/policies").expect(t, 200)
	d.serve(stateOf(2, schema.NewSet()))
	d.await(got).expect(t, 200)
}

// A client that sends its revision never gets older policies from a replica
// that lags.
func TestRevisionOrdersAnswers(t *testing.T) {
	d := start(t, func(s *Server) { s.CatchUp = 100 * time.Millisecond })
	d.serve(stateOf(5, exampleSet()))
	ask := func(revision, query string, headers ...string) answer {
		return d.ask("GET /v1/policies"+query, append(headers, "X-Hfi-Revision", revision)...)
	}
	for _, seen := range []string{"1-one.5", "1-one.4", "0-old.99", "1-two.99"} {
		// The last one is another epoch with the same number: their order is unknown.
		ask(seen, "").expect(t, 200)
	}
	tag := d.ask("GET /v1/policies").header.Get("ETag")
	for _, ahead := range []string{"1-one.6", "2-two.1"} {
		for _, query := range []string{"", "?wait=50ms", "?service=frontend&wait=50ms"} {
			// A 304 would confirm older policies too.
			for _, headers := range [][]string{nil, {"If-None-Match", tag}} {
				a := ask(ahead, query, headers...).expectError(t, 503, "behind")
				if a.header.Get("Retry-After") == "" || a.header.Get("X-Hfi-Revision") != "1-one.5" {
					t.Errorf("the headers are %v", a.header)
				}
			}
		}
	}
	// It is answered once this replica has reached the revision.
	got := d.begin("GET /v1/policies?wait=60s", "X-Hfi-Revision", "1-one.7")
	d.waiting(1)
	d.serve(stateOf(6, exampleSet().With(nil, []string{"all"})))
	d.noAnswer(got)
	d.serve(stateOf(7, schema.NewSet()))
	if a := d.await(got).expect(t, 200); len(a.names(t)) != 0 || a.header.Get("X-Hfi-Revision") != "1-one.7" {
		t.Errorf("got %+v", a)
	}
	// If it has the policies of that revision, it continues to wait for a change.
	got = d.begin("GET /v1/policies?wait=60s", "X-Hfi-Revision", "1-one.8", "If-None-Match", `"`+string(schema.NewSet().Digest())+`"`)
	d.waiting(1)
	d.serve(stateOf(8, schema.NewSet()))
	d.noAnswer(got)
	d.serve(stateOf(9, exampleSet()))
	d.await(got).expect(t, 200)
	// A wiped etcd is a new epoch: its lower revisions are newer.
	got = d.begin("GET /v1/policies?wait=60s", "X-Hfi-Revision", "2-new.3")
	d.waiting(1)
	epoch := stateOf(3, schema.NewSet())
	epoch.Revision = revision(2, "new", 3)
	d.serve(epoch)
	d.await(got).expect(t, 200)
	// An older state is never served.
	d.serve(stateOf(99, exampleSet()))
	if a := d.ask("GET /v1/policies"); a.header.Get("X-Hfi-Revision") != "2-new.3" || !strings.Contains(d.log.String(), "older state") {
		t.Errorf("an older state is served: %+v", a.header)
	}
}

// Shutdown answers waiting clients as if their wait were over.
func TestShutdownAnswersWaiting(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(1, exampleSet()))
	var got []<-chan answer
	for range 20 {
		got = append(got, d.begin(frontendWaits, "If-None-Match", "*"))
	}
	lagging := d.begin("GET /v1/policies?wait=60s", "X-Hfi-Revision", "1-one.2")
	d.waiting(21)
	done := make(chan struct{})
	go func() { d.shutdown(); close(done) }()
	for _, waiting := range got {
		if a := d.await(waiting).expect(t, 304); a.header.Get("ETag") == "" || a.header.Get("Connection") != "close" {
			t.Errorf("answered %v", a.header)
		}
	}
	d.await(lagging).expectError(t, 503, "behind")
	select {
	case <-done:
	case <-time.After(waitLimit):
		t.Fatal("timed out waiting for Shutdown")
	}
	d.empty()
}

// Random changes while many clients wait: no client misses a change of its
// policies, and none is answered with what it has. Meant for -race.
func TestClientsMissNoChange(t *testing.T) {
	d := start(t, nil)
	services := []string{"a", "b", "c"}
	set := schema.NewSet()
	d.serve(stateOf(1, set))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	type known struct {
		sync.Mutex
		tag, revision string
	}
	clients := make([]*known, 30)
	workloads := make([]selection.Workload, len(clients))
	var group sync.WaitGroup
	for i := range clients {
		clients[i] = &known{}
		workloads[i] = selection.Workload{Service: services[i%3], Namespace: fmt.Sprint("n", i%2)}
		group.Go(func() {
			path := fmt.Sprintf("GET /v1/policies?service=%s&namespace=%s&wait=60s", workloads[i].Service, workloads[i].Namespace)
			var headers []string
			for ctx.Err() == nil {
				a, err := d.tryAsk(ctx, path, headers...)
				if ctx.Err() != nil {
					return
				}
				if err != nil || a.code != 200 {
					t.Errorf("client %d: %v %+v", i, err, a)
					return
				}
				tag := a.header.Get("ETag")
				clients[i].Lock()
				if tag == clients[i].tag {
					t.Errorf("client %d was answered with the policies that it has", i)
				}
				clients[i].tag, clients[i].revision = tag, a.header.Get("X-Hfi-Revision")
				headers = []string{"If-None-Match", tag, "X-Hfi-Revision", clients[i].revision}
				clients[i].Unlock()
			}
		})
	}
	random := rand.New(rand.NewPCG(3, 4))
	number := int64(1)
	for range 60 {
		// After a burst of changes all clients must have the last state.
		for range 1 + random.IntN(4) {
			name := fmt.Sprint("p", random.IntN(6))
			if random.IntN(4) == 0 {
				set = set.With(nil, []string{name})
			} else {
				set = set.With([]*schema.Entry{entry(name, append(services, "")[random.IntN(4)], []string{"n0", "n1", ""}[random.IntN(3)], int64(1+random.IntN(3)))}, nil)
			}
			number++
			d.serve(stateOf(number, set))
			if random.IntN(2) == 0 {
				time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond) // some changes meet a client that waits, some one that asks
			}
		}
		for i, client := range clients {
			var want []*schema.Entry
			for _, e := range set.Entries() {
				if selection.Matches(e.Policy.Spec.Selector, workloads[i]) {
					want = append(want, e)
				}
			}
			tag := `"` + string(schema.NewSet(want...).Digest()) + `"`
			eventually(t, fmt.Sprintf("client %d (%+v) has the selection of state %d", i, workloads[i], number), func() bool {
				client.Lock()
				defer client.Unlock()
				return client.tag == tag
			})
		}
	}
	cancel()
	group.Wait()
	d.empty()
}

// A change while a client is between its comparison and its wait is not
// missed, in many rounds.
func TestChangeBetweenComparisonAndWait(t *testing.T) {
	s, policies := newServer(&fakeView{})
	policies.Serve(stateOf(1, exampleSet()))
	q := query{subject: served.Subject{Workload: selection.Workload{Service: "frontend", Namespace: "demo"}}}
	for i := int64(2); i < 6000; i++ {
		q.has = tags{list: []string{tagOf(s.hub.current.Load(), q.subject)}}
		next := stateOf(i, exampleSet().With([]*schema.Entry{entry("all", "", "", i)}, nil))
		done := make(chan struct{})
		slow := i < 12
		if slow {
			// Both wait for the lock, the update first: the client must not
			// compare with a snapshot that it took before it got the lock.
			s.hub.mu.Lock()
			time.AfterFunc(40*time.Millisecond, s.hub.mu.Unlock)
		}
		go func() {
			defer close(done)
			policies.Serve(next)
		}()
		if slow {
			// Nothing tells that a goroutine waits for a lock. One that does not
			// yet makes the round another one, which must end as well.
			time.Sleep(20 * time.Millisecond)
		}
		limit, request := &limit{wait: waitLimit}, httptest.NewRequest("GET", "/v1/policies", nil)
		began := time.Now()
		snapshot, err := s.change(httptest.NewRecorder(), request, q, limit)
		if err != nil || snapshot.State != next || time.Since(began) >= waitLimit {
			t.Fatalf("round %d: the change was missed for %v: %v", i, time.Since(began), err)
		}
		limit.stop()
		<-done
	}
	if len(s.hub.topics) != 0 || len(s.hub.byKey) != 0 {
		t.Errorf("the hub has %d topics", len(s.hub.topics))
	}
}
