package envoy

import (
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/envoytest"
)

// An Envoy whose cluster for the daemon has http2_protocol_options, as Istio
// makes it of a port with appProtocol http2, gets its policies and faults requests.
func TestEnvoyAsksByHTTP2(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, map[string]envoytest.Config{"frontend": {
		Node: envoytest.Workload("frontend", "demo", "frontend-1"),
		Clusters: []envoytest.Cluster{
			{Name: "upstream", Address: w.upstream.Address},
			{Name: "daemon", Address: strings.TrimPrefix(w.daemon.URL(), "http://"), HTTP2: true},
		},
		Listeners: []envoytest.Listener{{Filters: []envoytest.Filter{filter(t, settings())}}},
	}})
	w.push(t, `
metadata: {name: by-http2}
spec:
  rules: [{match: {path: {exact: /aborted}}, fault: {abort: {status: 418}}}]`)
	if answer := get(t, client(t, false), w.envoys["frontend"].URL()+"/aborted"); answer.Status != 418 {
		t.Errorf("the daemon speaks HTTP/2: got %d", answer.Status)
	}
	w.daemon.WaitStatus("the filter is current", func(s *api.Status) bool { return s.Filters.Connected == 1 && s.Filters.Current == 1 })
}
