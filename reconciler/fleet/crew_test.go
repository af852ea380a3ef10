package fleet

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// crew asks for several VMs of one Envoy, on a connection of its own.
type crew struct {
	s      *stage
	caller Caller
}

func (c crew) ask(vm, digest string, others ...VM) Request {
	return c.s.fleet["a"].Ask(podID("p"), vm, digest, c.caller, others...)
}

// round is a request that is answered after 20 s, without a change.
func (c crew) round(vm, digest string, others ...VM) {
	request := c.ask(vm, digest, others...)
	c.s.advance(20 * time.Second)
	request.Answered("", 0)
}

func newCrew(s *stage, connection uint64) crew {
	return crew{s, Caller{Connection: connection, Address: netip.MustParseAddr("10.0.0.1")}}
}

// vms are VMs with the same policies in force.
func vms(digest string, names ...string) (all []VM) {
	for _, name := range names {
		all = append(all, VM{Name: name, Digest: digest})
	}
	return all
}

// TestOneVMAsksForAll checks that VMs which another one names count as if they asked themselves,
// are confirmed with it, and are silent when they are not named any more.
func TestOneVMAsksForAll(t *testing.T) {
	s := newStage(t)
	c := newCrew(s, 1)
	c.ask("1", "", vms("", "2", "3")...).Answered("new", 0)
	if seen := s.fleet["a"].seen(); len(seen) != 1 || !seen[0].VMs[0].Claimed {
		t.Fatalf("after one request: %+v", seen)
	}
	// The first one has taken up the policies, and the third has others.
	request := c.ask("1", "new", append(vms("new", "2"), vms("old", "3")...)...)
	s.expect(want{api.FilterBehind, api.VMCounts{Total: 3, Current: 2, Behind: 1}, "old", 0, "a", "1 of 3 VMs with other policies in force than the current ones"})
	s.advance(time.Second)
	request.Answered("", 0)
	request = c.ask("1", "new", vms("new", "2", "3", "4")...)
	s.expect(want{api.FilterCurrent, api.VMCounts{Total: 4, Current: 4}, "new", 0, "a", ""})
	for _, vm := range s.fleet["a"].seen()[0].VMs {
		if vm.Claimed || vm.Unproven {
			t.Errorf("VM %s has no proof: %+v", vm.ID, vm)
		}
	}
	s.advance(20 * time.Second)
	request.Answered("", 0)

	// VM 3 has trapped: it is not named any more. VM 4 has stopped.
	request = c.ask("1", "new", append(vms("new", "2"), VM{Name: "4", Gone: true})...)
	s.advance(DefaultGrace + time.Second)
	s.expect(want{api.FilterSilent, api.VMCounts{Total: 3, Current: 2, Silent: 1}, "new", 9 * time.Second, "a", "1 of 3 VMs stopped asking 9 s ago: it is not enforcing; .*"})
	request.Answered("", 0)
}

// TestNamedVMsHaveTheProblemToo checks that a setting with which one VM cannot inject faults is that of
// all, and that the requests of each for the plugins concerned change nothing.
func TestNamedVMsHaveTheProblemToo(t *testing.T) {
	s := newStage(t)
	c := newCrew(s, 1)
	c.ask("1", "", vms("", "2")...).Answered("new", 0)
	all := want{api.FilterUnable, api.VMCounts{Total: 2, Unable: 2}, "", 0, "a", ".*cannot inject faults: no address"}
	request := c.ask("1", "new", vms("new", "2")...)
	request.Describe(Description{Problem: "no address"})
	s.expect(all)
	request = c.ask("2", "new")
	request.Describe(Description{Problem: "no address"})
	s.expect(all)
}

// TestAnotherVMTakesOver checks that no VM is silent or missing when another one asks for all, on
// a connection of its own.
func TestAnotherVMTakesOver(t *testing.T) {
	for _, left := range []bool{true, false} {
		s := newStage(t)
		first := newCrew(s, 1)
		for range 3 {
			first.round("1", "new", vms("new", "2", "3")...)
		}
		request := first.ask("1", "new", vms("new", "2", "3")...)
		s.advance(5 * time.Second)
		if left {
			request.Left()
		}
		s.advance(4 * time.Second)
		// VM 1 has trapped.
		second := newCrew(s, 2)
		claim := second.ask("2", "new", vms("new", "3")...)
		s.advance(time.Second)
		claim.Answered("", 0)
		next := second.ask("2", "new", vms("new", "3")...)
		status := s.status().Items[0]
		if status.State != api.FilterCurrent || status.VMs.Silent != 0 || status.VMs.Current < 2 {
			t.Errorf("left %v: after another VM took over, the status is %+v", left, status)
		}
		if !left {
			s.advance(10 * time.Second)
			request.Answered("", 0)
			s.advance(9 * time.Second)
			s.expect(want{api.FilterSilent, api.VMCounts{Total: 3, Current: 2, Silent: 1}, "new", 9 * time.Second, "a", "1 of 3 VMs stopped asking .*"})
		}
		next.Answered("", 0)
	}
}

