package envoy

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// TestAgainstEnvoysOwnFaultFilter compares our filter with Envoy's built-in one.
// One Envoy has the same faults twice: on one listener by envoy.filters.http.fault,
// each on its own route, on the other by our filter, each as a policy that a daemon
// serves from git. Both get the same requests. Everything observed by the client,
// by the upstream and in the access log must be equal, except for what
// oracleDifferences lists.
func TestAgainstEnvoysOwnFaultFilter(t *testing.T) {
	w := oracleStart(t)
	before := w.counters(t)
	t.Run("cases", func(t *testing.T) {
		for _, c := range oracleCases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				w.compare(t, &c)
			})
		}
	})
	t.Run("list of differences", func(t *testing.T) { w.checkList(t) })
	t.Run("counters", func(t *testing.T) { w.checkCounters(t, before, w.counters(t)) })
	t.Run("disconnects", func(t *testing.T) {
		for _, c := range oracleDisconnects {
			t.Run(c.name, func(t *testing.T) { w.compare(t, &c) })
		}
	})
	t.Run("timing", func(t *testing.T) { w.checkTiming(t) })
	t.Run("side by side", func(t *testing.T) { w.checkConcurrent(t) })
	t.Run("rates", func(t *testing.T) { w.checkRates(t) })
	t.Run("draws", func(t *testing.T) { w.checkDraws(t) })
	t.Run("nothing left", func(t *testing.T) { w.checkNothingLeft(t) })
}

// oracleWorld is the Envoy with both filters, and its upstream.
type oracleWorld struct {
	envoy    *envoytest.Envoy
	upstream *oracleUpstream

	mu sync.Mutex
	// occurred has the listed differences that have been seen, by their index in the list.
	occurred map[int]bool
}

// oracleSides are the names of the listeners.
var oracleSides = [2]string{"native", "ours"}

// oracleEarly is how much too early a delay may end, by side. Envoy's timers count
// from when its event loop last read the clock, ours from the request.
var oracleEarly = [2]time.Duration{10 * time.Millisecond, 0}

// oracleStart starts Envoy with all cases on both listeners, and waits until
// our filter has its policies.
func oracleStart(t *testing.T) *oracleWorld {
	t.Helper()
	upstream := oracleRunUpstream(t)
	cases := slices.Concat(oracleCases, oracleDisconnects, oracleMeasured, []oracleCase{{name: "ready", fault: oracleAbort(418)}})
	repo := gittest.New(t)
	files := make(map[string]string, len(cases))
	var plain, faulty []envoytest.Route
	for _, c := range cases {
		prefix := "/" + c.name + "/"
		if _, twice := files["policies/"+c.name+".json"]; twice {
			t.Fatalf("two cases have the name %s", c.name)
		}
		files["policies/"+c.name+".json"] = string(c.fault.policy(c.name, prefix).Canonical())
		route := envoytest.Route{Prefix: prefix, Cluster: c.cluster, Timeout: c.timeout, Status: c.direct}
		if c.cluster == "" && c.request.http2 {
			route.Cluster = "http2"
		}
		plain = append(plain, route)
		route.PerFilter = map[string]map[string]any{envoytest.NativeFaultName: c.fault.native()}
		faulty = append(faulty, route)
	}
	repo.Commit("The same faults as Envoy's own filter has", files)
	repo.Push()
	daemon := hfidtest.Run(t, repo.Bare())
	rest := envoytest.Route{}
	w := &oracleWorld{upstream: upstream, occurred: make(map[int]bool)}
	w.envoy = envoytest.Run(t, envoytest.Config{
		Node: envoytest.Workload("frontend", "demo", "frontend-1"),
		Clusters: []envoytest.Cluster{
			{Name: "upstream", Address: upstream.address},
			{Name: "http2", Address: upstream.address, HTTP2: true},
			// Nothing listens on the discard port.
			{Name: "down", Address: "127.0.0.1:9"},
			{Name: "hfi", Address: strings.TrimPrefix(daemon.URL(), "http://")},
		},
		Listeners: []envoytest.Listener{
			{
				Name: "native", AccessLog: oracleLogFormat(), Routes: append(faulty, rest),
				Filters: []envoytest.Filter{envoytest.NativeFault{}.Filter()},
			},
			{
				Name: "ours", AccessLog: oracleLogFormat(), Routes: append(plain, rest),
				Filters: []envoytest.Filter{envoytest.Wasm{
					File: hfidtest.Module(t), Configuration: map[string]any{"control_plane_cluster": "hfi"},
				}.Filter()},
			},
		},
	})
	// There is one worker, so one VM gets requests: one fault shows that it has all policies.
	c := client(t, false)
	testtool.Eventually(t, "the filter has its policies", func() bool { return get(t, c, w.envoy.ListenerURL("ours")+"/ready/").Status == 418 })
	return w
}

