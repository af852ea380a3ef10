package envoy

import (
	"net/http"
	"strings"
	"time"
)

// oracleCase is a fault, a request, and whether the fault applies to the request.
type oracleCase struct {
	// name is also the policy's name, and the first segment of the path.
	name    string
	fault   oracleFault
	request oracleRequest
	// spared means that the fault does not apply to the request.
	spared bool
	// only is set where, by design, just one filter acts: native or ours. why is the
	// reason. Nothing else is compared then.
	only, why string
	// cluster, timeout and direct configure the route, as in envoytest.Route.
	cluster string
	timeout time.Duration
	direct  int
	// script replaces (*oracleSide).ask.
	script func(*oracleSide) error
	// limit bounds the wait for the access log; 0 means WaitLimit.
	limit time.Duration
	// races has the facts that depend on timing with either filter, each with the reason.
	races map[string]string
}

// acts reports whether a filter acts on the case's request.
func (c *oracleCase) acts(side string) bool {
	return !c.spared && (c.only == "" || c.only == side) && c.fault.ppm > 0
}

// oracleWait is the delay of most cases.
const oracleWait = 150 * time.Millisecond

var (
	oraclePost     = oracleRequest{method: "POST", body: "a small body"}
	oracleBig      = oracleRequest{method: "POST", body: strings.Repeat("0123456789abcdef", 1<<16)} // 1 MiB
	oracleUpload   = oracleRequest{method: "POST", body: strings.Repeat("piece ", 1000), pieces: 6} // longer than oracleWait
	oracleGRPC     = oracleRequest{method: "POST", path: "Method", http2: true, body: "\x00\x00\x00\x00\x05hello", header: http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}}
	oracleH2       = oracleRequest{http2: true}
	oracleTrailers = http.Header{"X-Checksum": {"abc"}}
)

// oracleWith is a GET request with headers, each given as "name: value".
func oracleWith(headers ...string) oracleRequest {
	header := make(http.Header)
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		header.Add(name, value)
	}
	return oracleRequest{header: header}
}

// overHTTP2 is the same request over HTTP/2.
func (r oracleRequest) overHTTP2() oracleRequest { r.http2 = true; return r }

// by is the same request with another method.
func (r oracleRequest) by(method string) oracleRequest { r.method = method; return r }

// to is the same request with another path below the case's prefix.
func (r oracleRequest) to(path string) oracleRequest { r.path = path; return r }

// trailing is the same request with trailers.
func (r oracleRequest) trailing(trailer http.Header) oracleRequest { r.trailer = trailer; return r }