// TestOnlyAConfirmedVMSaysWhoIsGone checks that neither a first request, nor one from another address, makes VMs disappear.
func TestOnlyAConfirmedVMSaysWhoIsGone(t *testing.T) {
	s := newStage(t)
	c := newCrew(s, 1)
	for range 3 {
		c.round("1", "new", vms("new", "2")...)
	}
	c.ask("1", "new", vms("new", "2")...)
	elsewhere := Caller{Connection: 2, Address: netip.MustParseAddr("10.0.0.2")}
	for range 3 {
		s.fleet["a"].Ask(podID("p"), "5", "new", elsewhere, VM{Name: "1", Gone: true}, VM{Name: "2", Gone: true}).Answered("new", 0)
	}
	newCrew(s, 3).ask("6", "new", VM{Name: "1", Gone: true}, VM{Name: "2", Gone: true})
	if status := s.status().Items[0]; status.VMs.Current < 2 {
		t.Errorf("the status is %+v", status)
	}
}

// TestNamedVMsAreBounded checks that the VMs which requests name count for the bounds.
func TestNamedVMsAreBounded(t *testing.T) {
	s := newStage(t)
	s.fleet["a"].MaxVMs = 10
	c := newCrew(s, 1)
	for round := range 5 {
		var others []VM
		for i := range 8 {
			others = append(others, VM{Name: fmt.Sprint(round, "-", i)})
		}
		c.ask("1", "", others...).Answered("new", 0)
		s.advance(time.Millisecond)
	}
	if n := s.fleet["a"].count.Load(); n > 10 {
		t.Errorf("%d VMs are remembered", n)
	}
	if !s.fleet["a"].full() {
		t.Error("nothing says that VMs are missing")
	}
}

// TestAFirstRequestNamesNobody checks that the VMs which a first request names take no room:
// anybody can send some with invented names, and leave them open.
func TestAFirstRequestNamesNobody(t *testing.T) {
	s := newStage(t)
	f := s.fleet["a"]
	for i := range 2 * maxUnconfirmedPerSource / api.MaxVMs {
		caller := Caller{Connection: uint64(i), Address: netip.MustParseAddr(foreignAddress)}
		f.Ask(podID("p"), fmt.Sprint(i), "", caller, invented(i)...)
		if f.full() {
			t.Fatalf("after %d open requests VMs are missing", i+1)
		}
	}
}

// TestInventedVMsLeaveRoomForOthers checks that VMs which one connection, or several from
// one address, name do not keep others from being remembered, and that nothing is counted
// once they are forgotten.
func TestInventedVMsLeaveRoomForOthers(t *testing.T) {
	const requests = 2 * DefaultMaxVMs / api.MaxVMs
	for name, test := range map[string]struct{ askers, most int }{
		"one VM asks":     {1, api.MaxVMs + 1},
		"many VMs ask":    {maxNamedPerSource / api.MaxVMs * 2, maxNamedPerSource * 11 / 10},
		"each asks twice": {requests / 2, maxNamedPerSource * 11 / 10},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			f := s.fleet["a"]
			from := netip.MustParseAddr(foreignAddress)
			for i := range requests {
				asker := i * test.askers / requests
				f.Ask(podID(fmt.Sprint(asker%7)), fmt.Sprint(asker), "", Caller{uint64(asker), from}, invented(i)...).Answered("", 0)
			}
			if n := f.count.Load(); f.full() || n > int64(test.most) {
				t.Errorf("%d VMs are remembered, and may be %d; full: %v", n, test.most, f.full())
			}
			pod := Caller{requests, netip.MustParseAddr("10.0.0.1")}
			f.Ask(podID("p"), "1", "", pod, vms("", "2")...).Answered("new", 0)
			request := f.Ask(podID("p"), "1", "new", pod, vms("new", "2")...)
			if request.vm == nil || request.others[0].vm == nil {
				t.Errorf("VMs of another address are not remembered")
			}
			request.Answered("", 0)
			s.advance(2 * DefaultRemember)
			if f.seen(); f.count.Load() != 0 || f.size.Load() != 0 || len(f.named.counts) != 0 {
				t.Errorf("%d VMs with %d bytes are counted, and of addresses %v", f.count.Load(), f.size.Load(), f.named.counts)
			}
		})
	}
}