// run runs a case on one side.
func (w *oracleWorld) run(c *oracleCase, name string) (*oracleSide, error) {
	s := &oracleSide{world: w, c: c, name: name, facts: make(map[string]string)}
	script, limit := (*oracleSide).ask, envoytest.WaitLimit
	if c.script != nil {
		script = c.script
	}
	if c.limit != 0 {
		limit = c.limit
	}
	if err := script(s); err != nil {
		return nil, err
	}
	return s, s.collect(limit)
}

// compare runs a case on both sides at the same time and compares what was observed.
func (w *oracleWorld) compare(t *testing.T, c *oracleCase) {
	var sides [2]*oracleSide
	var errs [2]error
	var group sync.WaitGroup
	for i, name := range oracleSides {
		group.Go(func() { sides[i], errs[i] = w.run(c, name) })
	}
	group.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("%s: %v", oracleSides[i], err)
		}
	}
	if t.Failed() {
		return
	}
	native, ours := sides[0].facts, sides[1].facts
	for i, s := range sides {
		for _, elapsed := range s.elapsed {
			if c.acts(s.name) && elapsed+oracleEarly[i] < c.fault.delay {
				t.Errorf("%s: a response after %s, and the delay is %s", s.name, elapsed, c.fault.delay)
			}
		}
	}
	w.checkActed(t, c, native, ours)
	if c.only != "" {
		return
	}
	wanted := w.wanted(c, sides[1].requests)
	all := maps.Clone(native)
	maps.Copy(all, ours)
	for fact := range wanted {
		all[fact] = ""
	}
	for _, fact := range slices.Sorted(maps.Keys(all)) {
		if _, varies := c.races[fact]; varies {
			continue
		}
		n, o := native[fact], ours[fact]
		listed, ok := wanted[fact]
		switch {
		case ok && (n != listed.native || o != listed.ours):
			t.Errorf("%s: %q by the native filter and %q by ours; by the list of differences (%s) it would be %q and %q",
				fact, n, o, listed.reason, listed.native, listed.ours)
		case ok:
			w.mu.Lock()
			w.occurred[listed.place] = true
			w.mu.Unlock()
		case n != o:
			t.Errorf("%s: %q by the native filter and %q by ours", fact, n, o)
		}
	}
}

// checkActed checks in the access log what each filter says that it did, because
// both could do the same wrong thing.
func (w *oracleWorld) checkActed(t *testing.T, c *oracleCase, native, ours map[string]string) {
	t.Helper()
	for _, name := range oracleSides {
		acts := c.acts(name)
		delay, abort := acts && c.fault.delay > 0, acts && c.fault.aborts()
		var gotDelay, gotAbort bool
		if name == "native" {
			gotDelay, gotAbort = native["log 0 flag DI"] == "set", native["log 0 flag FI"] == "set"
		} else {
			mark := ";" + ours["log 0 mark"] + ";"
			gotDelay, gotAbort = strings.Contains(mark, ";delay="+c.name+";"), strings.Contains(mark, ";abort="+c.name+";")
		}
		if gotDelay != delay || gotAbort != abort {
			t.Errorf("%s: by the access log it delayed: %t, aborted: %t; want: %t, %t", name, gotDelay, gotAbort, delay, abort)
		}
	}
}
