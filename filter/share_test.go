package main

import (
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/group"
	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/internal/api"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

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
