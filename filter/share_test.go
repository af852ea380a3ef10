package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/group"
	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/internal/api"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/proxytest"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// crew emulates an Envoy whose threads each have a VM. The emulator has one VM, so
// the others are called directly; they share its shared data, queues and calls.
type crew struct {
	proxytest.HostEmulator
	types.DefaultVMContext
	types.DefaultPluginContext
	t       *testing.T
	at      time.Time
	seed    uint64
	threads []*thread
	// calls counts the calls of all threads.
	calls int
}

// thread is a worker thread.
type thread struct {
	vm *vm
	// armed is when the VM set its tick period.
	armed  time.Time
	period time.Duration
	// notes are the queues with notes for the VM.
	notes []uint32
	// gone reports that the VM has trapped or stopped.
	gone bool
	// call is the ID of its call in flight, with its headers, or -1.
	call    int
	headers map[string]string
}

func (c *crew) NewPluginContext(uint32) types.PluginContext { return c }

// OnQueueReady is what the host calls on the thread of the VM that has the queue.
func (c *crew) OnQueueReady(queue uint32) {
	for _, thread := range c.threads {
		for _, plugin := range thread.vm.plugins {
			if share := &plugin.poll.share; share.joined && share.queue == queue {
				thread.notes = append(thread.notes, queue)
			}
		}
	}
}

func newCrew(t *testing.T, threads int, config string) *crew {
	c := &crew{t: t, at: time.Unix(1_000_000, 0), seed: 7}
	options := proxytest.NewEmulatorOption().WithVMContext(c).WithPluginConfiguration([]byte(config)).
		WithProperty([]string{"xds", "node", "metadata", "WORKLOAD_NAME"}, []byte("frontend"))
	emulator, reset := proxytest.NewHostEmulator(options)
	t.Cleanup(reset)
	c.HostEmulator = emulator
	c.StartVM()
	c.StartPlugin()
	for range threads {
		c.join()
	}
	return c
}

// join starts a VM in another thread.
func (c *crew) join() *thread {
	random := func() uint64 {
		c.seed = c.seed*6364136223846793005 + 1442695040888963407
		return c.seed>>11 | c.seed<<53
	}
	thread := &thread{vm: newVM(random, func() time.Time { return c.at }), call: -1}
	thread.vm.startPlugin(proxytest.PluginContextID)
	c.threads = append(c.threads, thread)
	c.run(thread, func() {})
	return thread
}

// run runs a callback in a thread, and then those that it causes in others.
func (c *crew) run(in *thread, f func()) {
	c.t.Helper()
	f()
	in.armed, in.period = c.at, time.Duration(c.GetTickPeriod())*time.Millisecond
	if all := c.GetCalloutAttributesFromContext(proxytest.PluginContextID); len(all) > c.calls {
		if in.call >= 0 || len(all) > c.calls+1 {
			c.t.Fatal("a VM has two requests in flight")
		}
		c.calls++
		in.call, in.headers = int(all[len(all)-1].CalloutID), map[string]string{}
		for _, header := range all[len(all)-1].Headers {
			in.headers[header[0]] = header[1]
		}
	}
	for _, thread := range c.threads {
		for !thread.gone && len(thread.notes) > 0 {
			queue := thread.notes[0]
			thread.notes = thread.notes[1:]
			c.run(thread, func() { thread.vm.queueReady(queue) })
		}
	}
}

// pass advances the clock and sends the ticks that are due.
func (c *crew) pass(d time.Duration) {
	c.t.Helper()
	for end := c.at.Add(d); ; {
		var next *thread
		for _, thread := range c.threads {
			if !thread.gone && thread.period > 0 && (next == nil || thread.armed.Add(thread.period).Before(next.armed.Add(next.period))) {
				next = thread
			}
		}
		if next == nil || next.armed.Add(next.period).After(end) {
			c.at = end
			return
		}
		if due := next.armed.Add(next.period); due.After(c.at) {
			c.at = due
		}
		c.run(next, func() { next.vm.tick(proxytest.PluginContextID) })
	}
}

// asking returns the thread that leads. It has a request in flight.
func (c *crew) asking() *thread {
	c.t.Helper()
	var asking []*thread
	for _, thread := range c.threads {
		if !thread.gone && thread.call >= 0 && thread.vm.plugins[0].poll.share.leads {
			asking = append(asking, thread)
		}
	}
	if len(asking) != 1 {
		c.t.Fatalf("%d VMs lead, and have a request in flight", len(asking))
	}
	return asking[0]
}

