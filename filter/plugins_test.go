package main

import (
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
)

// inPlugin sends a request through a plugin context and returns its status.
func (h *host) inPlugin(plugin uint32, agent string) int {
	h.t.Helper()
	id := h.InitializeHttpContext()
	defer h.CompleteHttpContext(id)
	h.vm.startStream(id, plugin) // The emulator knows only the first plugin context.
	h.CallOnRequestHeaders(id, [][2]string{{":method", "GET"}, {":path", "/"}, {"user-agent", agent}}, true)
	if response := h.GetSentLocalResponse(id); response != nil {
		return int(response.StatusCode)
	}
	return 200
}

func (h *host) gauge(name string) uint64 {
	h.t.Helper()
	value, err := h.GetGaugeMetric(name)
	if err != nil {
		h.t.Fatal(err)
	}
	return value
}

// TestPluginContextsKeepTheirSettings checks that plugin contexts of a VM with equal sources share
// a poller, which outlives the one that it is in, and that each stream has its own settings.
func TestPluginContextsKeepTheirSettings(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.update("a", 503)
	waiting := h.InitializeHttpContext() // a stream that waits in a filter before this one

	probes := h.vm.plugins[0].config
	probes.FaultProbes = true
	h.vm.addPlugin(2, probes)
	if h.vm.plugins[1].poll != h.poll() || h.poll().in != 2 || h.vm.state() != stateActive+stateMixed {
		t.Errorf("poller in %d, state %d", h.poll().in, h.vm.state())
	}
	for plugin, want := range map[uint32]int{1: 200, 2: 503} {
		if got := h.inPlugin(plugin, "kube-probe/1.37"); got != want {
			t.Errorf("a probe in plugin context %d has status %d, want %d", plugin, got, want)
		}
		if got := h.inPlugin(plugin, "curl/8"); got != 503 {
			t.Errorf("a request in plugin context %d has status %d", plugin, got)
		}
	}
	h.CallOnRequestHeaders(waiting, [][2]string{{":method", "GET"}, {":path", "/"}, {"user-agent", "kube-probe/1.37"}}, true)
	if h.GetSentLocalResponse(waiting) != nil {
		t.Error("a probe that came before the second plugin context is aborted")
	}
	h.CompleteHttpContext(waiting)

	open := h.InitializeHttpContext()
	h.vm.stopPlugin(2)
	if h.poll().in != 1 || h.vm.state() != stateActive+stateMixed {
		t.Errorf("after a stop, poller in %d, state %d", h.poll().in, h.vm.state())
	}
	h.CompleteHttpContext(open)
	if h.vm.state() != stateActive || len(h.vm.owners) != 0 {
		t.Errorf("state %d, %d owners", h.vm.state(), len(h.vm.owners))
	}
	h.mustGet(503)
	h.vm.stopPlugin(1)
	if h.vm.state() != 0 || len(h.vm.plugins) != 0 {
		t.Errorf("state %d, %d plugin contexts", h.vm.state(), len(h.vm.plugins))
	}
}

// TestPluginContextsHaveTheirOwnPolicies checks that plugin contexts with different sources do not
// share policies, and do not make each other's stale.
func TestPluginContextsHaveTheirOwnPolicies(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.update("a", 503)
	other := h.vm.plugins[0].config
	other.Cluster, other.StaleAfter = "other", time.Minute
	h.vm.addPlugin(2, other)
	second := h.vm.plugins[1].poll
	if h.inPlugin(2, "curl/8") != 200 || h.inPlugin(1, "curl/8") != 503 {
		t.Error("plugin contexts with different control planes have the same policies")
	}
	second.enforce(h.poll().program)
	second.tag, second.confirmedAt = `"b"`, h.at
	if h.inPlugin(2, "curl/8") != 503 {
		t.Error("no policies in the second plugin context")
	}
	h.at = h.at.Add(time.Minute)
	h.vm.tick(2)
	if h.inPlugin(2, "curl/8") != 200 || h.inPlugin(1, "curl/8") != 503 || h.gauge(metricStale) != 1 || h.gauge(metricPolicies) != 1 {
		t.Errorf("with stale policies in one of two: %s is %d, %s is %d", metricStale, h.gauge(metricStale), metricPolicies, h.gauge(metricPolicies))
	}
	h.vm.stopPlugin(2)
	if h.gauge(metricStale) != 0 || h.inPlugin(1, "curl/8") != 503 {
		t.Errorf("without the plugin context whose policies were stale: %s is %d", metricStale, h.gauge(metricStale))
	}
}

