package http

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// exampleSet is a set with a policy of each kind of selector.
func exampleSet() *schema.Set {
	return schema.NewSet(
		entry("front-demo", "frontend", "demo", 1),
		entry("front-any", "frontend", "", 2),
		entry("any-demo", "", "demo", 3),
		entry("all", "", "", 4),
		entry("catalog", "productcatalog", "demo", 5),
	)
}

// GET /v1/policies lists all policies or, with parameters, those that apply to
// a workload.
func TestPoliciesSelects(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(7, exampleSet()))
	for query, want := range map[string][]string{
		"":                                       {"all", "any-demo", "catalog", "front-any", "front-demo"},
		"?service=frontend&namespace=demo":       {"all", "any-demo", "front-any", "front-demo"},
		"?service=productcatalog&namespace=demo": {"all", "any-demo", "catalog"},
		"?service=frontend&namespace=shop":       {"all", "front-any"},
		"?service=other&namespace=other":         {"all"},
		// Given but empty: wildcard policies only.
		"?service=&namespace=": {"all"},
		// If only one is given, the other is unknown.
		"?service=frontend": {"all", "front-any"},
		"?namespace=demo":   {"all", "any-demo"},
		"?service=":         {"all"},
		"?wait=1s":          {"all", "any-demo", "catalog", "front-any", "front-demo"},
	} {
		got := d.ask("GET /v1/policies"+query).expect(t, 200)
		if names := got.names(t); !slices.Equal(names, want) {
			t.Errorf("%q selects %v, want %v", query, names, want)
		}
		var chosen []*schema.Entry
		for _, name := range want {
			chosen = append(chosen, exampleSet().Get(name))
		}
		// The ETag is the digest of the selected policies.
		if tag, digest := got.header.Get("ETag"), schema.NewSet(chosen...).Digest(); tag != `"`+string(digest)+`"` {
			t.Errorf("%q has the ETag %s, want %s", query, tag, digest)
		}
		for name, value := range map[string]string{
			"X-Hfi-Commit": fmt.Sprintf("%040x", 7), "X-Hfi-Revision": "1-one.7", "Cache-Control": "no-cache",
			"Content-Type": "application/json", "Content-Length": fmt.Sprint(len(got.body)),
		} {
			if got.header.Get(name) != value {
				t.Errorf("%q has %s %q, want %q", query, name, got.header.Get(name), value)
			}
		}
		head := d.ask("HEAD /v1/policies"+query).expect(t, 200)
		if head.body != "" || head.header.Get("Content-Length") != fmt.Sprint(len(got.body)) || head.header.Get("ETag") != got.header.Get("ETag") {
			t.Errorf("HEAD %q differs: %+v", query, head)
		}
	}
	if want := `{"policies":[` + string(exampleSet().Get("all").Canonical) + "]}\n"; d.ask("GET /v1/policies?service=").body != want {
		t.Errorf("the answer is not the canonical policies: %s", d.ask("GET /v1/policies?service=").body)
	}
	d.serve(stateOf(8, schema.NewSet()))
	if body := d.ask("GET /v1/policies").body; body != "{\"policies\":[]}\n" {
		t.Errorf("an empty set is answered %s", body)
	}
}