// oracleCases are compared with one request and a second one on its connection,
// unless there is a script.
var oracleCases = []oracleCase{
	// Aborts by HTTP status.
	{name: "abort-200", fault: oracleAbort(200)},
	{name: "abort-204", fault: oracleAbort(204), script: (*oracleSide).askBare},
	{name: "abort-204-body", fault: oracleFault{status: 204, body: "fault filter abort", ppm: 1_000_000}, script: (*oracleSide).askBare},
	{name: "abort-301", fault: oracleAbort(301)},
	{name: "abort-304", fault: oracleAbort(304), script: (*oracleSide).askBare},
	{name: "abort-304-body", fault: oracleFault{status: 304, body: "fault filter abort", ppm: 1_000_000}, script: (*oracleSide).askBare},
	{name: "abort-404", fault: oracleAbort(404)},
	{name: "abort-429", fault: oracleAbort(429)},
	{name: "abort-500", fault: oracleAbort(500)},
	{name: "abort-503", fault: oracleAbort(503)},
	{name: "abort-599", fault: oracleAbort(599)},
	{name: "abort-same-body", fault: oracleFault{status: 503, body: "fault filter abort", ppm: 1_000_000}},
	{name: "abort-head", fault: oracleAbort(503), request: oracleRequest{method: "HEAD"}},
	{name: "abort-head-204", fault: oracleAbort(204), request: oracleRequest{method: "HEAD"}},
	{name: "abort-options", fault: oracleAbort(503), request: oracleRequest{method: "OPTIONS"}},
	{name: "abort-own-method", fault: oracleAbort(503), request: oracleRequest{method: "PURGE"}},
	{name: "abort-post", fault: oracleAbort(503), request: oraclePost},
	{name: "abort-big-post", fault: oracleAbort(503), request: oracleBig, races: oracleUploadRaces, script: (*oracleSide).askRaw},
	{name: "abort-half-sent", fault: oracleAbort(503), script: (*oracleSide).askHalf},
	{name: "abort-close", fault: oracleAbort(503), request: oracleWith("Connection: close")},
	{name: "abort-big-header", fault: oracleAbort(503), request: oracleWith("X-Big: " + strings.Repeat("x", 40<<10))},
	{name: "abort-h2", fault: oracleAbort(503), request: oracleH2},
	{name: "abort-h2-204", fault: oracleAbort(204), request: oracleH2},
	{name: "abort-h2-head", fault: oracleAbort(404), request: oracleH2.by("HEAD")},
	{name: "abort-h2-post", fault: oracleAbort(429), request: oraclePost.overHTTP2()},
	{name: "abort-pipelined", fault: oracleAbort(503), script: (*oracleSide).askPipelined},
	{name: "abort-upstream-down", fault: oracleAbort(404), cluster: "down"},
	{name: "abort-expect", fault: oracleAbort(503), request: oracleRequest{method: "POST", body: "body", header: http.Header{"Expect": {"100-continue"}}}},

	// Aborts by gRPC status, and of gRPC requests.
	{name: "grpc-1", fault: oracleAbortGRPC(1), request: oracleGRPC},
	{name: "grpc-4", fault: oracleAbortGRPC(4), request: oracleGRPC},
	{name: "grpc-5", fault: oracleAbortGRPC(5), request: oracleGRPC},
	{name: "grpc-7", fault: oracleAbortGRPC(7), request: oracleGRPC},
	{name: "grpc-14", fault: oracleAbortGRPC(14), request: oracleGRPC},
	{name: "grpc-16", fault: oracleAbortGRPC(16), request: oracleGRPC},
	{name: "grpc-same-body", fault: oracleFault{grpc: 14, body: "fault filter abort", ppm: 1_000_000}, request: oracleGRPC},
	{name: "grpc-1-plain", fault: oracleAbortGRPC(1)},
	{name: "grpc-2-plain", fault: oracleAbortGRPC(2)},
	{name: "grpc-5-plain", fault: oracleAbortGRPC(5)},
	{name: "grpc-8-plain", fault: oracleAbortGRPC(8)},
	{name: "grpc-12-plain-h2", fault: oracleAbortGRPC(12), request: oracleH2},
	{name: "grpc-14-plain", fault: oracleAbortGRPC(14)},
	{name: "grpc-16-plain", fault: oracleAbortGRPC(16)},
	{name: "grpc-by-404", fault: oracleAbort(404), request: oracleGRPC},
	{name: "grpc-by-429", fault: oracleAbort(429), request: oracleGRPC},
	{name: "grpc-by-503", fault: oracleAbort(503), request: oracleGRPC},
	{name: "grpc-delayed", fault: oracleDelay(oracleWait), request: oracleGRPC},
	{name: "grpc-both", fault: oracleFault{grpc: 8, delay: oracleWait, ppm: 1_000_000}, request: oracleGRPC},
	{name: "grpc-none", fault: oracleAbortGRPC(14).share(0), request: oracleGRPC, spared: true},

	// Delays: after them, everything is as without them.
	{name: "delay", fault: oracleDelay(oracleWait)},
	{name: "delay-1-ms", fault: oracleDelay(time.Millisecond)},
	{name: "delay-head", fault: oracleDelay(oracleWait), request: oracleRequest{method: "HEAD"}},
	{name: "delay-404", fault: oracleDelay(oracleWait), request: oracleRequest{path: "?status=404"}},
	{name: "delay-post", fault: oracleDelay(oracleWait), request: oraclePost},
	{name: "delay-big-post", fault: oracleDelay(oracleWait), request: oracleBig},
	{name: "delay-upload", fault: oracleDelay(oracleWait), request: oracleUpload},
	{name: "delay-upload-inside", fault: oracleDelay(4 * oracleWait), request: oracleUpload},
	{name: "delay-expect", fault: oracleDelay(oracleWait), request: oracleRequest{method: "POST", body: "body", header: http.Header{"Expect": {"100-continue"}}}},
	{name: "delay-upgrade", fault: oracleDelay(oracleWait), request: oracleWith("Connection: Upgrade", "Upgrade: websocket", "Sec-Websocket-Version: 13", "Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), spared: true},
	{name: "delay-lines", fault: oracleDelay(oracleWait), request: oracleRequest{path: "?lines=4"}},
	{name: "delay-h2", fault: oracleDelay(oracleWait), request: oracleH2},
	{name: "delay-h2-big-post", fault: oracleDelay(oracleWait), request: oracleBig.overHTTP2()},
	{name: "delay-h2-upload", fault: oracleDelay(oracleWait), request: oracleUpload.overHTTP2()},
	{name: "delay-h2-trailers", fault: oracleDelay(oracleWait), request: oraclePost.overHTTP2().trailing(oracleTrailers)},
	{name: "delay-h2-upload-trailers", fault: oracleDelay(2 * oracleWait), request: oracleUpload.overHTTP2().trailing(oracleTrailers)},
	{name: "delay-h2-lines", fault: oracleDelay(oracleWait), request: oracleH2.to("?lines=4")},
	{name: "delay-pipelined", fault: oracleDelay(oracleWait), script: (*oracleSide).askPipelined},
	{name: "delay-beyond-timeout", fault: oracleDelay(600 * time.Millisecond), timeout: 400 * time.Millisecond, request: oracleRequest{path: "?slow=50ms"}},
	{name: "delay-then-timeout", fault: oracleDelay(oracleWait), timeout: 300 * time.Millisecond, request: oracleRequest{path: "?slow=1m"}},
	{name: "delay-upstream-down", fault: oracleDelay(oracleWait), cluster: "down"},
	{name: "delay-direct", fault: oracleDelay(oracleWait), direct: 204},

	// Both.
	{name: "both", fault: oracleDelay(oracleWait).thenAbort(503)},
	{name: "both-head", fault: oracleDelay(oracleWait).thenAbort(503), request: oracleRequest{method: "HEAD"}},
	{name: "both-post", fault: oracleDelay(oracleWait).thenAbort(429), request: oraclePost},
	{name: "both-half-sent", fault: oracleDelay(oracleWait).thenAbort(503), script: (*oracleSide).askHalf},
	{name: "both-pipelined", fault: oracleDelay(oracleWait).thenAbort(503), script: (*oracleSide).askPipelined},
	{name: "both-h2", fault: oracleDelay(oracleWait).thenAbort(404), request: oracleH2},
	{name: "both-h2-post", fault: oracleDelay(oracleWait).thenAbort(503), request: oraclePost.overHTTP2()},
	{name: "both-down", fault: oracleDelay(oracleWait).thenAbort(503), cluster: "down"},

	// No fault at all.
	{name: "none", fault: oracleDelay(time.Hour).thenAbort(503).share(0), spared: true},
	{name: "none-down", fault: oracleAbort(500).share(0), cluster: "down", spared: true},
	{name: "none-h2-upload", fault: oracleAbort(500).share(0), request: oracleUpload.overHTTP2().trailing(oracleTrailers), spared: true},

	// Requests to which a fault applies, and to which it does not.
	{name: "exact", fault: oracleAbort(503).when(oracleHeader{"x-user", "exact", "tester"}), request: oracleWith("X-User: tester")},
	{name: "exact-longer", fault: oracleAbort(503).when(oracleHeader{"x-user", "exact", "tester"}), request: oracleWith("X-User: tester2"), spared: true},
	{name: "exact-case", fault: oracleAbort(503).when(oracleHeader{"x-user", "exact", "tester"}), request: oracleWith("X-User: Tester"), spared: true},
	{name: "exact-missing", fault: oracleAbort(503).when(oracleHeader{"x-user", "exact", "tester"}), spared: true},
	{name: "prefix", fault: oracleAbort(503).when(oracleHeader{"x-user", "prefix", "test"}), request: oracleWith("X-User: tester")},
	{name: "prefix-later", fault: oracleAbort(503).when(oracleHeader{"x-user", "prefix", "test"}), request: oracleWith("X-User: a tester"), spared: true},
	{name: "regex", fault: oracleAbort(503).when(oracleHeader{"x-user", "regex", "te(st|xt)er[0-9]*"}), request: oracleWith("X-User: texter12")},
	{name: "regex-part", fault: oracleAbort(503).when(oracleHeader{"x-user", "regex", "te(st|xt)er[0-9]*"}), request: oracleWith("X-User: texter12x"), spared: true},
	{name: "present", fault: oracleAbort(503).when(oracleHeader{"x-user", "present", ""}), request: oracleWith("X-User: any")},
	{name: "present-empty", fault: oracleAbort(503).when(oracleHeader{"x-user", "present", ""}), request: oracleWith("X-User: ")},
	{name: "present-missing", fault: oracleAbort(503).when(oracleHeader{"x-user", "present", ""}), spared: true},
	{name: "absent", fault: oracleAbort(503).when(oracleHeader{"x-user", "absent", ""})},
	{name: "absent-given", fault: oracleAbort(503).when(oracleHeader{"x-user", "absent", ""}), request: oracleWith("X-User: any"), spared: true},
	{name: "two-values-joined", fault: oracleAbort(503).when(oracleHeader{"x-user", "exact", "a,b"}), request: oracleWith("X-User: a,b")},
	{name: "two-values-present", fault: oracleAbort(503).when(oracleHeader{"x-user", "present", ""}), request: oracleWith("X-User: a", "X-User: b")},
	{name: "two-values-prefix", fault: oracleAbort(503).when(oracleHeader{"x-user", "prefix", "a"}), request: oracleWith("X-User: a", "X-User: b")},
	{name: "two-headers", fault: oracleAbort(503).when(oracleHeader{"x-user", "exact", "a"}, oracleHeader{"x-group", "prefix", "g"}), request: oracleWith("X-User: a", "X-Group: g1")},
	{name: "two-headers-one", fault: oracleAbort(503).when(oracleHeader{"x-user", "exact", "a"}, oracleHeader{"x-group", "prefix", "g"}), request: oracleWith("X-User: a", "X-Group: h1"), spared: true},
	{name: "host", fault: oracleAbort(503).when(oracleHeader{"host", "exact", "oracle.test"})},
	{name: "method", fault: oracleFault{status: 503, ppm: 1_000_000, methods: []string{"PUT", "POST"}}, request: oraclePost},
	{name: "method-other", fault: oracleFault{status: 503, ppm: 1_000_000, methods: []string{"PUT", "POST"}}, spared: true},
	{name: "path", fault: oracleFault{status: 503, ppm: 1_000_000, path: "/path/a"}, request: oracleRequest{path: "a"}},
	{name: "path-other", fault: oracleFault{status: 503, ppm: 1_000_000, path: "/path-other/a"}, request: oracleRequest{path: "a/b"}, spared: true},
	{name: "match-h2", fault: oracleDelay(oracleWait).thenAbort(503).when(oracleHeader{"x-user", "regex", "t.*"}), request: oracleWith("X-User: tester").overHTTP2()},

	// Where by design only one of the two acts.
	{name: "path-query", fault: oracleFault{status: 503, ppm: 1_000_000, path: "/path-query/a"}, request: oracleRequest{path: "a?b=c"}, only: "ours",
		why: "our path is compared without its query, the native filter's :path with it"},
	{name: "two-values", fault: oracleAbort(503).when(oracleHeader{"x-user", "exact", "a,b"}), request: oracleWith("X-User: a", "X-User: b"), only: "ours", why: oracleJoined},
	{name: "two-values-first", fault: oracleAbort(503).when(oracleHeader{"x-user", "exact", "a"}), request: oracleWith("X-User: a", "X-User: b"), only: "native", why: oracleJoined},
	{name: "two-values-last", fault: oracleAbort(503).when(oracleHeader{"x-user", "exact", "b"}), request: oracleWith("X-User: a", "X-User: b"), only: "native", why: oracleJoined},
	{name: "probe", fault: oracleAbort(503), request: oracleWith("User-Agent: kube-probe/1.37"), only: "native",
		why: "our filter does not fault health probes by default: a fault in a probe kills the pod"},
	{name: "own-call", fault: oracleAbort(503), request: oracleRequest{path: "/v1/policies", header: http.Header{"X-Hfi-Vm": {"0123456789abcdef"}}}, only: "native",
		why: "our filter does not fault the requests of filters to the daemon: they bring the end of the policy"},
}

// oracleJoined: both are equivalent by RFC 9110, 5.3, and any proxy on the way may convert one to the other.
const oracleJoined = "several values of a header are compared as one, joined by commas, as if the client had written them so; the native filter compares each"

var oracleUploadRaces = map[string]string{
	"log 0 received": "how much of the body Envoy has read before it answers is a matter of chance",
}
