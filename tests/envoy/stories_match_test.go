package envoy

import (
	"net/http"
	"testing"

	"github.com/boifi/hfi/internal/envoytest"
)

// aborting returns a policy for any workload that aborts matching requests with 418.
func aborting(name, match string) string {
	return `
metadata: {name: ` + name + `}
spec:
  rules: [{match: ` + match + `, fault: {abort: {status: 418}}}]`
}

// Matching of methods, paths without their query, and headers: exact, prefix, regex
// and present, with several values joined by commas; all conditions must hold. The
// header x-hfi-fault shows which policy applied.
func TestRequestMatching(t *testing.T) {
	w := mesh(t)
	w.push(t,
		aborting("method", `{methods: [PUT, DELETE], path: {exact: /method}}`),
		aborting("exact", `{path: {exact: /exact}}`),
		aborting("prefix", `{path: {prefix: /prefix/a}}`),
		aborting("regex", `{path: {regex: "/regex/[0-9]+(/x)?"}}`),
		aborting("header-exact", `{path: {exact: /h}, headers: [{name: X-Exact, exact: "one,two"}]}`),
		aborting("header-prefix", `{path: {exact: /h}, headers: [{name: x-prefix, prefix: "Mozilla/"}]}`),
		aborting("header-regex", `{path: {exact: /h}, headers: [{name: x-regex, regex: "a|b+"}]}`),
		aborting("header-present", `{path: {exact: /h}, headers: [{name: x-present, present: true}]}`),
		aborting("header-absent", `{path: {exact: /absent}, headers: [{name: x-absent, present: false}]}`),
		aborting("all-hold", `{methods: [POST], path: {prefix: /all/}, headers: [{name: x-a, exact: "1"}, {name: x-b, regex: "[23]"}]}`))
	header := func(pairs ...string) http.Header {
		all := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			all.Add(pairs[i], pairs[i+1])
		}
		return all
	}
	c, url := client(t, false), w.envoys["frontend-1"].URL()
	for _, r := range []struct {
		method, path string
		header       http.Header
		policy       string
	}{
		{"PUT", "/method", nil, "method"},
		{"DELETE", "/method?a=b", nil, "method"},
		{"GET", "/method", nil, ""},
		{"GET", "/exact", nil, "exact"},
		{"GET", "/exact?query=/prefix/a", nil, "exact"},
		{"GET", "/exact?", nil, "exact"},
		{"GET", "/exact/", nil, ""},
		{"GET", "/Exact", nil, ""},
		{"GET", "/other?path=/exact", nil, ""},
		{"GET", "/prefix/a", nil, "prefix"},
		{"GET", "/prefix/abc/d?e", nil, "prefix"},
		{"GET", "/prefix?/a", nil, ""},
		{"GET", "/regex/12", nil, "regex"},
		{"GET", "/regex/12/x?y=1", nil, "regex"},
		{"GET", "/regex/12/xx", nil, ""},
		{"GET", "/a/regex/12", nil, ""},
		{"GET", "/h", header("X-Exact", "one,two"), "header-exact"},
		{"GET", "/h", header("x-exact", "one", "x-exact", "two"), "header-exact"},
		{"GET", "/h", header("x-exact", "one"), ""},
		{"GET", "/h", header("x-exact", "two", "x-exact", "one"), ""},
		{"GET", "/h", header("x-prefix", "Mozilla/5.0"), "header-prefix"},
		{"GET", "/h", header("x-prefix", "A Mozilla/5.0"), ""},
		{"GET", "/h", header("x-regex", "bbb"), "header-regex"},
		{"GET", "/h", header("x-regex", "abbb"), ""},
		{"GET", "/h", header("x-present", ""), "header-present"},
		{"GET", "/h", header("x-present", "any"), "header-present"},
		{"GET", "/h", nil, ""},
		{"GET", "/absent", nil, "header-absent"},
		{"GET", "/absent", header("x-absent", ""), ""},
		{"POST", "/all/", header("x-a", "1", "x-b", "3"), "all-hold"},
		{"GET", "/all/", header("x-a", "1", "x-b", "3"), ""},
		{"POST", "/all", header("x-a", "1", "x-b", "3"), ""},
		{"POST", "/all/", header("x-a", "1", "x-b", "4"), ""},
		{"POST", "/all/", header("x-b", "3"), ""},
	} {
		want := 200
		if r.policy != "" {
			want = 418
		}
		answer := ask(t, c, envoytest.Request{Method: r.method, URL: url + r.path, Header: r.header})
		if got := answer.Header.Get("X-Hfi-Fault"); got != r.policy || answer.Status != want {
			t.Errorf("%s %s with %v: status %d by policy %q, want %d by %q", r.method, r.path, r.header, answer.Status, got, want, r.policy)
		}
	}
}
