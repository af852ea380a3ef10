package http

import (
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/schema"
)

// onItsOwn is the same daemon for a client that shares no connection with another.
func (d *daemon) onItsOwn() *daemon {
	transport := &http.Transport{MaxIdleConnsPerHost: 1}
	d.t.Cleanup(transport.CloseIdleConnections)
	other := *d
	other.client = &http.Client{Transport: transport, Timeout: d.client.Timeout}
	return &other
}

const frontendAsks = "GET /v1/policies?service=frontend&namespace=demo"

// One request in a VM's name, with the present ETag, does not make a VM that
// is behind current, whether that VM waits or not. One that has stopped asking
// is behind, not silent, for as long as the request may be of it.
func TestOneRequestInAVMsNameMakesNothingCurrent(t *testing.T) {
	d := start(t, func(s *Server) { s.fleet.Grace = 2 * time.Second })
	d.serve(stateOf(1, exampleSet()))
	vm, impersonator := d.onItsOwn(), d.onItsOwn()
	headers := vmHeaders("frontend-a", "1")
	tag := vm.ask(frontendAsks, headers...).expect(t, 200).header.Get("ETag")
	ask := func(wait string) {
		t.Helper()
		vm.ask(frontendAsks+"&wait="+wait, append(headers, "If-None-Match", tag)...).expect(t, 304)
	}
	ask("1ms")
	d.serve(stateOf(2, exampleSet().With([]*schema.Entry{entry("front-demo", "frontend", "demo", 777)}, nil)))
	// It is given the new policies, and does not apply them.
	stays := func() {
		t.Helper()
		vm.ask(frontendAsks, append(headers, "If-None-Match", tag)...).expect(t, 200)
	}
	stays()
	d.awaitFilters(0, 1, 0)
	present := d.ask(frontendAsks).header.Get("ETag")
	for range 3 {
		stays()
		impersonator.onItsOwn().ask(frontendAsks+"&wait=1ms", append(headers, "If-None-Match", present)...).expect(t, 304)
		if status := d.filterStatus(); status.Current != 0 || status.Behind != 1 {
			t.Fatalf("after an impersonated request: %+v", status)
		}
	}
	d.awaitFilters(0, 0, 1)
	impersonator.onItsOwn().ask(frontendAsks+"&wait=1ms", append(headers, "If-None-Match", present)...).expect(t, 304)
	// It may be that VM, on another connection.
	if status := d.filterStatus(); status.Current != 0 || status.Behind != 1 || status.Silent != 0 {
		t.Errorf("after an impersonated request in the name of a VM that stopped: %+v", status)
	}
	d.awaitFilters(0, 0, 1)
	// The VM itself, on another connection, is confirmed by its second request.
	again := d.onItsOwn()
	for range 2 {
		again.ask(frontendAsks+"&wait=1ms", append(headers, "If-None-Match", present)...).expect(t, 304)
	}
	if status := d.filterStatus(); status.Current != 1 {
		t.Errorf("the VM is back: %+v", status)
	}
}

// An invented VM or pod raises no alarm, and is forgotten as
// soon as it stops asking; it does not count beside confirmed VMs.
func TestInventedVMsRaiseNoAlarm(t *testing.T) {
	d := start(t, func(s *Server) { s.fleet.Grace = 300 * time.Millisecond })
	d.serve(stateOf(1, exampleSet()))
	runVM(t, "frontend-a", "1", "20s", d.onItsOwn())
	d.awaitFilters(1, 0, 0)
	tag := d.ask(frontendAsks).header.Get("ETag")
	for _, headers := range [][]string{
		append(vmHeaders("frontend-a", "invented"), "If-None-Match", tag), append(vmHeaders("frontend-a", "invented, too"), "If-None-Match", `"v1:old"`),
	} {
		d.onItsOwn().ask(frontendAsks+"&wait=1ms", headers...)
		if status := d.filterStatus(); status.Current != 1 || status.Items[0].VMs.Total != 1 {
			t.Errorf("an invented VM of a pod that has another: %+v", status)
		}
	}
	d.onItsOwn().ask(frontendAsks+"&wait=1ms", append(vmHeaders("frontend-invented", "1"), "If-None-Match", tag)...).expect(t, 304)
	testtool.Eventually(t, "the invented pod is forgotten", func() bool {
		status := d.filterStatus()
		if status.Silent > 0 {
			t.Fatalf("an alarm: %+v", status)
		}
		return status.Connected == 1
	})
	// Two requests on one connection are no proof either: a VM applies what it gets.
	persistent := d.onItsOwn()
	for range 2 {
		persistent.ask(frontendAsks+"&wait=1ms", append(vmHeaders("frontend-persistent", "1"), "If-None-Match", tag)...).expect(t, 304)
	}
	testtool.Eventually(t, "the persistent pod is forgotten", func() bool {
		status := d.filterStatus()
		if status.Silent > 0 {
			t.Fatalf("an alarm: %+v", status)
		}
		return status.Connected == 1
	})
}

