package cue

import (
	"slices"
	"strings"
	"testing"
)

// TestValueWarnings checks the warnings of valid policies that probably select or match nothing.
func TestValueWarnings(t *testing.T) {
	path := func(text string) string { return inMatch("path: " + text) }
	const at = "policies/p.yaml:6:"
	const opaque = `only plain HTTP is faulted: what the application itself encrypts (https://) is opaque to the sidecar, unless the mesh originates the TLS`
	cue := newStock(t)
	for _, test := range []struct {
		text string
		want []string
	}{
		{path(`{exact: "/topics/*"}`), []string{at + `21: spec.rules[0].match.path.exact: * is not a wildcard in exact; write prefix: "/topics/"`}},
		{path(`{prefix: "/topics/*"}`), []string{at + `22: spec.rules[0].match.path.prefix: * is not a wildcard in prefix; write prefix: "/topics/"`}},
		{path(`{exact: "/api/.*"}`), []string{at + `21: spec.rules[0].match.path.exact: * is not a wildcard in exact; write prefix: "/api/"`}},
		{path(`{exact: "/a/*/b"}`), []string{at + `21: spec.rules[0].match.path.exact: * is not a wildcard in exact; write a regex`}},
		{path(`{prefix: "*"}`), []string{at + `22: spec.rules[0].match.path.prefix: * is not a wildcard in prefix; omit path to match any`}},
		{path(`{exact: "."}`), []string{at + `21: spec.rules[0].match.path.exact: no path matches ".": a path begins with /`}},
		{path(`{prefix: ".*"}`), []string{at + `22: spec.rules[0].match.path.prefix: * is not a wildcard in prefix; omit path to match any`}},
		{path(`{exact: "/a?b=c"}`), []string{at + `21: spec.rules[0].match.path.exact: no path matches "/a?b=c": it is compared without the query string, which begins with ?`}},
		{path(`{prefix: api/}`), []string{at + `22: spec.rules[0].match.path.prefix: no path matches "api/": a path begins with /`}},
		{path(`{regex: "/topics/*"}`), []string{at + `21: spec.rules[0].match.path.regex: /* in a regex matches slashes alone; for any path below it, write /.*`}},
		{path(`{regex: "/topics/.*"}`), nil},
		{path(`{exact: /topics/}`), nil},
		{path(`{prefix: ""}`), nil},
		{inMatch(`headers: [{name: x, exact: "*"}]`), []string{at + `34: spec.rules[0].match.headers[0].exact: exact matches the value "*" alone; to match any value, write present: true`}},
		{inMatch(`headers: [{name: accept, exact: "*/*"}]`), nil},

		{inTo("{host: api.example.com}"), []string{`policies/p.yaml:7:18: spec.rules[0].match.to.host: ` + opaque}},
		{inTo("{host: cart.demo.svc.cluster.local}"), []string{`policies/p.yaml:7:18: spec.rules[0].match.to.host: in Istio, for a service of the cluster, write service: cart and namespace: demo`}},
		{inTo("{host: cart}"), []string{`policies/p.yaml:7:18: spec.rules[0].match.to.host: in Istio, for a service of the cluster, write service: cart and its namespace`}},
		{inTo("{host: cart.demo}"), []string{`policies/p.yaml:7:18: spec.rules[0].match.to.host: in Istio, for a service of the cluster, write service: cart and namespace: demo`}},
		{inTo("{host: cart.demo.svc.corp.internal}"), []string{`policies/p.yaml:7:18: spec.rules[0].match.to.host: in Istio, for a service of the cluster, write service: cart and namespace: demo`}},
		{inTo("{host: cart.demo.svc}"), []string{`policies/p.yaml:7:18: spec.rules[0].match.to.host: in Istio, for a service of the cluster, write service: cart and namespace: demo`}},
		{inTo("{host: example.com}"), []string{`policies/p.yaml:7:18: spec.rules[0].match.to.host: ` + opaque}},
		{inTo("{host: api.eu.svc.example.com}"), []string{`policies/p.yaml:7:18: spec.rules[0].match.to.host: ` + opaque}},
		{inTo("{service: cart, namespace: demo}"), nil},
		{inTo("{service: \"'cart'\"}"), []string{`policies/p.yaml:7:21: spec.rules[0].match.to.service: service has the character U+0027 '\'', so it probably selects nothing; write cart`}},

		{inSpec("selector: {service: “frontend”}"), []string{`policies/p.yaml:5:23: spec.selector.service: service has the character U+201C '\u201c', so it probably selects nothing; write frontend`}},
		{inSpec("selector: {namespace: \"demo\\u200b\"}"), []string{`policies/p.yaml:5:25: spec.selector.namespace: namespace has the character U+200B '\u200b', so it probably selects nothing; write demo`}},
		{inSpec("selector: {service: \"'a'\"}"), []string{`policies/p.yaml:5:23: spec.selector.service: service has the character U+0027 '\'', so it probably selects nothing; write a`}},
		{inSpec("selector: {namespace: dem\u043e}"), []string{`policies/p.yaml:5:25: spec.selector.namespace: namespace has the character U+043E '\u043e', so it probably selects nothing`}},
		{inSpec("selector: {service: a_b.C-d, namespace: '*'}"), nil},
	} {
		s := sample{file: "p.yaml", text: test.text}
		verdict := ours(t, New("policies"), s)
		wantSet(t, verdict, "p")
		if got := lines(verdict.Warnings); !slices.Equal(got, test.want) {
			t.Errorf("for\n%s\ngot  %q\nwant %q", test.text, got, test.want)
		}
		for _, p := range verdict.Warnings {
			readable(t, p, false)
		}
		if valid, output := cue.ask(s); !valid {
			t.Errorf("stock cue rejects %s:\n%s", test.text, output)
		}
	}

	// In a package, the warning is at the policy.
	verdict := ours(t, New("policies"), pkg(ok, "", imports+"policies: p: spec: rules: [{match: path: exact: \"/a/*\", fault: delay_ms: 1}]\n"))
	if got := lines(verdict.Warnings); len(got) != 1 || !strings.HasPrefix(got[0], `policies/team/p.cue:6:1: spec.rules[0].match.path.exact: policy "p": * is not a wildcard in exact`) {
		t.Errorf("for a package: %q", got)
	}

	// However many there are, the warnings are bounded.
	many := "metadata: {name: p}\nspec: {rules: [" + list(`{match: {headers: [`+list(`{name: x, exact: "*"}`, 32)+`]}, fault: {delay_ms: 1}}`, 64) + "]}\n"
	if got := ours(t, New("policies"), sample{file: "p.yaml", text: many}).Warnings; len(got) != maxFindings {
		t.Errorf("%d warnings, want %d", len(got), maxFindings)
	}
}
