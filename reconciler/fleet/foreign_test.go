package fleet

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// client is where requests in the name of pod p come from: an address, and a
// connection to each replica.
type client struct {
	*stage
	address    netip.Addr
	connection uint64
}

func (s *stage) client(address string, connection uint64) client {
	return client{s, netip.MustParseAddr(address), connection}
}

// ask begins a request. The digest is what the VM has in force.
func (c client) ask(replica, vm, digest string) Request {
	return c.fleet[replica].Ask(podID("p"), vm, digest, Caller{Connection: c.connection, Address: c.address})
}

// starts is a VM's first requests, by which it is given policies and has them in force.
func (c client) starts(replica, vm, digest string) Request {
	c.ask(replica, vm, "").Answered(digest, 0)
	return c.ask(replica, vm, digest)
}

// round is a request that is answered after 20 s, without a change.
func (c client) round(replica, vm, digest string) {
	request := c.ask(replica, vm, digest)
	c.advance(20 * time.Second)
	request.Answered("", 0)
}

const (
	podsAddress    = "10.0.0.1"
	foreignAddress = "10.0.9.9"
)

// ofPod is a fleet in which pod p's only VM has asked replica a for a minute, and waits.
func ofPod(t *testing.T) (s *stage, pod client) {
	s = newStage(t)
	pod = s.client(podsAddress, 1)
	pod.starts("a", "1", "new").Answered("", 0)
	for range 3 {
		pod.round("a", "1", "new")
	}
	pod.ask("a", "1", "new")
	return s, pod
}

// While a pod's VMs ask, requests in its name from another address change
// nothing: whatever VM they name and digest they send, to whichever replica,
// however they go on, and also once they end.
func TestRequestsFromElsewhereChangeNothing(t *testing.T) {
	for _, replica := range []string{"a", "b"} {
		for _, vm := range []string{"1", "made up"} {
			for _, digest := range []string{"old", "new"} {
				t.Run(replica+" "+vm+" "+digest, func(t *testing.T) {
					s, pod := ofPod(t)
					unchanged := func(when string) {
						t.Helper()
						status := s.status()
						if status.Connected != 1 || status.Current != 1 || status.Items[0].VMs != (api.VMCounts{Total: 1, Current: 1}) || status.Items[0].Digest != "new" {
							t.Fatalf("%s: %+v", when, status)
						}
					}
					foreign := s.client(foreignAddress, 2)
					request := foreign.starts(replica, vm, digest)
					unchanged("while it waits")
					for range 5 {
						s.advance(10 * time.Second)
						request.Answered("", 0)
						unchanged("when it was answered")
						request = foreign.ask(replica, vm, digest)
						pod.ask("a", "1", "new")
						unchanged("when it waits again")
					}
					request.Answered("", 0)
					for range 50 {
						pod.round("a", "1", "new")
						unchanged("after its end")
					}
				})
			}
		}
	}
}

// A VM that stopped stays silent, whoever asks in its pod's name from another address.
func TestRequestsFromElsewhereHideNoSilentVM(t *testing.T) {
	for _, replica := range []string{"a", "b"} {
		s, pod := ofPod(t)
		pod.ask("a", "1", "new").Answered("", 0)
		s.advance(DefaultGrace + time.Second)
		foreign := s.client(foreignAddress, 2)
		request := foreign.ask(replica, "1", "new")
		if status := s.status(); status.Silent != 1 {
			t.Errorf("after one request to %s: %+v", replica, status)
		}
		request.Answered("new", 0)
		foreign.ask(replica, "2", "new").Answered("new", 0)
		foreign.ask(replica, "2", "new")
		if status := s.status(); status.Silent != 1 {
			t.Errorf("after two requests of another VM to %s: %+v", replica, status)
		}
	}
}

// A pod that is replaced by one of the same name, as a StatefulSet's are, has
// another address: the new one counts at once if the old one closed its
// requests, and once those are missed if it was killed. The old one's alarm ends.
func TestAReplacedPodHasAnotherAddress(t *testing.T) {
	for name, killed := range map[string]bool{"closed": false, "killed": true} {
		t.Run(name, func(t *testing.T) {
			s, old := ofPod(t)
			last := old.ask("a", "1", "new")
			if !killed {
				last.Left()
				s.advance(DefaultGrace + 1)
			}
			pod := s.client("10.0.0.2", 2)
			request := pod.starts("b", "2", "new")
			s.advance(20 * time.Second)
			request.Answered("", 0)
			if killed {
				last.Answered("", 0)
				pod.round("b", "2", "new")
			}
			pod.ask("b", "2", "new")
			status := s.status()
			if got := status.Items[0].VMs; got.Current != 1 || got.Behind != 0 || killed != (status.Silent == 1) {
				t.Errorf("it is %+v", status.Items)
			}
			for range 31 {
				pod.round("b", "2", "new")
			}
			s.expect(want{api.FilterCurrent, api.VMCounts{Total: 1, Current: 1}, "new", s.now.Sub(s.status().Items[0].Since), "b", ""})
		})
	}
}

