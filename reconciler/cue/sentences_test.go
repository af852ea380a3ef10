package cue

import (
	"slices"
	"testing"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/cuecontext"

	"github.com/boifi/hfi/schema"
)

// inFault returns a policy in YAML with a fault on line 6.
func inFault(text string) string {
	return "metadata:\n  name: p\nspec:\n  rules:\n  - fault:\n      " + text + "\n"
}

func inMatch(text string) string {
	return "metadata:\n  name: p\nspec:\n  rules:\n  - match:\n      " + text + "\n    fault: {delay_ms: 1}\n"
}

// inTo returns an outbound policy in YAML with a destination on line 7.
func inTo(text string) string {
	return "metadata:\n  name: p\nspec:\n  direction: outbound\n  rules:\n  - match:\n      to: " + text + "\n    fault: {delay_ms: 1}\n"
}

func inSpec(text string) string {
	return "metadata:\n  name: p\nspec:\n  rules: [{fault: {delay_ms: 1}}]\n  " + text + "\n"
}

// TestSentences checks the problems reported for a file: each has a place, a field
// and a sentence.
func TestSentences(t *testing.T) {
	tests := []struct {
		text string
		want []string
	}{
		{inSpec("direction: both"), []string{`policies/p.yaml:5:14: spec.direction: direction must be inbound, for the requests that the selected workload receives, or outbound, for those that it sends, not "both"`}},
		{inSpec("direction: Egress"), []string{`policies/p.yaml:5:14: spec.direction: direction must be inbound, for the requests that the selected workload receives, or outbound, for those that it sends, not "Egress"; write outbound`}},
		{inMatch("to: {service: cart}"), []string{`policies/p.yaml:6:7: spec.rules[0].match.to: to is where the selected workload sends a request: write direction: outbound in spec, or remove it`}},
		{inTo("{}"), []string{`policies/p.yaml:7:7: spec.rules[0].match.to: to needs service or namespace, or else host`}},
		{inTo("{service: cart, host: cart}"), []string{`policies/p.yaml:7:7: spec.rules[0].match.to: to needs service or namespace, or else host`}},
		{inTo("cart"), []string{`policies/p.yaml:7:11: spec.rules[0].match.to: to must be a mapping with service and namespace, or with host, not "cart"`}},
		{inTo("{hostname: a}"), []string{
			`policies/p.yaml:7:7: spec.rules[0].match.to: to needs service or namespace, or else host`,
			`policies/p.yaml:7:12: spec.rules[0].match.to.hostname: unknown field "hostname"`,
		}},
		{inTo("{host: https://api.example.com/x}"), []string{`policies/p.yaml:7:18: spec.rules[0].match.to.host: host must be a DNS name in lower case, without a scheme, port and path (wildcards are not supported), not "https://api.example.com/x"; write api.example.com`}},
		{inTo("{host: 'API.example.com:443'}"), []string{`policies/p.yaml:7:18: spec.rules[0].match.to.host: host must be a DNS name in lower case, without a scheme, port and path (wildcards are not supported), not "API.example.com:443"; write api.example.com`}},
		{inTo("{host: '*.example.com'}"), []string{`policies/p.yaml:7:18: spec.rules[0].match.to.host: host must be a DNS name in lower case, without a scheme, port and path (wildcards are not supported), not "*.example.com"`}},
		{inTo("{service: cart.demo}"), []string{`policies/p.yaml:7:21: spec.rules[0].match.to.service: service must be the name of a service, without its namespace and without spaces; omit it to match any, not "cart.demo"; write service: "cart" and namespace: "demo"`}},
		{inTo("{service: api.example.com}"), []string{`policies/p.yaml:7:21: spec.rules[0].match.to.service: service must be the name of a service, without its namespace and without spaces; omit it to match any, not "api.example.com"; for a DNS name write host`}},
		{inTo("{namespace: '*'}"), []string{`policies/p.yaml:7:23: spec.rules[0].match.to.namespace: namespace must be the name of a namespace; omit it to match any, not "*"`}},

		{inFault("{percentage: 150, delay_ms: 1}"), []string{"policies/p.yaml:6:20: spec.rules[0].fault.percentage: percentage must be between 0 and 100, not 150"}},
		{inFault("{percentage: -1, delay_ms: 1}"), []string{"policies/p.yaml:6:20: spec.rules[0].fault.percentage: percentage must be between 0 and 100, not -1"}},
		{inFault("{percentage: 33.33333, delay_ms: 1}"), []string{"policies/p.yaml:6:20: spec.rules[0].fault.percentage: percentage must have at most four decimals, not 33.33333"}},
		{inFault("{percentage: 50%, delay_ms: 1}"), []string{`policies/p.yaml:6:20: spec.rules[0].fault.percentage: percentage must be a number between 0 and 100, not "50%"; write 50`}},
		{inFault("{percentage: 100.0%, delay_ms: 1}"), []string{`policies/p.yaml:6:20: spec.rules[0].fault.percentage: percentage must be a number between 0 and 100, not "100.0%"; write 100.0`}},
		{inFault("{percentage: 100.5%, delay_ms: 1}"), []string{`policies/p.yaml:6:20: spec.rules[0].fault.percentage: percentage must be a number between 0 and 100, not "100.5%"`}},
		{inFault("{percentage: 08%, delay_ms: 1}"), []string{`policies/p.yaml:6:20: spec.rules[0].fault.percentage: percentage must be a number between 0 and 100, not "08%"`}},
		{inFault("{percentage: 0.5%, delay_ms: 1}"), []string{`policies/p.yaml:6:20: spec.rules[0].fault.percentage: percentage must be a number between 0 and 100, not "0.5%"; write 0.5`}},
		{inFault("delay_ms: 5s"), []string{`policies/p.yaml:6:17: spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, not "5s"; write 5000 (milliseconds)`}},
		{inFault("delay_ms: 5.0"), []string{`policies/p.yaml:6:17: spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, not 5.0; write 5 (milliseconds)`}},
		{inFault("delay_ms: 500 ms"), []string{`policies/p.yaml:6:17: spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, not "500 ms"; write 500 (milliseconds)`}},
		{inFault("delay_ms: 0.5s"), []string{`policies/p.yaml:6:17: spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, not "0.5s"; write 500 (milliseconds)`}},
		{inFault("delay_ms: '500'"), []string{`policies/p.yaml:6:17: spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, not "500"; write 500 (milliseconds)`}},
		{inFault("delay_ms: 0.5"), []string{`policies/p.yaml:6:17: spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, not 0.5; the unit is milliseconds`}},
		{inFault("delay_ms: 2h"), []string{`policies/p.yaml:6:17: spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, not "2h"; the unit is milliseconds`}},
		{inFault("delay_ms: 5\n      delay_ms: 7"), []string{`policies/p.yaml:7:7: spec.rules[0].fault.delay_ms: delay_ms is already on line 6, with another value; remove one of them`}},
		{inFault("{delay_ms: 5, delay_ms: 7, delay: 1}"), []string{
			`policies/p.yaml:6:21: spec.rules[0].fault.delay_ms: delay_ms is already on line 6, with another value; remove one of them`,
			`policies/p.yaml:6:34: spec.rules[0].fault.delay: unknown field "delay"; did you mean "delay_ms"?`,
		}},
		{inFault("{delay_ms: 16, delay_ms: 0x10, delay: 1}"), []string{`policies/p.yaml:6:38: spec.rules[0].fault.delay: unknown field "delay"; did you mean "delay_ms"?`}},
		{inFault("{delay_ms: 5, delay_ms: 5, delay: 1}"), []string{`policies/p.yaml:6:34: spec.rules[0].fault.delay: unknown field "delay"; did you mean "delay_ms"?`}},
		{inFault("delay_ms: 0"), []string{`policies/p.yaml:6:17: spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, not 0`}},
		{inFault("delay_ms: 3600001"), []string{`policies/p.yaml:6:17: spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, not 3600001`}},
		{inFault("delay_ms:"), []string{`policies/p.yaml:6:16: spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, not empty (null)`}},
		{inFault("delay_ms: .inf"), []string{`policies/p.yaml:6:17: spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, not +Inf`}},
		{inFault("{delay: 5, delay_ms: 1}"), []string{`policies/p.yaml:6:8: spec.rules[0].fault.delay: unknown field "delay"; did you mean "delay_ms"?`}},
		{inFault("delay: 5"), []string{
			`policies/p.yaml:5:5: spec.rules[0].fault: fault needs delay_ms or abort`,
			`policies/p.yaml:6:7: spec.rules[0].fault.delay: unknown field "delay"; did you mean "delay_ms"?`,
		}},
		{inFault("{percent: 5, delayMs: 1, Abort: {}}"), []string{
			`policies/p.yaml:5:5: spec.rules[0].fault: fault needs delay_ms or abort`,
			`policies/p.yaml:6:8: spec.rules[0].fault.percent: unknown field "percent"; did you mean "percentage"?`,
			`policies/p.yaml:6:20: spec.rules[0].fault.delayMs: unknown field "delayMs"; did you mean "delay_ms"?`,
			`policies/p.yaml:6:32: spec.rules[0].fault.Abort: unknown field "Abort"; did you mean "abort"?`,
		}},
		{inFault("percentage: 5"), []string{`policies/p.yaml:5:5: spec.rules[0].fault: fault needs delay_ms or abort`}},
		{inFault("abort: {}"), []string{`policies/p.yaml:6:7: spec.rules[0].fault.abort: abort needs exactly one of status and grpc_status`}},
		{inFault("abort: 503"), []string{`policies/p.yaml:6:14: spec.rules[0].fault.abort: abort must be a mapping with status or grpc_status, not 503`}},
		{inFault("abort: {status: 503, grpc_status: 14}"), []string{`policies/p.yaml:6:7: spec.rules[0].fault.abort: abort needs exactly one of status and grpc_status`}},
		{inFault("abort: {status: 100}"), []string{`policies/p.yaml:6:23: spec.rules[0].fault.abort.status: status must be a whole number from 200 to 599, not 100`}},
		{inFault("abort: {status: '503'}"), []string{`policies/p.yaml:6:23: spec.rules[0].fault.abort.status: status must be a whole number from 200 to 599, not "503"; write 503 without quotes`}},
		{inFault("abort: {grpc_status: 17}"), []string{`policies/p.yaml:6:28: spec.rules[0].fault.abort.grpc_status: grpc_status must be a whole number from 0 to 16, not 17`}},
		{inFault("abort: {grpc_status: UNAVAILABLE}"), []string{`policies/p.yaml:6:28: spec.rules[0].fault.abort.grpc_status: grpc_status must be a whole number from 0 to 16, not "UNAVAILABLE"; write 14`}},
		{inFault("abort: {status: 503, body: {error: 1}}"), []string{`policies/p.yaml:6:28: spec.rules[0].fault.abort.body: body must be a string, not a mapping`}},
		{inFault("abort: {status: 503, body: " + rep("x", 4097) + "}"), []string{`policies/p.yaml:6:34: spec.rules[0].fault.abort.body: body must have at most 4096 characters`}},
		{inFault("abort: {status: 503, headers: {a b: x}}"), []string{`policies/p.yaml:6:38: spec.rules[0].fault.abort.headers["a b"]: "a b" is not a valid header name: use at most 128 letters, digits and hyphens, without spaces and colons`}},
		{inFault("abort: {status: 503, headers: {Te: trailers}}"), []string{`policies/p.yaml:6:38: spec.rules[0].fault.abort.headers.Te: an abort must not have the header "Te": it concerns the connection, and HTTP/2 forbids it in a response`}},
		{inFault("abort: {status: 503, headers: {retry: 5}}"), []string{`policies/p.yaml:6:45: spec.rules[0].fault.abort.headers.retry: the value of header "retry" must be a string on one line, without control characters, not 5`}},
		{inFault(`abort: {status: 503, headers: {X-A: "a\nb"}}`), []string{`policies/p.yaml:6:43: spec.rules[0].fault.abort.headers["X-A"]: the value of header "X-A" must be a string on one line, without control characters, not "a\nb"`}},
		{inFault(`abort: {status: 503, headers: {X-A: a, x-a: b}}`), []string{`policies/p.yaml:6:28: spec.rules[0].fault.abort.headers: headers must have each name once; header names are not case-sensitive`}},
		{inFault("abort: {status: 503, headers: {" + headers(33) + "}}"), []string{`policies/p.yaml:6:28: spec.rules[0].fault.abort.headers: headers must have at most 32 headers`}},
		{inFault("[]"), []string{`policies/p.yaml:5:5: spec.rules[0].fault: fault must be a mapping with delay_ms, abort or both, not a list`}},

		{inMatch("path: /a"), []string{`policies/p.yaml:6:13: spec.rules[0].match.path: path must be a mapping with one of exact, prefix and regex, not "/a"`}},
		{inMatch("path: {}"), []string{`policies/p.yaml:6:7: spec.rules[0].match.path: path needs exactly one of exact, prefix and regex`}},
		{inMatch("path: {exact: /a, regex: /b}"), []string{`policies/p.yaml:6:7: spec.rules[0].match.path: path needs exactly one of exact, prefix and regex`}},
		{inMatch("path: {suffix: /a}"), []string{
			`policies/p.yaml:6:7: spec.rules[0].match.path: path needs exactly one of exact, prefix and regex`,
			`policies/p.yaml:6:14: spec.rules[0].match.path.suffix: unknown field "suffix"`,
		}},
		{inMatch("path: {exact: /a, sufix: /a}"), []string{`policies/p.yaml:6:25: spec.rules[0].match.path.sufix: unknown field "sufix"`}},
		{inMatch("path: {regex: '('}"), []string{`policies/p.yaml:6:21: spec.rules[0].match.path.regex: regex must be a regular expression in RE2 syntax, not "("; missing closing ): "("`}},
		{inMatch("path: {regex: '/(?!health).*'}"), []string{`policies/p.yaml:6:21: spec.rules[0].match.path.regex: regex must be a regular expression in RE2 syntax, not "/(?!health).*"; RE2 has no lookahead`}},
		{inMatch("path: {regex: '*.html'}"), []string{`policies/p.yaml:6:21: spec.rules[0].match.path.regex: regex must be a regular expression in RE2 syntax, not "*.html"; missing argument to repetition operator: "*"`}},
		{inMatch("methods: [get]"), []string{`policies/p.yaml:6:17: spec.rules[0].match.methods[0]: this item of methods must be an HTTP method in upper case, such as GET, not "get"; write "GET"`}},
		{inMatch("methods: []"), []string{`policies/p.yaml:6:7: spec.rules[0].match.methods: methods must have at least one method; omit it to match any method`}},
		{inMatch("methods: GET"), []string{`policies/p.yaml:6:16: spec.rules[0].match.methods: methods must be a list of methods, not "GET"`}},
		{inMatch("method: GET"), []string{`policies/p.yaml:6:7: spec.rules[0].match.method: unknown field "method"; did you mean "methods"?`}},
		{inMatch("headers: [{name: x}]"), []string{`policies/p.yaml:6:17: spec.rules[0].match.headers[0]: this item of headers needs exactly one of exact, prefix, regex and present`}},
		{inMatch("headers: [{exact: x}]"), []string{`policies/p.yaml:6:17: spec.rules[0].match.headers[0].name: name is missing`}},
		{inMatch("headers: [{name: x, present: yes}]"), []string{`policies/p.yaml:6:36: spec.rules[0].match.headers[0].present: present must be true or false, not "yes"; write true`}},
		{inMatch("headers: [{name: ':path', exact: x}]"), []string{`policies/p.yaml:6:24: spec.rules[0].match.headers[0].name: name must be a header name: letters, digits and hyphens, without spaces and colons, not ":path"`}},
		{inMatch("headers: {x: y}"), []string{`policies/p.yaml:6:7: spec.rules[0].match.headers: headers must be a list of mappings, each with a name and a condition, not a mapping`}},

		{inSpec("selector: {servce: frontend}"), []string{`policies/p.yaml:5:14: spec.selector.servce: unknown field "servce"; did you mean "service"?`}},
		{inSpec("selector: {service: front*}"), []string{`policies/p.yaml:5:23: spec.selector.service: service must be a name without spaces, or * for any (patterns are not supported), not "front*"`}},
		{inSpec("selector: {gateway: ingress, service: frontend}"), []string{`policies/p.yaml:5:41: spec.selector.service: service must be omitted beside gateway: a policy applies to workloads or to gateways`}},
		{inSpec("selector: {gateway: \"*\", service: front*}"), []string{`policies/p.yaml:5:37: spec.selector.service: service must be omitted beside gateway: a policy applies to workloads or to gateways`}},
		{inSpec("selector: {gateway: ingress}\n  direction: outbound"), []string{`policies/p.yaml:6:14: spec.direction: direction must be omitted beside spec.selector.gateway`}},
		{inSpec("selector: {gateway: in*}"), []string{`policies/p.yaml:5:23: spec.selector.gateway: gateway must be a name without spaces, or * for any (patterns are not supported), not "in*"`}},
		{inSpec("selector: {gateway: \"\"}"), []string{`policies/p.yaml:5:23: spec.selector.gateway: gateway must not be empty: use * for any gateway, or omit it to select workloads`}},
		{inSpec("selector: {gatway: ingress}"), []string{`policies/p.yaml:5:14: spec.selector.gatway: unknown field "gatway"; did you mean "gateway"?`}},
		{inSpec("selector:"), []string{`policies/p.yaml:5:12: spec.selector: selector must be a mapping with service or gateway, and namespace; omit it to select every workload, not empty (null); indent its fields below it`}},
		{inSpec("dry_run: yes"), []string{`policies/p.yaml:5:12: spec.dry_run: dry_run must be true or false, not "yes"; write true`}},
		{inSpec("expires_at: tomorrow"), []string{`policies/p.yaml:5:15: spec.expires_at: expires_at must be an RFC 3339 time in the years 2000 to 2999, such as 2027-01-31T12:00:00Z, not "tomorrow"`}},
		{inSpec("expires_at: 2027-01-31"), []string{`policies/p.yaml:5:15: spec.expires_at: expires_at must be an RFC 3339 time in the years 2000 to 2999, such as 2027-01-31T12:00:00Z, not "2027-01-31"`}},
		{inSpec("duration: 5m"), []string{`policies/p.yaml:5:3: spec.duration: unknown field "duration"`}},

		{"metadata: {name: Frontend}\nspec: {rules: []}\n", []string{
			`policies/p.yaml:1:18: metadata.name: name must be a DNS-1123 label: lower-case letters, digits and hyphens, beginning and ending with a letter or digit, not "Frontend"`,
			`policies/p.yaml:2:8: spec.rules: rules must have at least one rule`,
		}},
		{"metadata: {name: status}\nspec: {rules: [{fault: {delay_ms: 1}}]}\n", []string{`policies/p.yaml:1:18: metadata.name: name must not be "status": the name is reserved for the route GET /v1/policies/status`}},
		{"metadata: {name: " + rep("n", 64) + "}\nspec: {rules: [{fault: {delay_ms: 1}}]}\n", []string{`policies/p.yaml:1:18: metadata.name: name must have at most 63 characters`}},
		{"metadata: {}\nspec: {}\n", []string{
			`policies/p.yaml:1:1: metadata.name: name is missing`,
			`policies/p.yaml:2:1: spec.rules: rules is missing`,
		}},
		{"metdata: {name: p}\n", []string{
			`policies/p.yaml:1:1: metadata: metadata is missing`,
			`policies/p.yaml:1:1: metdata: unknown field "metdata"; did you mean "metadata"?`,
			`policies/p.yaml:1:1: spec: spec is missing`,
		}},
		{"", []string{`policies/p.yaml:1:1: the file has no policy; delete it, or give it another extension`}},
		{"# later\n---\n# x\n", []string{`policies/p.yaml:1:1: the file has no policy; delete it, or give it another extension`}},
		{minimal + "---\n", []string{`policies/p.yaml:2:1: this document of the file is empty; remove the line with --- before it`}},
		{"null\n", []string{`policies/p.yaml:1:1: a policy must be a mapping with metadata and spec, not empty (null)`}},
		{"[]\n", []string{`policies/p.yaml:1:1: a policy must be a mapping with metadata and spec, not a list`}},
		{"metadata:\n\tname: p\n", []string{`policies/p.yaml:2:1: invalid YAML: a tab cannot indent; use spaces`}},
		{inFault("delay_ms: 1\n\t    percentage: 5"), []string{`policies/p.yaml:7:1: invalid YAML: a tab cannot indent; use spaces`}},
		{"metadata:\r  name: p\rspec:\r  rules: []\r", []string{`policies/p.yaml:1:10: invalid YAML: this line ends in a carriage return without a line feed; save the file with LF line ends`}},
		{inFault(`abort: {status: 503, body: "\ud800"}`), []string{`policies/p.yaml:6:35: invalid YAML: \ud800 is only half of a UTF-16 surrogate pair, which is not a character; write the character itself`}},
		{inFault("{delay_ms: 1, percentage: 05.5}"), []string{`policies/p.yaml:6:1: invalid YAML: the number 05.5 begins with 0, as an octal number does; write 5.5`}},
		{"a: *b\n", []string{`policies/p.yaml:1:1: invalid YAML: unknown anchor 'b' referenced`}},
		{"a: &a\n  <<: *a\n", []string{`policies/p.yaml:2:7: the alias *a refers to a value that contains itself`}},
		{"metadata:\n  name: a\nspec: {rules: [{fault: {delay_ms: 1}}]}\nmetadata:\n  name: b\nspec: {rules: [{fault: {delay_ms: 2}}]}\n", []string{
			`policies/p.yaml:4:1: metadata: metadata is already on line 1; if another policy begins here, write a line with --- before it`,
		}},
		{"metadata: {name: p, namespace: demo, labels: {a: b}}\nspec:\n  selector: {matchLabels: {app: x}}\n  rules: [{fault: {delay_ms: 1}}]\n", []string{
			`policies/p.yaml:1:21: metadata.namespace: unknown field "namespace"; to select the workloads of a namespace, write it as spec.selector.namespace`,
			`policies/p.yaml:1:38: metadata.labels: unknown field "labels"; policies have no labels; write a comment`,
			`policies/p.yaml:3:14: spec.selector.matchLabels: unknown field "matchLabels"; a selector has no labels: write service, the name of the workload, and namespace`,
		}},
		// Equal keys without a conflict are one struct for CUE, and for the search for errors.
		{"metadata: {name: p}\nspec:\n  rules: [{fault: {delay_ms: 1}}]\nspec:\n  dry_run: true\n  bogus: 1\n", []string{
			`policies/p.yaml:6:3: spec.bogus: unknown field "bogus"`,
		}},
		{"metadata: {name: p}\nspec:\n  rules:\n  - fault:\n    delay_ms: 5\n", []string{
			`policies/p.yaml:4:11: spec.rules[0].fault: fault must be a mapping with delay_ms, abort or both, not empty (null); indent its fields below it`,
			`policies/p.yaml:5:5: spec.rules[0].delay_ms: unknown field "delay_ms"; it is a field of spec.rules[].fault: check the indentation`,
		}},
		{"metadata: {name: p}\nspec:\n  rules:\n  - match: {path: {exact: /}}\n  fault: {delay_ms: 5}\n", []string{
			`policies/p.yaml:4:5: spec.rules[0].fault: fault is missing`,
			`policies/p.yaml:5:3: spec.fault: unknown field "fault"; it is a field of spec.rules[]: check the indentation`,
		}},
		{"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: p}\nspec: {hosts: [p]}\n", []string{
			`policies/p.yaml:1:1: this is a Kubernetes object of kind "VirtualService" (networking.istio.io/v1), not a fault policy; keep it outside of the policy folder`,
		}},
		{"apiVersion: chaos-mesh.org/v1alpha1\nkind: HTTPChaos\nmetadata: {name: p}\nspec: {mode: all}\n", []string{
			`policies/p.yaml:1:1: this is a Kubernetes object of kind "HTTPChaos" (chaos-mesh.org/v1alpha1), not a fault policy; keep it outside of the policy folder`,
		}},
		{"apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: p}\nspec: {rules: [{host: a, http: {paths: []}}]}\n", []string{
			`policies/p.yaml:1:1: this is a Kubernetes object of kind "Ingress" (networking.k8s.io/v1), not a fault policy; keep it outside of the policy folder`,
		}},
		{"apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: p}\nspec: {rules: [{matches: [], backendRefs: []}]}\n", []string{
			`policies/p.yaml:1:1: this is a Kubernetes object of kind "HTTPRoute" (gateway.networking.k8s.io/v1), not a fault policy; keep it outside of the policy folder`,
		}},
		{"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {rules: [{}]}\n", []string{
			`policies/p.yaml:1:1: this is a Kubernetes object of kind "AuthorizationPolicy" (security.istio.io/v1), not a fault policy; keep it outside of the policy folder`,
		}},
		{"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: p}\nspec: {http: [{match: [], fault: {abort: {httpStatus: 500, percentage: {value: 5}}}}]}\n", []string{
			`policies/p.yaml:1:1: this is a Kubernetes object of kind "VirtualService" (networking.istio.io/v1), not a fault policy; keep it outside of the policy folder`,
		}},
		// apiVersion and kind are free in a policy: a wrong name in it is reported nevertheless.
		{"apiVersion: chaos.example.org/v1\nkind: Fault\nmetadata: {name: p}\nspec: {rulse: [{fault: {delay_ms: 1}}]}\n", []string{
			`policies/p.yaml:4:1: spec.rules: rules is missing`,
			`policies/p.yaml:4:8: spec.rulse: unknown field "rulse"`,
		}},
		{"apiVersion: chaos.example.org/v1\nkind: Fault\nmetadata: {name: p}\nspec: {rulse: [{fault: {abort: {status: 503}}}]}\n", []string{
			`policies/p.yaml:4:1: spec.rules: rules is missing`,
			`policies/p.yaml:4:8: spec.rulse: unknown field "rulse"`,
		}},
		{"apiVersion: chaos.example.org/v1\nkind: Fault\nmetadata: {name: p}\nspec: {rules: [{falt: {delay_ms: 1}}]}\n", []string{
			`policies/p.yaml:4:16: spec.rules[0].fault: fault is missing`,
			`policies/p.yaml:4:17: spec.rules[0].falt: unknown field "falt"; did you mean "fault"?`,
		}},
		{"apiVersion: chaos.example.org/v1\nkind: Fault\nmetadata: {name: p}\nspec: {rules: [{match: {path: {exact: /}}}]}\n", []string{
			`policies/p.yaml:4:16: spec.rules[0].fault: fault is missing`,
		}},
		{"apiVersion: chaos.example.org/v1\nkind: Fault\nmetadata: {name: p}\nspec: {rules: []}\n", []string{
			`policies/p.yaml:4:8: spec.rules: rules must have at least one rule`,
		}},
		{"apiVersion: hfi.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec: {}\n", []string{`policies/p.yaml:4:1: spec.rules: rules is missing`}},
		// One document in a stream does not hide the next.
		{minimal + "---\nmetadata: {name: Q}\nspec: {rules: [{fault: {delay_ms: 1}}]}\n---\nmetadata: {name: r}\n", []string{
			`policies/p.yaml:3:18: metadata.name: name must be a DNS-1123 label: lower-case letters, digits and hyphens, beginning and ending with a letter or digit, not "Q"`,
			`policies/p.yaml:6:1: spec: spec is missing`,
		}},
	}
	w := New("policies")
	for _, test := range tests {
		t.Run(short(test.text), func(t *testing.T) {
			verdict := ours(t, w, sample{file: "p.yaml", text: test.text})
			got := lines(verdict.Errors)
			if !slices.Equal(got, test.want) {
				t.Errorf("for\n%s\ngot  %q\nwant %q", test.text, got, test.want)
			}
			for _, p := range verdict.Errors {
				readable(t, p, false)
			}
		})
	}
	if len(tests) < 40 {
		t.Errorf("only %d sentences are tested", len(tests))
	}
}