// TestIdleDirectionsCostNothing checks that the filter needs no callback for streams while no policy is in
// force, though a VM has plugin contexts for both directions. A stream that begins then has no known plugin
// context, so it gets no fault of another one.
func TestIdleDirectionsCostNothing(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	before := h.InitializeHttpContext()
	enforce := func(policies string) {
		t.Helper()
		read, err := program.Read([]byte(compile(t, `{"policies":[`+policies+`]}`)), h.poll().workload())
		if err != nil {
			t.Fatal(err)
		}
		h.poll().enforce(read)
	}
	const abort = `{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"abort":{"status":503}}}]}}`
	outbound := h.vm.plugins[0].config
	outbound.Outbound = true
	h.vm.addPlugin(2, outbound)
	waits := h.InitializeHttpContext()
	h.vm.startStream(waits, 2)
	if h.vm.state() != 0 || len(h.vm.owners) != 0 {
		t.Errorf("without policies, the state is %d, with %d owners", h.vm.state(), len(h.vm.owners))
	}
	enforce(abort)
	if h.vm.state() != stateActive+stateMixed {
		t.Errorf("with policies, the state is %d", h.vm.state())
	}
	for _, id := range []uint32{before, waits} {
		h.CallOnRequestHeaders(id, [][2]string{{":method", "GET"}, {":path", "/"}}, true)
		if h.GetSentLocalResponse(id) != nil {
			t.Error("a request whose plugin context is not known is aborted")
		}
		h.CompleteHttpContext(id)
	}
	if h.inPlugin(1, "curl/8") != 503 || h.inPlugin(2, "curl/8") != 200 {
		t.Error("the policy for inbound requests is not in force for these alone")
	}
	open := h.InitializeHttpContext()
	h.vm.startStream(open, 2)
	enforce("")
	if h.inPlugin(1, "curl/8") != 200 || h.vm.state() != stateMixed || len(h.vm.owners) != 1 {
		t.Errorf("with a stream of before, the state is %d, with %d owners", h.vm.state(), len(h.vm.owners))
	}
	h.CompleteHttpContext(open)
	if h.vm.state() != 0 {
		t.Errorf("after its end, the state is %d", h.vm.state())
	}
	h.vm.stopPlugin(2)
	enforce(abort)
	if h.vm.state() != stateActive || h.status() != 503 {
		t.Errorf("with one plugin context, the state is %d, and a request has no fault", h.vm.state())
	}
}

// TestEveryRequestSaysWhyAPluginIsRefused checks that a VM with a plugin context that injects nothing says
// so in the requests for its others too: to the daemon, the VM is one.
func TestEveryRequestSaysWhyAPluginIsRefused(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	if request := h.request(); request["x-hfi-error"] != "" {
		t.Errorf("the first request is %q", request)
	}
	refused := h.vm.plugins[0].config
	refused.refuse("a setting is wrong")
	h.vm.addPlugin(2, refused)
	h.update("a", 503)
	if request := h.request(); request["x-hfi-error"] != "a setting is wrong" || request["if-none-match"] != `"a"` {
		t.Errorf("with a second plugin context that is refused, the request is %q", request)
	}
	if h.inPlugin(1, "curl/8") != 503 || h.inPlugin(2, "curl/8") != 200 {
		t.Error("not the refused plugin context alone has no policies in force")
	}
	h.vm.stopPlugin(2)
	h.update("b", 503)
	if request := h.request(); request["x-hfi-error"] != "" {
		t.Errorf("after its end, the request is %q", request)
	}
}

// TestGatewaysOfOneVMHaveTheirOwnPolicies checks that plugin contexts for different gateways share
// no policies, neither in the VM nor among the VMs of the Envoy.
func TestGatewaysOfOneVMHaveTheirOwnPolicies(t *testing.T) {
	h := start(t, `{"control_plane_cluster": "hfi", "gateway": "a", "namespace": "n"}`, map[string]string{"id": "n"})
	h.pass(time.Second)
	for i, change := range []func(*config){
		func(c *config) { c.Gateway = "b" },
		func(c *config) { c.Namespace = "m" },
		func(c *config) { c.Gateway = "" },
	} {
		other := h.vm.plugins[0].config
		change(&other)
		h.vm.addPlugin(uint32(i+2), other)
		added := h.vm.plugins[i+1].poll
		for _, before := range h.vm.plugins[:i+1] {
			if before.poll == added || before.poll.share.name("group") == added.share.name("group") {
				t.Errorf("%+v and %+v share a poller", before.config.source, other.source)
			}
		}
	}
}