// inFlight is the number of requests of all VMs.
func (c *crew) inFlight() (n int) {
	for _, thread := range c.threads {
		if thread.call >= 0 {
			n++
		}
	}
	return n
}

// answer answers a thread's request.
func (c *crew) answer(to *thread, status string, headers map[string]string, body string) {
	c.t.Helper()
	list := [][2]string{{":status", status}, {"content-type", program.MediaType}}
	for name, value := range headers {
		list = append(list, [2]string{name, value})
	}
	call := to.call
	to.call = -1
	c.run(to, func() { c.CallOnHttpCallResponse(uint32(call), list, nil, []byte(body)) })
	c.pass(time.Millisecond) // The next request is sent in a tick.
}

// update answers the only request with a policy that aborts with that status.
func (c *crew) update(status int) {
	c.t.Helper()
	body := compile(c.t, fmt.Sprintf(`{"policies":[{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"abort":{"status":%d}}}]}}]}`, status))
	c.answer(c.asking(), "200", map[string]string{"etag": tagOf(status), "x-hfi-commit": "c", "x-hfi-revision": fmt.Sprintf("r-%d", status)}, body)
}

func tagOf(status int) string { return fmt.Sprintf(`"v1:%d"`, status) }

// confirm answers the only request with 304, after as long as it may wait.
func (c *crew) confirm() {
	c.t.Helper()
	asking := c.asking()
	_, wait, _ := strings.Cut(asking.headers[":path"], "wait=")
	held, err := time.ParseDuration(wait)
	if err != nil {
		c.t.Fatal(err)
	}
	c.pass(held)
	c.answer(asking, "304", nil, "")
}

// settle confirms requests until they may wait long.
func (c *crew) settle() {
	c.t.Helper()
	for range 100 {
		if strings.HasSuffix(c.asking().headers[":path"], "wait=20s") {
			return
		}
		c.confirm()
	}
	c.t.Fatal("the requests stay short")
}

// inForce checks the policies in force in each VM that has not gone; 0 stands for none.
func (c *crew) inForce(status int) {
	c.t.Helper()
	for i, thread := range c.threads {
		if thread.gone {
			continue
		}
		got := 0
		if rules := thread.vm.plugins[0].program.Rules; len(rules) > 0 {
			got = rules[0].Abort.Status
		}
		if got != status {
			c.t.Errorf("VM %d has the policy %d in force, want %d", i, got, status)
		}
	}
}

// named checks which VMs the request in flight names beside its own, with which states.
func (c *crew) named(want map[*thread]string) {
	c.t.Helper()
	got := strings.Split(c.asking().headers[api.HeaderVMs], ",")
	var all []string
	for thread, state := range want {
		all = append(all, thread.vm.id+state)
	}
	if len(all) == 0 {
		all = []string{""}
	}
	slices.Sort(got)
	slices.Sort(all)
	if !slices.Equal(got, all) {
		c.t.Errorf("the request names %v, want %v", got, all)
	}
}

// others returns the threads that live, except for one, each with no state.
func (c *crew) others(except *thread) map[*thread]string {
	all := map[*thread]string{}
	for _, thread := range c.threads {
		if thread != except && !thread.gone {
			all[thread] = ""
		}
	}
	return all
}

// trap ends a thread's VM without a word.
func (c *crew) trap(thread *thread) { thread.gone = true }

// stop ends a thread's VM as Envoy does.
func (c *crew) stop(thread *thread) {
	c.t.Helper()
	c.run(thread, func() { thread.vm.stopPlugin(proxytest.PluginContextID) })
	thread.gone = true
}