func lines(problems []schema.Problem) []string {
	var all []string
	for _, p := range problems {
		all = append(all, p.String())
	}
	return all
}

// TestConnectionHeadersAreTheSchemas checks that the headers with a sentence of their own are
// those that the schema refuses as names of an abort's headers, and no others.
func TestConnectionHeadersAreTheSchemas(t *testing.T) {
	context := cuecontext.New()
	schemas := context.CompileString(schema.CUE).LookupPath(cue.ParsePath("#AbortHeaderName"))
	var refused []string
	for _, name := range []string{
		"connection", "content-length", "content-type", "host", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-connection", "te",
		"trailer", "transfer-encoding", "upgrade", "x-te",
	} {
		if schemas.Unify(context.Encode(name)).Err() != nil {
			refused = append(refused, name)
		}
	}
	if !slices.Equal(refused, connectionHeaders) {
		t.Errorf("the schema refuses %q, want %q", refused, connectionHeaders)
	}
}

// TestFieldsAreTheSchemas checks that fields has every field of the schema and no
// other, and that the samples are valid.
func TestFieldsAreTheSchemas(t *testing.T) {
	ctx := cuecontext.New()
	root := ctx.CompileString(schema.CUE)
	policy := root.LookupPath(cue.ParsePath("#Policy"))
	// CUE does not show the items of a list that has a length.
	items := map[string]string{
		"spec.rules": "#Rule", "spec.rules[].match.methods": "#Method", "spec.rules[].match.headers": "#HeaderMatch",
	}
	found := map[string]bool{}
	var walk func(v cue.Value, at string)
	walk = func(v cue.Value, at string) {
		found[at] = true
		w, known := fields[at]
		if !known {
			t.Errorf("field %q of the schema has no sentence", at)
			return
		}
		if err := ctx.CompileString(w.sample).Unify(v).Validate(cue.Concrete(true)); err != nil {
			t.Errorf("the sample %s of %q is invalid: %v", w.sample, at, err)
		}
		if at == headersField {
			walk(root.LookupPath(cue.ParsePath("#HeaderValue")), at+".*")
			return
		}
		if item := items[at]; item != "" {
			walk(root.LookupPath(cue.ParsePath(item)), at+"[]")
			return
		}
		if at == "spec.rules[].fault.abort" {
			v = root.LookupPath(cue.ParsePath("#AbortFields")) // nor the fields of a struct that lacks one
		}
		iterator, err := v.Fields(cue.Optional(true))
		if err != nil {
			return
		}
		for iterator.Next() {
			name := iterator.Selector().Unquoted()
			if at != "" {
				name = at + "." + name
			}
			walk(iterator.Value(), name)
		}
	}
	walk(policy, "")
	for at := range fields {
		if !found[at] {
			t.Errorf("there is a sentence for %q, which is not a field of the schema", at)
		}
	}
}