// A gateway gets the policies with a gateway in their selector, and no others.
func TestPoliciesOfAGateway(t *testing.T) {
	d := start(t, nil)
	of := func(name, selector string) *schema.Entry {
		return entryFrom(`{"metadata":{"name":"` + name + `"},"spec":{"selector":` + selector + `,"rules":[{"fault":{"delay_ms":5}}]}}`)
	}
	d.serve(stateOf(7, exampleSet().With([]*schema.Entry{
		of("gw-in-mesh", `{"gateway":"in","namespace":"mesh"}`), of("gw-in", `{"gateway":"in"}`), of("gw-mesh", `{"gateway":"*","namespace":"mesh"}`), of("gw", `{"gateway":"*"}`),
	}, nil)))
	for query, want := range map[string][]string{
		"?gateway=in&namespace=mesh":    {"gw", "gw-in", "gw-in-mesh", "gw-mesh"},
		"?gateway=in&namespace=demo":    {"gw", "gw-in"},
		"?gateway=in":                   {"gw", "gw-in"},
		"?gateway=out&namespace=mesh":   {"gw", "gw-mesh"},
		"?gateway=&namespace=":          {"gw"},
		"?gateway=*":                    {"gw"},
		"?service=in&namespace=mesh":    {"all"},
		"?service=frontend&namespace=*": {"all", "front-any"},
	} {
		got := d.ask("GET /v1/policies"+query).expect(t, 200)
		if names := got.names(t); !slices.Equal(names, want) {
			t.Errorf("%q selects %v, want %v", query, names, want)
		}
		compiled := d.ask("GET /v1/policies"+query, "Accept", program.MediaType).expect(t, 200)
		if read, err := program.Read([]byte(compiled.body), selection.Workload{Namespace: "mesh", Gateway: "in"}); err != nil || len(read.Policies) != len(want) {
			t.Errorf("%q gives the program %+v (%v)", query, read, err)
		}
	}
	var status api.PoliciesStatus
	if err := json.Unmarshal([]byte(d.ask("GET /v1/policies/status").expect(t, 200).body), &status); err != nil {
		t.Fatal(err)
	}
	for _, row := range status.Policies {
		if want := map[string]string{"gw-in-mesh": "in", "gw-in": "in", "gw-mesh": "*", "gw": "*"}[row.Name]; row.Gateway != want {
			t.Errorf("the row is %+v", row)
		}
	}
	// A filter of a gateway is compared with what gateways get.
	mine, asks := d.onItsOwn(), "GET /v1/policies?gateway=in&namespace=mesh"
	tag := mine.ask(asks, vmHeaders("in-1", "1")...).expect(t, 200).header.Get("ETag")
	mine.ask(asks+"&wait=1ms", append(vmHeaders("in-1", "1"), "If-None-Match", tag)...).expect(t, 304)
	filters := d.filterStatus()
	if filters.Current != 1 || filters.Items[0].Gateway != "in" || filters.Items[0].Service != "" || filters.Items[0].Namespace != "mesh" {
		t.Errorf("the filters are %+v", filters)
	}
}

// A waypoint gets all policies for the workloads of its namespace, each limited to its service.
func TestPoliciesOfAWaypoint(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(7, exampleSet()))
	const asks = "GET /v1/policies?waypoint=way&namespace=demo"
	if names, want := d.ask(asks).names(t), []string{"all", "any-demo", "catalog", "front-any", "front-demo"}; !slices.Equal(names, want) {
		t.Errorf("the waypoint gets %v, want %v", names, want)
	}
	if names := d.ask("GET /v1/policies?waypoint=way&namespace=shop").names(t); !slices.Equal(names, []string{"all", "front-any"}) {
		t.Errorf("a waypoint in another namespace gets %v", names)
	}
	compiled := d.ask(asks, "Accept", program.MediaType).expect(t, 200)
	read, err := program.Read([]byte(compiled.body), selection.Workload{Namespace: "demo", Waypoint: true})
	if err != nil || read.InForce() != 5 || !slices.Contains(read.Headers, program.Service) {
		t.Errorf("the program is %+v (%v)", read, err)
	}
	// A workload with the same policies gets another program.
	d.serve(stateOf(8, schema.NewSet(entry("any-demo", "", "demo", 3))))
	for query, want := range map[string]int{"?waypoint=way&namespace=demo": 1, "?service=a&namespace=demo": 0} {
		body := d.ask("GET /v1/policies"+query, "Accept", program.MediaType).expect(t, 200).body
		if got := strings.Count(body, program.ServiceNamespace); got != want {
			t.Errorf("%s: the program has %d conditions on the namespace", query, got)
		}
	}
	mine := d.onItsOwn()
	tag := mine.ask(asks, vmHeaders("way-1", "1")...).expect(t, 200).header.Get("ETag")
	waits := d.begin(asks+"&wait=20s", "If-None-Match", tag)
	eventually(t, "the request waits", func() bool { d.hub.mu.Lock(); defer d.hub.mu.Unlock(); return len(d.hub.topics) == 1 })
	d.serve(stateOf(9, schema.NewSet(entry("any-demo", "", "demo", 3), entry("cart", "cart", "demo", 3))))
	if got := d.await(waits); got.code != 200 {
		t.Errorf("a policy for a service of the namespace does not wake the waypoint: %+v", got)
	}
	mine.ask(asks+"&wait=1ms", append(vmHeaders("way-1", "1"), "If-None-Match", d.ask(asks).header.Get("ETag"))...).expect(t, 304)
	filters := d.filterStatus()
	if filters.Connected != 1 || filters.Items[0].Waypoint != "way" || filters.Items[0].Service != "" || filters.Items[0].Namespace != "demo" {
		t.Errorf("the filters are %+v", filters)
	}
}