// TestOneVMAsksForAll checks that one VM asks, that all put in force what it gets, and that it
// reports them all in its next request.
func TestOneVMAsksForAll(t *testing.T) {
	c := newCrew(t, 17, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.inForce(418)
	leader := c.asking() // at once
	c.named(c.others(leader))
	if leader.headers["if-none-match"] != tagOf(418) {
		t.Errorf("the request is %v", leader.headers)
	}
	c.settle()
	for _, status := range []int{419, 420, 421} {
		c.pass(7 * time.Second)
		c.update(status)
		c.inForce(status)
		c.named(c.others(leader))
	}
	for range 30 {
		c.confirm()
		if c.asking() != leader || c.inFlight() != 1 {
			t.Fatalf("another VM leads, or there are more requests than one: %d", c.inFlight())
		}
		c.named(c.others(leader))
	}
	c.inForce(421)
	for i, thread := range c.threads {
		if stale := c.at.Sub(thread.vm.plugins[0].poll.confirmedAt); stale > maxWait+signPeriod {
			t.Errorf("VM %d knows of the last confirmation %s ago", i, stale)
		}
	}
}

// TestAnotherVMTakesOver checks that another VM asks soon after the leader has trapped or stopped.
func TestAnotherVMTakesOver(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*crew, *thread)
		most time.Duration
		// gone is the state of the former leader in the next request.
		gone bool
	}{
		"trapped": {(*crew).trap, (missesUntilLed + 1) * signPeriod, false},
		"stopped": {(*crew).stop, 10 * time.Millisecond, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := newCrew(t, 5, frontendConfig)
			e.pass(100 * time.Millisecond)
			e.update(418)
			e.settle()
			former := e.asking()
			c.end(e, former)
			e.pass(c.most)
			next := e.asking()
			if next.headers["if-none-match"] != tagOf(418) || next.headers[api.HeaderRevision] != "r-418" {
				t.Errorf("the next request is %v", next.headers)
			}
			want := e.others(next)
			if c.gone {
				want[former] = "=gone"
			}
			e.named(want)
			e.update(419)
			e.inForce(419)
			for range 100 { // until it is not named any more
				e.confirm()
			}
			e.named(e.others(next))
		})
	}
}

// missesUntilLed is package group's missesUntilDead.
const missesUntilLed = 3

