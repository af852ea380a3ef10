package fault

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/schema"
)

// reference is a simple implementation of Decide. Shares are 0 or All, so that nothing is
// random. Its input is the policies in force, whose names are unique.
func reference(inForce []*schema.Policy, limits Limits, request *fake) Decision {
	decision := Decision{DelayIndex: None, AbortIndex: None}
	ordered := slices.Clone(inForce)
	slices.SortFunc(ordered, func(a, b *schema.Policy) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	for index, policy := range ordered {
		if policy.Expired(request.now) {
			continue
		}
		dryDelay, dryAbort := false, false
		for _, rule := range policy.Spec.Rules {
			if rule.Fault.Percentage == 0 || !plainMatch(rule.Match, request) {
				continue
			}
			delay := time.Duration(rule.Fault.DelayMS) * time.Millisecond
			if limits.MaxDelay > 0 && delay > limits.MaxDelay {
				delay = limits.MaxDelay
			}
			if policy.Spec.DryRun {
				dryDelay = dryDelay || delay > 0
				dryAbort = dryAbort || rule.Fault.Abort != nil
				continue
			}
			if delay > decision.Delay {
				decision.Delay, decision.DelayIndex, decision.DelayPolicy = delay, index, policy.Metadata.Name
			}
			if abort := rule.Fault.Abort; abort != nil && decision.Abort == nil {
				decision.Abort, decision.AbortIndex, decision.AbortPolicy = plainAbort(abort), index, policy.Metadata.Name
			}
		}
		if dryDelay {
			decision.DryRun = append(decision.DryRun, Hit{index, KindDelay})
		}
		if dryAbort {
			decision.DryRun = append(decision.DryRun, Hit{index, KindAbort})
		}
	}
	return decision
}

// plainAbort returns the response of an abort.
func plainAbort(from *schema.Abort) *program.Abort {
	abort := &program.Abort{Status: from.Status, GRPCStatus: program.NoGRPC}
	if from.GRPCStatus != nil {
		abort.Status, abort.GRPCStatus = 200, *from.GRPCStatus
	}
	if from.Body != "" {
		abort.Body = []byte(from.Body)
	}
	for _, name := range slices.Sorted(maps.Keys(from.Headers)) {
		abort.Headers = append(abort.Headers, [2]string{name, from.Headers[name]})
	}
	return abort
}

func plainMatch(match *schema.Match, request *fake) bool {
	if match == nil {
		return true
	}
	if len(match.Methods) > 0 && !slices.Contains(match.Methods, request.method) {
		return false
	}
	path, _, _ := strings.Cut(request.path, "?")
	path, _, _ = strings.Cut(path, "#")
	if match.Path != nil && !plainText(*match.Path, path) {
		return false
	}
	for _, header := range match.Headers {
		value, present := request.headers[header.Name]
		if header.Present != nil {
			if *header.Present != present {
				return false
			}
		} else if !present || !plainText(header.StringMatch, value) {
			return false
		}
	}
	return true
}

func plainText(match schema.StringMatch, value string) bool {
	switch {
	case match.Exact != nil:
		return value == *match.Exact
	case match.Prefix != nil:
		return strings.HasPrefix(value, *match.Prefix)
	}
	// An expression matches the whole value if its leftmost-longest match is the whole value.
	expression := regexp.MustCompile(*match.Regex)
	expression.Longest()
	found := expression.FindStringIndex(value)
	return found != nil && found[0] == 0 && found[1] == len(value)
}

// agree fails if the program of policies and the reference make different decisions.
func agree(t *testing.T, policies []*schema.Policy, limits Limits, requests ...*fake) (made *decider, faults int) {
	t.Helper()
	made, inForce := compileValid(t, policies, limits)
	for _, request := range requests {
		request.asked = nil
		got, want := made.Decide(request, NewRandom(1)), reference(inForce, limits, request)
		if !reflect.DeepEqual(got, want) {
			text, _ := json.MarshalIndent(inForce, "", " ")
			t.Fatalf("%s %q %q decides\n%+v, want\n%+v; in force:\n%s", request.method, request.path, request.headers, got, want, text)
		}
		for what, times := range request.asked {
			if times > 1 {
				t.Fatalf("%s was read %d times", what, times)
			}
		}
		if made.line(got) != "" {
			faults++
		}
	}
	return made, faults
}

var someMoment = time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)

// maker generates random policies and requests from few words, so that they often match.
type maker struct {
	*rand.Rand
	// odds are the tenths of rules that have each kind of condition.
	path, header, method int
	words, names         int
}

func (m *maker) often(tenths int) bool { return m.IntN(10) < tenths }

