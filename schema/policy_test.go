package schema_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/schema"
)

// TestCanonical checks that equivalent policies have the same canonical form.
func TestCanonical(t *testing.T) {
	rule := func(spec string) string { return `{"metadata":{"name":"p"},"spec":{` + spec + `}}` }
	tests := []struct{ name, text, want string }{
		{"defaults", rule(`"rules":[{"fault":{"delay_ms":1}}]`),
			`{"metadata":{"name":"p"},"spec":{"selector":{"service":"*","namespace":"*"},"rules":[{"fault":{"percentage":100,"delay_ms":1}}]}}`},
		{"empty selector", rule(`"selector":{"service":"","namespace":""},"rules":[{"match":{},"fault":{"delay_ms":1}}],"dry_run":false`),
			`{"metadata":{"name":"p"},"spec":{"selector":{"service":"*","namespace":"*"},"rules":[{"fault":{"percentage":100,"delay_ms":1}}]}}`},
		{"a gateway", rule(`"selector":{"gateway":"ingress","namespace":"mesh"},"rules":[{"fault":{"delay_ms":1}}]`),
			`{"metadata":{"name":"p"},"spec":{"selector":{"service":"*","namespace":"mesh","gateway":"ingress"},"rules":[{"fault":{"percentage":100,"delay_ms":1}}]}}`},
		{"order, capitals, white space, unknown fields", ` {"kind":"x","spec":{"rules":[ {"fault":{"abort":{"headers":{"X-B":"2","X-A":"1"},"status":503},"percentage":5.0},"match":{"headers":[{"present":true,"name":"X-User"}],"methods":["POST","GET","GET"]}} ]},"metadata":{"name":"p"}}`,
			`{"metadata":{"name":"p"},"spec":{"selector":{"service":"*","namespace":"*"},"rules":[{"match":{"methods":["GET","POST"],"headers":[{"name":"x-user","present":true}]},"fault":{"percentage":5,"abort":{"status":503,"headers":{"x-a":"1","x-b":"2"}}}}]}}`},
		{"a time in another time zone", rule(`"rules":[{"fault":{"delay_ms":1}}],"expires_at":"2027-01-31T14:00:00.500+02:00"`),
			`{"metadata":{"name":"p"},"spec":{"selector":{"service":"*","namespace":"*"},"rules":[{"fault":{"percentage":100,"delay_ms":1}}],"expires_at":"2027-01-31T12:00:00.5Z"}}`},
		{"zero percentage, gRPC status OK, no HTML escapes", rule(`"rules":[{"fault":{"percentage":0,"abort":{"grpc_status":0,"body":"<&>"}}}]`),
			`{"metadata":{"name":"p"},"spec":{"selector":{"service":"*","namespace":"*"},"rules":[{"fault":{"percentage":0,"abort":{"grpc_status":0,"body":"<&>"}}}]}}`},
		{"inbound, the default", rule(`"direction":"inbound","rules":[{"fault":{"delay_ms":1}}]`),
			`{"metadata":{"name":"p"},"spec":{"selector":{"service":"*","namespace":"*"},"rules":[{"fault":{"percentage":100,"delay_ms":1}}]}}`},
		{"outbound", rule(`"rules":[{"match":{"to":{"namespace":"demo","service":"cart"}},"fault":{"delay_ms":1}},{"match":{"to":{"host":"a.example"}},"fault":{"delay_ms":1}}],"direction":"outbound"`),
			`{"metadata":{"name":"p"},"spec":{"selector":{"service":"*","namespace":"*"},"direction":"outbound","rules":[{"match":{"to":{"service":"cart","namespace":"demo"}},"fault":{"percentage":100,"delay_ms":1}},{"match":{"to":{"host":"a.example"}},"fault":{"percentage":100,"delay_ms":1}}]}}`},
		{"an empty exact match", rule(`"rules":[{"match":{"path":{"exact":""}},"fault":{"delay_ms":1}}]`),
			`{"metadata":{"name":"p"},"spec":{"selector":{"service":"*","namespace":"*"},"rules":[{"match":{"path":{"exact":""}},"fault":{"percentage":100,"delay_ms":1}}]}}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			policy, err := schema.Parse([]byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(policy.Canonical()); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			fixedPoint(t, policy)
		})
	}
}

func fixedPoint(t *testing.T, policy *schema.Policy) {
	t.Helper()
	text := policy.Canonical()
	again, err := schema.Parse(text)
	if err != nil {
		t.Fatalf("the canonical form cannot be read: %v\n%s", err, text)
	}
	if got := again.Canonical(); string(got) != string(text) {
		t.Errorf("the canonical form is not a fixed point:\n%s\n%s", text, got)
	}
}

// TestPercentage writes and reads every percentage in whole parts per million.
func TestPercentage(t *testing.T) {
	for parts := range schema.All + 1 {
		text, err := parts.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var back schema.Percentage
		if err := back.UnmarshalJSON(text); err != nil || back != parts {
			t.Fatalf("%d is written %s and read as %d (%v)", parts, text, back, err)
		}
		if s := string(text); strings.Contains(s, ".") && strings.HasSuffix(s, "0") {
			t.Fatalf("%d is written %s", parts, text)
		}
	}
	for text, want := range map[string]schema.Percentage{"50": 500_000, "12.5": 125_000, "0.0001": 1, "99.9999": 999_999, "1e1": 100_000, "5.0": 50_000, "0": 0, "100": schema.All} {
		var got schema.Percentage
		if err := got.UnmarshalJSON([]byte(text)); err != nil || got != want {
			t.Errorf("%s is read as %d (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"-1", "100.0001", "0.00001", "33.33333", `"50"`, "NaN", "Inf", "true", "1e400"} {
		var got schema.Percentage
		if err := got.UnmarshalJSON([]byte(text)); err == nil {
			t.Errorf("%s is read as %d", text, got)
		}
	}
}

// TestExpired checks that a policy has expired at the exact time of expires_at.
func TestExpired(t *testing.T) {
	at := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	policy := &schema.Policy{Spec: schema.Spec{ExpiresAt: &at}}
	if policy.Expired(at.Add(-time.Nanosecond)) || !policy.Expired(at) || !policy.Expired(at.Add(time.Nanosecond)) {
		t.Error("the policy does not expire at its expires_at")
	}
	if (&schema.Policy{}).Expired(at) {
		t.Error("a policy without expires_at has expired")
	}
}

// FuzzParse checks that Parse never panics, and that the canonical form of a
// policy is a fixed point. etcd may contain any text.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		`{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"delay_ms":1}}]}}`,
		`{"metadata":{"name":"p"},"spec":{"expires_at":"2027-01-31T12:00:00+02:00","rules":[{"match":{"headers":[{"name":"X","present":false}]},"fault":{"percentage":0.5,"abort":{"grpc_status":0,"headers":{"A":"b"}}}}]}}`,
		`{"metadata":{"name":"p"},"spec":{"expires_at":"0000-01-01T00:00:00+23:00"}}`,
		`{"metadata":{"name":"p"},"spec":{"expires_at":"9999-12-31T23:59:59-23:00"}}`,
		`{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"abort":{"headers":{"A":"1","a":"2"}}}}]}}`,
		`null`, `{}`, `[`, `{"metadata":{"name":1}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		policy, err := schema.Parse(text)
		if err != nil {
			return
		}
		fixedPoint(t, policy)
	})
}