// A change of the commit, the revision, the origins, or the policies of other
// workloads does not change the ETag.
func TestPoliciesTagIsTheSelection(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(1, exampleSet()))
	const mine = "GET /v1/policies?service=frontend&namespace=demo"
	before := d.ask(mine)
	moved := exampleSet().With([]*schema.Entry{
		exampleSet().Get("all").WithOrigin(schema.Origin{File: "elsewhere.yaml", Line: 9}),
		entry("catalog", "productcatalog", "demo", 99), entry("new", "adservice", "demo", 1),
	}, nil)
	d.serve(stateOf(2, moved))
	after := d.ask(mine)
	if after.header.Get("ETag") != before.header.Get("ETag") || after.body != before.body {
		t.Errorf("a change of other policies changed the answer: %+v", after)
	}
	if after.header.Get("X-Hfi-Revision") != "1-one.2" {
		t.Errorf("the answer names revision %s", after.header.Get("X-Hfi-Revision"))
	}
	d.serve(stateOf(3, moved.With([]*schema.Entry{entry("all", "", "", 5)}, nil)))
	if d.ask(mine).header.Get("ETag") == before.header.Get("ETag") {
		t.Error("a changed policy did not change the ETag")
	}
}

func TestPoliciesConditional(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(7, exampleSet()))
	tag := d.ask("GET /v1/policies").header.Get("ETag")
	for _, test := range []struct {
		header string
		code   int
	}{
		{tag, 304}, {"W/" + tag, 304}, {`"x", ` + tag, 304}, {`"x",W/` + tag + `, "y"`, 304}, {`, ,` + tag + `,`, 304}, {"*", 304},
		{`"x"`, 200}, {`""`, 200}, {`W/"x"`, 200}, {strings.ToUpper(tag), 200},
		{strings.Trim(tag, `"`), 400}, {tag + "x", 400}, {`"x`, 400}, {"", 400}, {"*, " + tag, 400}, {tag + tag, 400}, {`w/` + tag, 400},
	} {
		for _, wait := range []string{"", "?wait=0s"} {
			got := d.ask("GET /v1/policies"+wait, "If-None-Match", test.header)
			if got.code != test.code {
				t.Errorf("If-None-Match: %s%s gives %d, want %d: %s", test.header, wait, got.code, test.code, got.body)
			}
			if got.code != 304 {
				continue
			}
			if got.body != "" || got.header.Get("ETag") != tag || got.header.Get("X-Hfi-Revision") != "1-one.7" ||
				got.header.Get("X-Hfi-Commit") == "" || got.header.Get("Cache-Control") != "no-cache" {
				t.Errorf("the 304 is %+v", got)
			}
		}
	}
	// Several headers are one list.
	if got := d.ask("GET /v1/policies", "If-None-Match", `"x"`, "If-None-Match", tag); got.code != 304 {
		t.Errorf("two headers give %d", got.code)
	}
}