// Requests in a pod's name that go on like those of a filter, but come from
// another address and began later, change nothing.
func TestRequestsFromAnotherAddressDoNotCount(t *testing.T) {
	d := start(t, func(s *Server) { s.fleet.SettleTime = time.Millisecond })
	d.serve(stateOf(1, exampleSet()))
	runVM(t, "frontend-a", "1", "20s", d.onItsOwn())
	d.awaitFilters(1, 0, 0)
	current := time.Now()
	testtool.Eventually(t, "it is clear who was first", func() bool { return time.Since(current) > 10*d.fleet.SettleTime })
	impersonator := d.onItsOwn()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	impersonator.client.Transport.(*http.Transport).DialContext = dialer.DialContext
	for range 3 {
		impersonator.ask(frontendAsks, append(vmHeaders("frontend-a", "2"), "If-None-Match", `"v1:old"`)...).expect(t, 200)
		status := d.filterStatus()
		if status.Current != 1 || status.Items[0].VMs.Total != 1 {
			t.Fatalf("after an impersonator's request: %+v", status)
		}
	}
	if message := d.filterStatus().Items[0].Message; message != "requests in its name from 127.0.0.9 do not count, because it asks from 127.0.0.1" {
		t.Errorf("the message is %q", message)
	}
}

// The first request of a VM on a connection is answered soon, so that it has
// asked twice there before it is missed where it asked before.
func TestTheFirstWaitOnAConnectionIsShort(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(1, exampleSet()))
	tag := d.ask(frontendAsks).header.Get("ETag")
	vm := d.onItsOwn()
	began := time.Now()
	headers := append(vmHeaders("frontend-a", "1"), "If-None-Match", tag)
	vm.ask(frontendAsks+"&wait=20s", headers...).expect(t, 304)
	if took := time.Since(began); took >= d.fleet.Grace {
		t.Errorf("its first wait took %s, and the grace is %s", took, d.fleet.Grace)
	}
	waits := vm.begin(frontendAsks+"&wait=20s", headers...)
	d.waiting(1)
	d.serve(stateOf(2, schema.NewSet()))
	vm.await(waits).expect(t, 200)
}

// A pod that the cluster does not have is marked, and does not count.
func TestUnknownPodsDoNotCount(t *testing.T) {
	d := start(t, func(s *Server) {
		s.fleet.Pods = func() (exist func(namespace, pod string) bool, known bool) {
			return func(namespace, pod string) bool { return namespace == "demo" && pod == "frontend-a" }, true
		}
	})
	d.serve(stateOf(1, exampleSet()))
	runVM(t, "frontend-a", "1", "20s", d.onItsOwn())
	runVM(t, "frontend-invented", "1", "20s", d.onItsOwn())
	testtool.Within(t, testtool.WaitLimit, "one filter counts, and one is unknown", func() error {
		status := d.filterStatus()
		if status.Connected != 1 || status.Current != 1 || status.Unknown != 1 || len(status.Items) != 2 || status.Items[1].State != api.FilterUnknown ||
			status.Items[1].Message == "" {
			return fmt.Errorf("got %+v", status)
		}
		return nil
	})
}
