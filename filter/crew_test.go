package main

import (
	"fmt"
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

// trapAll ends all VMs without a word.
func (c *crew) trapAll() {
	for _, thread := range c.threads {
		c.trap(thread)
	}
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