func TestPoliciesRefuses(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(7, exampleSet()))
	for _, query := range []string{
		"?svc=frontend", "?service=a&service=b", "?service=a&service=a", "?wait=1s&wait=1s", "?SERVICE=a", "?", "?%zz", "?service=a;b=c",
		"?wait=", "?wait=soon", "?wait=-1s", "?wait=-5", "?wait=1.5", "?wait=NaN", "?wait=99999999999999999999", "?wait=1s%00",
		"?service=" + strings.Repeat("a", 254), "?service=&namespace=" + strings.Repeat("a", 254),
		"?gateway=" + strings.Repeat("a", 254), "?service=a&gateway=b", "?service=a&waypoint=b", "?gateway=&waypoint=", "?waypoint=" + strings.Repeat("a", 254), "?service=&gateway=", "?gateway=a&gateway=a",
	} {
		got := d.ask("GET /v1/policies" + query)
		if query == "?" {
			got.expect(t, 200)
			continue
		}
		got.expectError(t, 400, "bad_request")
	}
	d.ask("GET /v1/policies?service="+strings.Repeat("a", 253)).expect(t, 200)
	for _, header := range []string{"x", "1", "1-one", "1-one.x", "", "1-one.-4", strings.Repeat("9", 400) + "-a.1"} {
		d.ask("GET /v1/policies", "X-Hfi-Revision", header).expectError(t, 400, "bad_request")
	}
	d.ask("GET /v1/policies", "X-Hfi-Revision", "1-one.1", "X-Hfi-Revision", "1-one.1").expectError(t, 400, "bad_request")
}

func TestPoliciesBeforeAnySet(t *testing.T) {
	d := start(t, nil)
	for _, path := range []string{"/v1/policies", "/v1/policies?service=a&wait=60s", "/v1/policies/all", "/v1/policies/status"} {
		if got := d.ask("GET "+path).expectError(t, 503, "not_ready"); got.header.Get("Retry-After") == "" || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s has the headers %v", path, got.header)
		}
	}
	// An empty first set is served.
	d.serve(stateOf(1, schema.NewSet()))
	d.ask("GET /v1/policies").expect(t, 200)
}

// TestPoliciesCompiled checks that a workload's policies are answered as a program to a client
// that accepts it, with the headers of the JSON.
func TestPoliciesCompiled(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(7, exampleSet()))
	const mine = "/v1/policies?service=frontend&namespace=demo"
	plain := d.ask("GET "+mine).expect(t, 200)
	for accept, compiled := range map[string]bool{
		program.MediaType:                                 true,
		"application/json, " + program.MediaType:          true,
		program.MediaType + ";q=0.5, application/json":    true,
		"application/json":                                false,
		"*/*":                                             false,
		"application/*":                                   false,
		program.MediaType + ";q=0":                        false,
		program.MediaType + ";q=0.000":                    false,
		program.MediaType + ";q=high":                     false,
		strings.ReplaceAll(program.MediaType, "v1", "v2"): false,
	} {
		got := d.ask("GET "+mine, "Accept", accept).expect(t, 200)
		for _, name := range []string{"Etag", "X-Hfi-Commit", "X-Hfi-Revision", "Cache-Control", "Vary"} {
			if got.header.Get(name) != plain.header.Get(name) || got.header.Get(name) == "" {
				t.Errorf("%s: %s is %q, want %q", accept, name, got.header.Get(name), plain.header.Get(name))
			}
		}
		if got.header.Get("Content-Length") != fmt.Sprint(len(got.body)) {
			t.Errorf("%s: %d bytes with the headers %v", accept, len(got.body), got.header)
		}
		if !compiled {
			if got.body != plain.body || got.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: the answer is not the JSON", accept)
			}
			continue
		}
		read, err := program.Read([]byte(got.body), selection.Workload{Service: "frontend", Namespace: "demo"})
		if err != nil || read.InForce() != 4 || got.header.Get("Content-Type") != program.MediaType {
			t.Errorf("%s: %v, %+v", accept, err, read)
		}
		head := d.ask("HEAD "+mine, "Accept", accept).expect(t, 200)
		if head.body != "" || head.header.Get("Content-Length") != fmt.Sprint(len(got.body)) {
			t.Errorf("%s: HEAD differs: %+v", accept, head)
		}
		d.ask("GET "+mine, "Accept", accept, "If-None-Match", got.header.Get("ETag")).expect(t, 304)
	}
	// Without a workload there is no program.
	if got := d.ask("GET /v1/policies", "Accept", program.MediaType).expect(t, 200); got.header.Get("Content-Type") != "application/json" {
		t.Errorf("the list of all policies has the type %s", got.header.Get("Content-Type"))
	}
}