// entry returns an entry with a name, a delay in milliseconds and a file.
func entry(name string, delay int, file string) *schema.Entry {
	policy, err := schema.Parse(fmt.Appendf(nil, `{"metadata":{"name":%q},"spec":{"rules":[{"fault":{"delay_ms":%d}}]}}`, name, delay))
	if err != nil {
		panic(err)
	}
	return schema.NewEntry(policy, schema.Origin{File: file, Line: 1})
}

// TestSetProperties makes random changes to a set and to a plain map of the
// same entries, and compares them: content, order, digest and difference.
func TestSetProperties(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	set, model := schema.NewSet(), map[string]*schema.Entry{}
	for range 300 {
		before, beforeModel := set, map[string]*schema.Entry{}
		for name, e := range model {
			beforeModel[name] = e
		}
		var puts []*schema.Entry
		var deletes []string
		for range r.IntN(12) {
			if name := fmt.Sprintf("p%d", r.IntN(60)); r.IntN(3) == 0 {
				deletes = append(deletes, name)
			} else {
				puts = append(puts, entry(name, 1+r.IntN(3), fmt.Sprintf("f%d", r.IntN(2))))
			}
		}
		set = set.With(puts, deletes)
		for _, name := range deletes {
			delete(model, name)
		}
		for _, e := range puts {
			model[e.Name()] = e
		}
		checkSet(t, set, model)
		checkSet(t, before, beforeModel) // a set is immutable
		checkDiff(t, before, set, beforeModel, model)
	}
}