// TestATrappedVMIsNotNamed checks that the leader names only the VMs that live, and reports others
// again once they do.
func TestATrappedVMIsNotNamed(t *testing.T) {
	c := newCrew(t, 4, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.settle()
	leader := c.asking()
	trapped := c.threads[1]
	if trapped == leader {
		trapped = c.threads[2]
	}
	c.trap(trapped)
	c.update(419) // it has not taken this up
	c.pass(2 * gatherLimit)
	want := c.others(leader)
	want[trapped] = `="v1:418"`
	c.named(want)
	for range 10 {
		c.confirm()
	}
	c.named(c.others(leader))
	trapped.gone = false // it had only been slow
	c.pass(2 * signPeriod)
	c.confirm()
	c.named(c.others(leader))
	c.inForce(419)
}

// TestANewVMStartsWithTheSharedPolicies checks that a VM that starts later puts the shared policies
// in force without a request, unless they are stale.
func TestANewVMStartsWithTheSharedPolicies(t *testing.T) {
	c := newCrew(t, 2, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.settle()
	c.join()
	c.pass(10 * time.Millisecond)
	c.inForce(418)
	c.asking()

	c.trapAll()
	c.pass(recentTime - time.Second)
	c.join()
	c.pass(10 * time.Millisecond)
	c.inForce(418)
	c.pass(2 * missesUntilLed * signPeriod)
	if tag := c.asking().headers["if-none-match"]; tag != tagOf(418) {
		t.Errorf("the request has the tag %s", tag)
	}
}

// trapAll ends all VMs without a word.
func (c *crew) trapAll() {
	for _, thread := range c.threads {
		c.trap(thread)
	}
}

// TestPoliciesOfAnAbandonedGroup checks that nothing comes back into force that no VM has
// had confirmed lately: meanwhile, the policies may have been deleted.
func TestPoliciesOfAnAbandonedGroup(t *testing.T) {
	for name, end := range map[string]func(*crew){
		"stopped": func(c *crew) {
			for _, thread := range c.threads {
				c.stop(thread)
			}
		},
		"stopped after a trap": func(c *crew) {
			c.trap(c.threads[0])
			c.pass(2 * missesUntilLed * signPeriod)
			c.stop(c.threads[1])
		},
		"trapped": func(c *crew) {
			c.trapAll()
			c.pass(recentTime + time.Second)
		},
		"trapped and stale": func(c *crew) {
			c.trapAll()
			c.pass(defaultStaleAfter + time.Minute)
		},
		"trapped, and the clock was set back": func(c *crew) {
			c.trapAll()
			c.at = c.at.Add(-time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCrew(t, 2, frontendConfig)
			c.pass(100 * time.Millisecond)
			c.update(418)
			c.settle()
			end(c)
			c.join()
			c.pass(10 * time.Millisecond)
			c.inForce(0)
			c.pass(2 * missesUntilLed * signPeriod)
			c.inForce(0)
			if tag, given := c.asking().headers["if-none-match"]; given {
				t.Errorf("the request has the tag %s", tag)
			}
			c.update(418)
			c.inForce(418)
		})
	}
}

// TestANewVMDuringAnOutage checks that a VM that starts while the daemon does not respond has the
// policies of the others, once it has seen the leader live.
func TestANewVMDuringAnOutage(t *testing.T) {
	c := newCrew(t, 2, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	outage := func(d time.Duration) {
		for end := c.at.Add(d); c.at.Before(end); c.pass(100 * time.Millisecond) {
			for _, thread := range c.threads {
				if thread.call >= 0 {
					c.answer(thread, "503", nil, "")
				}
			}
		}
	}
	outage(2 * recentTime)
	c.join()
	outage(3 * signPeriod)
	c.inForce(418)
}

// TestPoliciesEndInAllVMs checks that the faults of each VM stop without a confirmation, and
// that one VM after the other tries meanwhile.
func TestPoliciesEndInAllVMs(t *testing.T) {
	c := newCrew(t, 3, `{"control_plane_cluster": "hfi", "stale_after": "2m"}`)
	c.pass(100 * time.Millisecond)
	c.update(418)
	leaders := map[*thread]bool{}
	fail := func(d time.Duration) {
		for end := c.at.Add(d); c.at.Before(end); c.pass(100 * time.Millisecond) {
			for _, thread := range c.threads {
				if thread.call >= 0 {
					leaders[thread] = true
					c.answer(thread, "503", nil, "")
				}
			}
		}
	}
	fail(110 * time.Second)
	c.inForce(418)
	fail(20 * time.Second)
	c.inForce(0)
	if len(leaders) < 2 {
		t.Error("the same VM tried for two minutes")
	}
	fail(10 * time.Minute)
	c.pass(maxBackoff)
	c.update(419)
	c.inForce(419)
	c.settle()
	c.named(c.others(c.asking()))
}

// TestAFrozenEnvoyKeepsItsLeader checks that VMs do not look dead after a pause of all threads.
func TestAFrozenEnvoyKeepsItsLeader(t *testing.T) {
	c := newCrew(t, 4, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.settle()
	leader := c.asking()
	for range 5 {
		c.at = c.at.Add(25 * time.Second)
		c.pass(10 * time.Second)
		if c.asking() != leader {
			t.Fatal("another VM leads")
		}
		c.confirm()
	}
}

// TestForeignSharedData checks that whatever is in the shared data, the VMs survive it, and have
// the daemon's policies in force soon after.
func TestForeignSharedData(t *testing.T) {
	alien := group.Record{Leader: "00000000000000aa", Confirmations: 5, ConfirmedAt: 1, Tag: `"v1:x"`}
	alien.Join(alien.Leader)
	odd := group.Record{Leader: alien.Leader}
	for i, tag := range []string{`"v1:x`, `x"`, `"`, `"a,b"`, "gone", `"a"="b"`} {
		odd.Join(fmt.Sprintf("%016x", i)).Tag = tag
	}
	forged := group.Program{Tag: `"v1:x"`, Encoded: []byte("hfi")}
	for name, contents := range map[string]map[string][]byte{
		"empty":               {"group": {}, "program": {}},
		"garbage":             {"group": []byte("hfg1 garbage"), "program": []byte("hfp1 garbage")},
		"long":                {"group": make([]byte, 1<<20), "program": make([]byte, 1<<20)},
		"another leader":      {"group": alien.Encode()},
		"odd ETags":           {"group": odd.Encode()},
		"an invalid program":  {"group": alien.Encode(), "program": forged.Encode()},
		"a truncated program": {"program": []byte("hfp1\x05abc")},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCrew(t, 3, frontendConfig)
			c.pass(100 * time.Millisecond)
			c.update(418)
			c.settle()
			share := &c.threads[0].vm.plugins[0].poll.share
			for kind, data := range contents {
				_, cas, _ := proxywasm.GetSharedData(share.name(kind))
				if err := proxywasm.SetSharedData(share.name(kind), data, cas); err != nil {
					t.Fatal(err)
				}
			}
			for range 20 {
				c.pass(time.Second)
				for _, thread := range c.threads {
					if thread.call >= 0 {
						for named := range strings.SplitSeq(thread.headers[api.HeaderVMs], ",") {
							if named != "" && !regexp.MustCompile(`^[0-9a-f]{16}(=none|=gone|="[^"]*")?$`).MatchString(named) {
								t.Errorf("a request names %q", named)
							}
						}
						c.answer(thread, "304", nil, "")
					}
				}
			}
			c.inForce(418)
			c.pass(maxBackoff)
			c.update(419)
			c.inForce(419)
			c.join()
			c.pass(5 * time.Second)
			c.inForce(419)
			if errors := c.GetErrorLogs(); len(errors) > 0 {
				t.Errorf("errors: %v", errors)
			}
		})
	}
}

// TestALateProgramIsReplaced checks that the leader shares its policies again if a former leader
// has overwritten them.
func TestALateProgramIsReplaced(t *testing.T) {
	c := newCrew(t, 3, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.settle()
	share := &c.threads[0].vm.plugins[0].poll.share
	late := group.Program{Tag: tagOf(417), Encoded: []byte(compile(t, `{"policies":[]}`))}
	_, cas, _ := proxywasm.GetSharedData(share.name("program"))
	if err := proxywasm.SetSharedData(share.name("program"), late.Encode(), cas); err != nil {
		t.Fatal(err)
	}
	joined := c.join()
	for range 30 {
		c.pass(time.Second)
		if asking := c.asking(); asking.headers["if-none-match"] == "" {
			want := c.others(asking)
			for thread := range want {
				want[thread] = "=" + tagOf(418)
			}
			want[joined] = "=none"
			c.named(want)
			c.update(418)
			c.inForce(418)
			if joined.vm.plugins[0].poll.tag != tagOf(418) {
				t.Error("the new VM has other policies")
			}
			return
		}
		if c.asking() == joined {
			t.Fatal("the new VM leads")
		}
		c.answer(c.asking(), "304", nil, "")
		c.pass(maxBackoff)
	}
	t.Error("the leader did not ask for its policies again")
}

// fill puts members into the record until it has no room. All have the same policies.
func (c *crew) fill() {
	c.t.Helper()
	share := &c.threads[0].vm.plugins[0].poll.share
	r, cas, err := share.load()
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range group.MaxMembers {
		if m := r.Join(fmt.Sprintf("%016x", i)); m != nil {
			m.Tag = r.Tag
		}
	}
	if err := proxywasm.SetSharedData(share.name("group"), r.Encode(), cas); err != nil {
		c.t.Fatal(err)
	}
}

// beat makes the members that fill has put there live.
func (c *crew) beat() {
	c.t.Helper()
	share := &c.threads[0].vm.plugins[0].poll.share
	r, cas, err := share.load()
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range r.Members {
		if strings.HasPrefix(r.Members[i].ID, "0000000000000") {
			r.Members[i].Beat++
		}
	}
	if err := proxywasm.SetSharedData(share.name("group"), r.Encode(), cas); err != nil {
		c.t.Fatal(err)
	}
}

// TestARecordFullOfDeadVMs checks that a VM takes the place of dead ones that nobody has removed.
func TestARecordFullOfDeadVMs(t *testing.T) {
	c := newCrew(t, 1, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.trap(c.threads[0])
	c.fill()
	joined := c.join()
	c.pass((looksForRoom + missesUntilLed) * signPeriod)
	if share := &joined.vm.plugins[0].poll.share; share.alone || !share.leads {
		t.Fatalf("the VM is alone: %v, leads: %v", share.alone, share.leads)
	}
	c.update(419)
	c.inForce(419)
}

// TestARecordFullOfVMs checks that a VM asks by itself if there is no room for it.
func TestARecordFullOfVMs(t *testing.T) {
	c := newCrew(t, 1, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.fill()
	joined := c.join()
	for range looksForRoom * signPeriod / time.Second {
		c.beat()
		c.pass(time.Second)
	}
	if !joined.vm.plugins[0].poll.share.alone || joined.call < 0 {
		t.Fatal("the VM does not ask by itself")
	}
	if others, given := joined.headers[api.HeaderVMs]; given {
		t.Errorf("it asks for %s too", others)
	}
}

// TestARequestNamesAllMembers checks that a request names all members of a full record, and
// those that differ first if the header has no room for all.
func TestARequestNamesAllMembers(t *testing.T) {
	c := newCrew(t, 1, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.fill()
	c.beat()
	c.confirm()
	named := strings.Split(c.asking().headers[api.HeaderVMs], ",")
	if r := &c.threads[0].vm.plugins[0].poll.share.record; len(named) != len(r.Members)-1 || len(named) != api.MaxVMs {
		t.Errorf("the request names %d VMs; the record has %d", len(named), len(r.Members))
	}

	share := &c.threads[0].vm.plugins[0].poll.share
	r, cas, err := share.load()
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Members[len(r.Members)/2:] {
		r.Members[len(r.Members)/2+i].Tag = `"v1:` + strings.Repeat("a", 64) + `"`
	}
	if err := proxywasm.SetSharedData(share.name("group"), r.Encode(), cas); err != nil {
		t.Fatal(err)
	}
	c.confirm()
	for named := range strings.SplitSeq(c.asking().headers[api.HeaderVMs], ",") {
		if !strings.Contains(named, "=") {
			t.Fatalf("the request names %s, which has the policies, before others", named)
		}
	}
}

// TestALaterRevisionOfTheSamePolicies checks that a VM that has missed a change and its revert
// does not ask with the old revision when it leads.
func TestALaterRevisionOfTheSamePolicies(t *testing.T) {
	c := newCrew(t, 2, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.settle()
	leader, slow := c.asking(), c.threads[0]
	if slow == leader {
		slow = c.threads[1]
	}
	slow.gone = true
	c.update(419)
	c.pass(2 * gatherLimit)
	body := compile(t, `{"policies":[{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"abort":{"status":418}}}]}}]}`)
	c.answer(leader, "200", map[string]string{"etag": tagOf(418), "x-hfi-commit": "c", "x-hfi-revision": "r-reverted"}, body)
	slow.gone = false
	c.pass(2 * signPeriod)
	c.trap(leader)
	c.pass(2 * missesUntilLed * signPeriod)
	if headers := c.asking().headers; headers["if-none-match"] != tagOf(418) || headers[api.HeaderRevision] != "r-reverted" {
		t.Errorf("the next leader asks with %v", headers)
	}
}

// demoted returns a crew of two whose former leader, to, has a request in flight with the tag of
// 418, while the other one, by, leads and has shared 419.
func demoted(t *testing.T) (c *crew, to, by *thread) {
	c = newCrew(t, 2, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.settle()
	to = c.asking()
	c.trap(to) // no more than slow
	c.pass(2 * missesUntilLed * signPeriod)
	c.update(419)
	by = c.asking()
	to.gone = false
	return c, to, by
}

// TestAFormerRequestConfirmsNothing checks that a VM that leads again does not take the response to
// its former request for a confirmation of the policies that it has by now.
func TestAFormerRequestConfirmsNothing(t *testing.T) {
	c, former, other := demoted(t)
	c.pass(2 * signPeriod)
	c.inForce(419)
	c.trap(other)
	c.pass(2 * missesUntilLed * signPeriod)
	if c.asking() != former || former.headers["if-none-match"] != tagOf(418) {
		t.Fatalf("the request in flight is not the former one: %v", former.headers)
	}
	poll := former.vm.plugins[0].poll
	before, confirmations := poll.confirmedAt, poll.share.record.Confirmations
	c.answer(former, "304", nil, "")
	if poll.confirmedAt != before || poll.share.record.Confirmations != confirmations {
		t.Error("the response confirmed other policies")
	}
	if tag := c.asking().headers["if-none-match"]; tag != tagOf(419) {
		t.Errorf("the next request has the tag %s", tag)
	}
	c.confirm()
	if !poll.confirmedAt.After(before) {
		t.Error("the response to the next request confirmed nothing")
	}
}

// TestAFormerLeaderFollows checks that a leader that gets a response after another VM has taken
// over follows that one at once.
func TestAFormerLeaderFollows(t *testing.T) {
	c, former, other := demoted(t)
	former.notes = nil
	call := former.call
	former.call = -1
	body := compile(t, `{"policies":[]}`)
	c.CallOnHttpCallResponse(uint32(call), [][2]string{{":status", "200"}, {"content-type", program.MediaType}, {"etag", tagOf(417)}}, nil, []byte(body))
	if former.vm.plugins[0].poll.share.leads {
		t.Error("it still leads")
	}
	c.inForce(419)
	if c.pass(time.Second); c.asking() != other {
		t.Error("the other VM does not lead")
	}
}