// A filter accepts at most 4 MiB of compiled policies. Their JSON has no such limit.
func TestPoliciesTooLarge(t *testing.T) {
	d := start(t, nil)
	large := strings.Repeat("x", 900_000)
	set := schema.NewSet()
	for i := range 5 {
		set = set.With([]*schema.Entry{entryFrom(fmt.Sprintf(
			`{"metadata":{"name":"big%d"},"spec":{"selector":{"service":"big"},"rules":[{"fault":{"abort":{"status":503,"body":%q}}}]}}`, i, large))}, nil)
	}
	d.serve(stateOf(1, set))
	got := d.ask("GET /v1/policies?service=big&namespace=demo", "Accept", program.MediaType).expectError(t, 500, "too_large")
	if !strings.Contains(got.body, "5 policies") || !strings.Contains(got.body, "4194304") || got.header.Get("Retry-After") == "" {
		t.Errorf("the error is %s", got.body)
	}
	if got := d.ask("GET /v1/policies").expect(t, 200); len(got.names(t)) != 5 || len(got.body) < 4<<20 {
		t.Errorf("the list of all has %d bytes", len(got.body))
	}
	d.ask("GET /v1/policies?service=big&namespace=demo").expect(t, 200)
	d.ask("GET /v1/policies?service=other", "Accept", program.MediaType).expect(t, 200)
	d.serve(stateOf(2, set.With(nil, []string{"big0"})))
	d.ask("GET /v1/policies?service=big&namespace=demo", "Accept", program.MediaType).expect(t, 200)
}

// GET /v1/policies/{name} is the policy, with its file, line and commit.
func TestPolicy(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(7, exampleSet()))
	got := d.ask("GET /v1/policies/front-demo").expect(t, 200)
	var body struct {
		schema.Policy
		Origin schema.Origin `json:"origin"`
	}
	if err := json.Unmarshal([]byte(got.body), &body); err != nil {
		t.Fatal(err)
	}
	if want := exampleSet().Get("front-demo"); string(body.Policy.Canonical()) != string(want.Canonical) || body.Origin != want.Origin {
		t.Errorf("got %s", got.body)
	}
	if got.header.Get("X-Hfi-Revision") != "1-one.7" {
		t.Errorf("the headers are %v", got.header)
	}
	for _, path := range []string{"/nothing", "/", "/front-demo/", "/front-demo/x", "/%2e%2e", "/" + strings.Repeat("x", 2000)} {
		d.ask("GET /v1/policies"+path).expectError(t, 404, "not_found")
	}
	d.ask("GET /v1/policies/front-demo?x=1").expectError(t, 400, "bad_request")
}

