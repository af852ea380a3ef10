package envoy

import (
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/envoytest"
)

// targeted returns a policy with that selector, which aborts requests for its own path.
func targeted(name, selector string) string {
	return `
metadata: {name: ` + name + `}
spec:
  selector: ` + selector + `
  rules: [{match: {path: {exact: /` + name + `}}, fault: {abort: {status: 418}}}]`
}

// A selector targets one service, a namespace, or everything; a policy for frontend
// does not affect productcatalog. A filter that does not know its own service or
// namespace gets only the policies for any.
func TestPoliciesApplyToTheirTargetsOnly(t *testing.T) {
	w := mesh(t)
	w.push(t,
		targeted("frontend-demo", `{service: frontend, namespace: demo}`),
		targeted("frontend-any", `{service: frontend}`),
		targeted("any-demo", `{service: "*", namespace: demo}`),
		targeted("any-any", `{}`),
		targeted("frontend-other", `{service: frontend, namespace: other}`),
		targeted("catalog-demo", `{service: productcatalog, namespace: demo}`),
		targeted("front-demo", `{service: front, namespace: demo}`))
	for name, wanted := range map[string][]string{
		"frontend-1": {"any-any", "any-demo", "frontend-any", "frontend-demo"},
		"catalog":    {"any-any", "any-demo", "catalog-demo"},
		"half":       {"any-any", "frontend-any"},
		"nobody":     {"any-any"},
	} {
		c, faulted := client(t, false), []string{}
		for _, policy := range []string{"any-any", "any-demo", "catalog-demo", "front-demo", "frontend-any", "frontend-demo", "frontend-other"} {
			switch answer := get(t, c, w.envoys[name].URL()+"/"+policy); {
			case answer.Status == 418 && answer.Header.Get("X-Hfi-Fault") == policy:
				faulted = append(faulted, policy)
			case answer.Status != 200:
				t.Errorf("%s, of policy %s: status %d, header %q", name, policy, answer.Status, answer.Header.Get("X-Hfi-Fault"))
			}
		}
		if got, want := strings.Join(faulted, " "), strings.Join(wanted, " "); got != want {
			t.Errorf("%s: requests are faulted by %q, want %q", name, got, want)
		}
	}
}

// A policy for all requests of frontend affects none of a thousand of productcatalog.
func TestAFrontendPolicyDoesNotAffectProductcatalog(t *testing.T) {
	w := mesh(t)
	w.push(t, `
metadata: {name: all-of-frontend}
spec:
  selector: {service: frontend, namespace: demo}
  rules: [{fault: {abort: {status: 503}}}]`)
	for name, status := range map[string]int{"frontend-2": 503, "catalog": 200} {
		report := load(t, envoytest.Load{Request: envoytest.Request{URL: w.envoys[name].URL() + "/ok"}, Requests: 1000})
		if report.Statuses[status] != 1000 {
			t.Errorf("%s: not all answers are %d: %s", name, status, report)
		}
	}
}

// The identity comes from the node's metadata. If any of it is missing, the log has a warning.
func TestIdentityIsTheNodesMetadata(t *testing.T) {
	w := mesh(t)
	for name, lines := range map[string][]string{
		"frontend-1": {`started for service="frontend" namespace="demo" pod="frontend-1"`},
		"half": {`started for service="frontend" namespace="" pod="" node="half"`,
			`the node metadata has no NAMESPACE: only policies for any namespace apply`},
		"nobody": {`started for service="" namespace="" pod="" node="nobody"`,
			`the node metadata has no WORKLOAD_NAME and no NAMESPACE: only policies for any service in any namespace apply`},
	} {
		log := w.envoys[name].Log()
		for _, line := range lines {
			if !strings.Contains(log, line) {
				t.Errorf("%s does not log %q", name, line)
			}
		}
		if warned := strings.Contains(log, "the node metadata has no"); warned != (len(lines) > 1) {
			t.Errorf("%s warns: %t", name, warned)
		}
	}
}

// A filter's own requests pass another filter that aborts everything: the filter of
// Envoy "half" reaches the daemon through Envoy "nobody".
func TestAWildcardAbortDoesNotCutFiltersOff(t *testing.T) {
	w := mesh(t)
	abort := func(status string) string {
		return `
metadata: {name: everything}
spec:
  rules: [{fault: {abort: {status: ` + status + `}}}]`
	}
	for _, status := range []string{"500", "503", "418"} {
		w.push(t, abort(status)) // push waits until half has it, through nobody
	}
	through := getOnce(t, w.envoys["nobody"].ListenerURL("daemon")+"/v1/policies")
	if through.Status != 418 || through.Header.Get("X-Hfi-Fault") != "everything" {
		t.Errorf("other requests through that listener: status %d", through.Status)
	}
	if answer := getOnce(t, w.envoys["half"].URL()); answer.Status != 418 {
		t.Errorf("half answers %d", answer.Status)
	}
	for _, line := range strings.Split(w.envoys["half"].Log(), "\n") {
		if strings.Contains(line, "wasm log hfi ") && strings.Contains(line, "no policies from the control plane") {
			t.Errorf("half's filter did not reach the daemon: %s", line)
		}
	}
}