// A pod with addresses of both IP versions may use both from the start, and any of its
// VMs may change to the other one: all count. Others that begin later do not.
func TestBothIPVersions(t *testing.T) {
	const v4, v6 = podsAddress, "2001:db8::1"
	for _, addresses := range [][2]string{{v4, v6}, {v6, v4}} {
		t.Run(addresses[0], func(t *testing.T) {
			s := newStage(t)
			one, other := s.client(addresses[0], 1), s.client(addresses[1], 2)
			one.starts("a", "1", "new").Answered("", 0)
			s.advance(10 * time.Second)
			other.starts("b", "2", "old").Answered("", 0)
			both := func() {
				t.Helper()
				one.ask("a", "1", "new").Answered("", 0)
				other.ask("b", "2", "old").Answered("", 0)
				if got := s.status().Items[0]; got.VMs != (api.VMCounts{Total: 2, Current: 1, Behind: 1}) || got.Message != "1 of 2 VMs with other policies in force than the current ones" {
					t.Errorf("from the start: %+v", got)
				}
			}
			for range 60 {
				both()
				s.advance(5 * time.Second)
			}
			// Neither address is new, but the VM is.
			other.starts("b", "2", "old")
			other.starts("b", "3", "old")
			one.ask("a", "1", "new")
			if got := s.status().Items[0]; got.VMs != (api.VMCounts{Total: 3, Current: 1, Behind: 2}) {
				t.Errorf("a new VM: %+v", got)
			}

			s = newStage(t)
			one, other = s.client(addresses[0], 1), s.client(addresses[1], 2)
			foreign := s.client(map[string]string{v4: "2001:db8:9::9", v6: foreignAddress}[addresses[0]], 3)
			one.starts("a", "1", "new").Answered("", 0)
			for range 3 {
				one.round("a", "1", "new")
			}
			for range 20 {
				foreign.starts("b", "made up", "old").Answered("", 0)
				one.ask("a", "1", "new").Answered("", 0)
				s.advance(5 * time.Second)
				if got := s.status().Items[0]; got.VMs != (api.VMCounts{Total: 1, Current: 1}) || got.State != api.FilterCurrent {
					t.Fatalf("with requests from elsewhere: %+v", got)
				}
			}
			// The VM itself asks by the other version as well, and brings a second one along.
			for range 12 {
				foreign.ask("b", "made up", "old").Answered("", 0)
				one.ask("a", "1", "new").Answered("", 0)
				other.starts("b", "1", "new").Answered("", 0)
				other.starts("b", "2", "new").Answered("", 0)
				s.advance(5 * time.Second)
				if got := s.status().Items[0]; got.VMs.Behind > 0 || got.State != api.FilterCurrent {
					t.Fatalf("after a change of the version: %+v", got)
				}
			}
			if got := s.status().Items[0]; got.VMs != (api.VMCounts{Total: 2, Current: 2}) {
				t.Errorf("after a change of the version: %+v", got)
			}
		})
	}
}

// VMs of one pod have several addresses, those of proxies, through any of which a VM
// may ask next. All count, and none raises an alarm.
func TestVMsWithSeveralAddresses(t *testing.T) {
	// The proxies of a mesh have one address for all.
	s := newStage(t)
	for i := range 3 {
		s.client("127.0.0.6", uint64(i+1)).starts("a", string(rune('1'+i)), "new")
	}
	s.expect(want{api.FilterCurrent, api.VMCounts{Total: 3, Current: 3}, "new", 0, "a", ""})

	s, first := ofPod(t)
	second := s.client("10.0.0.2", 2)
	for range 5 {
		first.ask("a", "1", "new").Answered("", 0)
		for range 9 { // Its first waits are short.
			second.ask("b", "1", "new").Answered("", 0)
			s.advance(time.Second)
			if status := s.status(); status.Current != 1 || status.Items[0].VMs.Total != 1 {
				t.Fatalf("on its way to another proxy: %+v", status)
			}
		}
		second.round("b", "1", "new")
		first, second = second, first
		first.connection, second.connection = first.connection+10, second.connection+10
	}

	// One VM moves from proxy to proxy, while another stays.
	s = newStage(t)
	moves := s.client("10.0.1.0", 10)
	moves.starts("a", "2", "new").Answered("", 0)
	s.client(podsAddress, 1).starts("a", "1", "new")
	for i := range 10 {
		for range 3 {
			moves.round("a", "2", "new")
		}
		moves.ask("a", "2", "old")
		s.expect(want{api.FilterBehind, api.VMCounts{Total: 2, Current: 1, Behind: 1}, "old", 0, "a", "1 of 2 VMs with other policies .*"})
		moves.ask("a", "2", "new").Left()
		s.advance(DefaultGrace + time.Second)
		moves = s.client(fmt.Sprint("10.0.1.", 1+i%3), uint64(11+i))
		moves.ask("a", "2", "new").Answered("", 0)
	}
}