// TestTheVMsOfALongRunningEnvoyAreNamed checks that the newest VMs of an Envoy that makes new
// ones again and again are remembered.
func TestTheVMsOfALongRunningEnvoyAreNamed(t *testing.T) {
	s := newStage(t)
	c := newCrew(s, 1)
	c.round("1", "new")
	for i := range 50 {
		c.round("1", "new", invented(i)[:100]...)
	}
	others := invented(50)[:100]
	for i := range others {
		others[i].Digest = "new"
	}
	request := c.ask("1", "new", others...)
	for i, other := range request.others {
		if other.vm == nil {
			t.Fatalf("VM %d is not remembered", i)
		}
	}
	status := s.status().Items[0]
	if status.VMs.Current != 101 || status.VMs.Total > 1+api.MaxVMs {
		t.Errorf("the status is %+v", status)
	}
}

// TestAVMThatAsksItselfStays checks that a VM that another one named, and then asks itself, is
// not counted for it any more.
func TestAVMThatAsksItselfStays(t *testing.T) {
	s := newStage(t)
	f := s.fleet["a"]
	c := newCrew(s, 1)
	c.round("1", "new")
	c.round("1", "new", vms("new", "2")...)
	second := newCrew(s, 2)
	second.ask("2", "new").Answered("", 0)
	second.ask("2", "new")
	if len(f.named.counts) != 0 {
		t.Errorf("named VMs are counted: %v", f.named.counts)
	}
	c.ask("1", "new", invented(0)...)
	c.ask("1", "new", invented(1)...)
	if got := len(f.seen()[0].VMs); got != 2+api.MaxVMs {
		t.Errorf("%d VMs are remembered", got)
	}
}

// invented are as many VMs as a request may name, with other names for each n.
func invented(n int) (all []VM) {
	for i := range api.MaxVMs {
		all = append(all, VM{Name: fmt.Sprint(n, "-", i)})
	}
	return all
}

// TestOthersOutliveTheConnection checks that the VMs for which one asked count, and are not
// current, for as long as the next one may take to ask, and are gone without an alarm afterwards.
func TestOthersOutliveTheConnection(t *testing.T) {
	leave := func() *stage {
		s := newStage(t)
		c := newCrew(s, 1)
		for range 3 {
			c.round("1", "new", vms("new", "2", "3")...)
		}
		c.ask("1", "new", vms("new", "2", "3")...).Left()
		return s
	}
	s := leave()
	s.advance(DefaultGrace + time.Second)
	s.expect(want{api.FilterBehind, api.VMCounts{Total: 2, Behind: 2}, "new", 40*time.Second + DefaultGrace + time.Second, "a", "2 of 2 VMs last seen 9 s ago"})
	s.advance(DefaultSettleTime - DefaultGrace - time.Second)
	if status := s.status(); status.Connected != 1 || status.Behind != 1 {
		t.Errorf("the status is %+v", status)
	}
	for range 100 {
		s.advance(10 * time.Second)
		if status := s.status(); status.Connected != 0 || status.Silent != 0 {
			t.Fatalf("the status is %+v", status)
		}
	}

	// Another VM takes over late.
	s = leave()
	s.advance(DefaultSettleTime - time.Second)
	second := newCrew(s, 2)
	second.ask("2", "new", vms("new", "3")...).Answered("", 0)
	second.ask("2", "new", vms("new", "3")...)
	s.expect(want{api.FilterCurrent, api.VMCounts{Total: 2, Current: 2}, "new", 40*time.Second + DefaultSettleTime - time.Second, "a", ""})

	// Another VM takes over, and says that the others have stopped.
	s = leave()
	second = newCrew(s, 2)
	second.ask("2", "new").Answered("", 0)
	second.ask("2", "new", VM{Name: "3", Gone: true})
	s.advance(DefaultGrace + time.Second)
	s.expect(want{api.FilterCurrent, api.VMCounts{Total: 1, Current: 1}, "new", 40*time.Second + DefaultGrace + time.Second, "a", ""})

	// The pod is deleted.
	s = leave()
	s.advance(DefaultGrace + time.Second)
	s.fleet["a"].PodGone("demo", "p")
	if status := s.status(); status.Connected != 0 {
		t.Errorf("the pod was deleted, and the status is %+v", status)
	}
	s = newStage(t)
	c := newCrew(s, 1)
	for range 3 {
		c.round("1", "new", vms("new", "2", "3")...)
	}
	request := c.ask("1", "new", vms("new", "2", "3")...)
	s.fleet["a"].PodGone("demo", "p")
	request.Left()
	s.advance(DefaultGrace + time.Second)
	if status := s.status(); status.Connected != 0 {
		t.Errorf("the pod was deleted before, and the status is %+v", status)
	}
}