// GET /v1/policies/status, field by field.
func TestPoliciesStatus(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	d := start(t, func(s *Server) { s.Now = func() time.Time { return now } })
	d.serve(stateOf(1, schema.NewSet(
		entryFrom(`{"metadata":{"name":"a-delay"},"spec":{"selector":{"service":"frontend","namespace":"demo"},"rules":[{"fault":{"delay_ms":500,"percentage":50}}]}}`),
		entryFrom(`{"metadata":{"name":"b-abort"},"spec":{"rules":[{"fault":{"abort":{"status":503}}},{"fault":{"abort":{"grpc_status":14}}}]}}`),
		entryFrom(`{"metadata":{"name":"c-both"},"spec":{"selector":{"service":"cart"},"rules":[{"fault":{"delay_ms":1,"abort":{"status":500}}}]}}`),
		entryFrom(`{"metadata":{"name":"d-dry"},"spec":{"dry_run":true,"rules":[{"fault":{"delay_ms":1}}]}}`),
		entryFrom(`{"metadata":{"name":"e-over"},"spec":{"expires_at":"2026-03-01T12:00:00Z","rules":[{"fault":{"delay_ms":1}}]}}`),
		entryFrom(`{"metadata":{"name":"f-soon"},"spec":{"expires_at":"2026-03-01T12:00:01Z","direction":"outbound","rules":[{"fault":{"delay_ms":1}}]}}`),
	)))
	want := `{"summary":{"total_policies":6,"abort_policies":2,"delay_policies":5,"active_policies":4},"policies":[` +
		`{"name":"a-delay","namespace":"demo","target_service":"frontend","rules_count":1,"fault_types":["delay"],"active":true,"direction":"inbound"},` +
		`{"name":"b-abort","namespace":"*","target_service":"*","rules_count":2,"fault_types":["abort"],"active":true,"direction":"inbound"},` +
		`{"name":"c-both","namespace":"*","target_service":"cart","rules_count":1,"fault_types":["delay","abort"],"active":true,"direction":"inbound"},` +
		`{"name":"d-dry","namespace":"*","target_service":"*","rules_count":1,"fault_types":["delay"],"active":false,"direction":"inbound"},` +
		`{"name":"e-over","namespace":"*","target_service":"*","rules_count":1,"fault_types":["delay"],"active":false,"direction":"inbound"},` +
		`{"name":"f-soon","namespace":"*","target_service":"*","rules_count":1,"fault_types":["delay"],"active":true,"direction":"outbound"}]}` + "\n"
	if got := d.ask("GET /v1/policies/status").expect(t, 200); got.body != want {
		t.Errorf("got  %s\nwant %s", got.body, want)
	}
	d.serve(stateOf(2, schema.NewSet()))
	want = `{"summary":{"total_policies":0,"abort_policies":0,"delay_policies":0,"active_policies":0},"policies":[]}` + "\n"
	if got := d.ask("GET /v1/policies/status"); got.body != want || got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %s", got.body)
	}
}

func TestFilter(t *testing.T) {
	d := start(t, nil)
	d.ask("GET /v1/filter.wasm").expectError(t, 404, "not_found")
	d.ask("GET /v1/filter/00.wasm").expectError(t, 404, "not_found")

	d = start(t, func(s *Server) { s.Filter = []byte("\x00asm not really") })
	got := d.ask("GET /v1/filter.wasm").expect(t, 200)
	const sum = "4ef74b8f1cb2ad6b8a4c0bfea2e1c9f0"
	tag := strings.Trim(got.header.Get("ETag"), `"`)
	if got.body != "\x00asm not really" || got.header.Get("Content-Type") != "application/wasm" || len(tag) != 64 {
		t.Fatalf("got %+v", got)
	}
	named := d.ask("GET /v1/filter/"+tag+".wasm").expect(t, 200)
	if named.body != got.body || !strings.Contains(named.header.Get("Cache-Control"), "immutable") {
		t.Errorf("got %+v", named)
	}
	d.ask("GET /v1/filter.wasm", "If-None-Match", got.header.Get("ETag")).expect(t, http.StatusNotModified)
	// A cache in between can ask for no answer that it would keep in the module's place.
	for _, header := range [][2]string{{"Range", "bytes=1-3"}, {"Range", "bytes=99-"}, {"If-Match", `"other"`}} {
		if whole := d.ask("GET /v1/filter/"+tag+".wasm", header[0], header[1]).expect(t, 200); whole.body != got.body {
			t.Errorf("with %s: %s: %+v", header[0], header[1], whole)
		}
	}
	if head := d.ask("HEAD /v1/filter.wasm").expect(t, 200); head.body != "" || head.header.Get("Content-Length") != "15" {
		t.Errorf("got %+v", head)
	}
	d.ask("GET /v1/filter/"+sum+sum+".wasm").expectError(t, 404, "not_found")
	d.ask("GET /v1/filter/"+tag).expectError(t, 404, "not_found")
}