func pick[T any](m *maker, from ...T) T { return from[m.IntN(len(from))] }

func (m *maker) word() string { return fmt.Sprint("w", m.IntN(m.words)) }

func (m *maker) aPath() string {
	path := pick(m, "", "/", "/", "/")
	for range m.IntN(4) {
		path += m.word() + pick(m, "", "/", "/")
	}
	return path
}

func (m *maker) text(value func() string) schema.StringMatch {
	v := value()
	switch m.IntN(4) {
	case 0:
		return schema.StringMatch{Prefix: &v}
	case 1:
		quoted := regexp.QuoteMeta(v)
		v = pick(m, "^"+quoted+"$", quoted+".*", "^"+quoted, quoted+"|"+regexp.QuoteMeta(value()), "("+quoted+")?[a-z0-9/]*",
			`\Q`+v, ".*"+quoted, "(?i)"+strings.ToUpper(quoted), "^"+quoted+"|"+quoted+"x")
		return schema.StringMatch{Regex: &v}
	}
	return schema.StringMatch{Exact: &v}
}

func (m *maker) name() string { return fmt.Sprint("x-", m.IntN(m.names)) }

func (m *maker) rule() schema.Rule {
	var rule schema.Rule
	match := &schema.Match{}
	if m.often(m.path) {
		text := m.text(m.aPath)
		match.Path = &text
	}
	if m.often(m.method) {
		match.Methods = []string{pick(m, "GET", "PUT")}
	}
	for m.often(m.header) && len(match.Headers) < 3 {
		header := schema.HeaderMatch{Name: m.name()}
		if m.often(2) {
			present := m.often(5)
			header.Present = &present
		} else {
			header.StringMatch = m.text(m.word)
		}
		match.Headers = append(match.Headers, header)
	}
	if m.often(9) {
		rule.Match = match
	}
	if m.often(9) {
		rule.Fault.Percentage = schema.All
	}
	if m.often(5) {
		rule.Fault.DelayMS = 1 + m.Int64N(5)
	}
	if m.often(5) || rule.Fault.DelayMS == 0 {
		rule.Fault.Abort = &schema.Abort{Status: 500 + m.IntN(5)}
	}
	return rule
}

func (m *maker) policies(count int) []*schema.Policy {
	var all []*schema.Policy
	for i := range count {
		p := &schema.Policy{Metadata: schema.Metadata{Name: fmt.Sprint("p", i)}}
		p.Spec.DryRun = m.often(1)
		if m.often(2) {
			at := someMoment.Add(time.Duration(m.IntN(3)-1) * time.Second)
			p.Spec.ExpiresAt = &at
		}
		for range 1 + m.IntN(3) {
			p.Spec.Rules = append(p.Spec.Rules, m.rule())
		}
		all = append(all, p)
	}
	m.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func (m *maker) request() *fake {
	request := get(m.aPath() + pick(m, "", "", "?q", "#f", "?"))
	request.method = pick(m, "GET", "PUT")
	request.now = someMoment
	for m.often(7) {
		request.headers[m.name()] = m.word()
	}
	return request
}

// TestAgreesWithReference compares decisions through the index with the reference.
func TestAgreesWithReference(t *testing.T) {
	seed := rand.Uint64()
	var indexed, exact, prefixes, headers, linear, faults, manyNames int
	for round := range 1500 {
		random := rand.New(rand.NewPCG(seed, uint64(round)))
		m := &maker{Rand: random, path: random.IntN(11), header: random.IntN(10), method: random.IntN(4), words: 2 + random.IntN(12), names: 1 + random.IntN(30)}
		var requests []*fake
		for range 40 {
			requests = append(requests, m.request())
		}
		made, hit := agree(t, m.policies(1+m.IntN(60)), Limits{MaxDelay: pick(m, 0, 3*time.Millisecond)}, requests...)
		faults += hit
		if len(made.Headers) > len(view{}.headers) {
			manyNames++
		}
		if x := made.Index; x != nil {
			indexed++
			exact += len(x.Exact)
			prefixes += len(x.Prefixes)
			headers += len(x.Headers)
			linear += len(x.Linear)
		}
		if t.Failed() {
			t.Fatalf("seed %d, round %d", seed, round)
		}
	}
	if indexed == 0 || exact == 0 || prefixes == 0 || headers == 0 || linear == 0 || faults == 0 || manyNames == 0 {
		t.Errorf("not all kinds were tried: %d programs indexed, %d exact, %d prefixes, %d headers, %d linear, %d faults, %d with many headers",
			indexed, exact, prefixes, headers, linear, faults, manyNames)
	}
}