func checkSet(t *testing.T, set *schema.Set, model map[string]*schema.Entry) {
	t.Helper()
	if set.Len() != len(model) || len(set.Entries()) != len(model) {
		t.Fatalf("the set has %d policies and lists %d, want %d", set.Len(), len(set.Entries()), len(model))
	}
	shuffled := make([]*schema.Entry, 0, len(model))
	for name, e := range model {
		if set.Get(name) != e {
			t.Fatalf("the set has another entry for %s", name)
		}
		if !slices.Contains(set.Bucket(schema.BucketOf(name)), e) {
			t.Fatalf("%s is not in its bucket", name)
		}
		shuffled = append(shuffled, e) // in a map's random order
	}
	if !slices.IsSortedFunc(set.Entries(), func(a, b *schema.Entry) int { return strings.Compare(a.Name(), b.Name()) }) {
		t.Fatal("the entries are not in order")
	}
	if fresh := schema.NewSet(shuffled...); fresh.Digest() != set.Digest() {
		t.Fatal("the digest depends on how the set was made")
	}
	if set.Get("nobody") != nil {
		t.Fatal("the set has a policy that was not added")
	}
}

func checkDiff(t *testing.T, from, to *schema.Set, old, new map[string]*schema.Entry) {
	t.Helper()
	found, content := map[string]schema.Change{}, false
	for _, c := range schema.Diff(from, to) {
		if _, twice := found[c.Name]; twice {
			t.Fatalf("%s is listed twice", c.Name)
		}
		found[c.Name] = c
		content = content || !c.OriginOnly()
		if c.Old != old[c.Name] || c.New != new[c.Name] {
			t.Fatalf("%s: the change is %+v", c.Name, c)
		}
	}
	for i := range 60 {
		name := fmt.Sprintf("p%d", i)
		a, b := old[name], new[name]
		differs := (a == nil) != (b == nil) || a != nil && (a.Hash != b.Hash || a.Origin != b.Origin)
		if _, listed := found[name]; listed != differs {
			t.Fatalf("%s: listed %t, differs %t", name, listed, differs)
		}
	}
	if (from.Digest() != to.Digest()) != content {
		t.Fatalf("the digests differ: %t, the content differs: %t", from.Digest() != to.Digest(), content)
	}
}

// pinned was computed by another implementation of the formula.
const pinned = "v1:aa8cff22e717a1504d292854ce9a0df9d5adb91240cf5551b404c615031dcc49"

// TestDigestIsPinned checks the formula of the digest. Daemons of different
// builds compare digests, so the formula may change only together with
// DigestVersion.
func TestDigestIsPinned(t *testing.T) {
	const empty = "v1:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	if got := schema.NewSet().Digest(); got != empty {
		t.Errorf("the empty set's digest is %s, want %s", got, empty)
	}
	if got := schema.NewSet(entry("a", 1, "x"), entry("b", 2, "y")).Digest(); got != pinned {
		t.Errorf("the digest of two policies is %s, want %s", got, pinned)
	}
}

// TestProblem checks that problems are formatted as compilers format errors.
func TestProblem(t *testing.T) {
	for want, p := range map[string]schema.Problem{
		"f.yaml:3:5: spec.rules: rules is missing": {File: "f.yaml", Line: 3, Column: 5, Field: "spec.rules", Message: "rules is missing"},
		"f.yaml: too large":                        {File: "f.yaml", Message: "too large"},
	} {
		if got := p.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if _, err := json.Marshal(schema.Problem{}); err != nil {
		t.Error(err)
	}
}
