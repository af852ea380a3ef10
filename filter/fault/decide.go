package fault

import (
	"slices"
	"strings"
	"time"

	"github.com/boifi/hfi/filter/program"
)

// Decide makes the decision on a request. The decision's DryRun is appended to hits, which has
// no items and may be nil. Decide allocates memory only if hits is too small, if more than
// 8 rules of dry-run policies apply, or if the rules compare more than 16 different headers.
func Decide(p *program.Program, request Request, random *Random, limits Limits, hits []Hit) Decision {
	decision := Decision{DelayIndex: None, AbortIndex: None}
	if p.Idle() {
		return decision
	}
	view := view{request: request, program: p}
	if more := len(p.Headers) - len(view.headers); more > 0 {
		view.more = make([]value, more)
	}
	drawn := outcome{delayRule: None, abortRule: None}
	if p.Index != nil {
		drawn.tryIndex(p.Index, &view, random, limits)
	} else {
		for i := range p.Rules {
			drawn.try(i, &view, random, limits)
		}
	}
	if drawn.delayRule != None {
		policy := p.Rules[drawn.delayRule].Policy
		decision.Delay, decision.DelayIndex, decision.DelayPolicy = drawn.delay, policy, p.Policies[policy].Name
	}
	if drawn.abortRule != None {
		rule := &p.Rules[drawn.abortRule]
		decision.Abort, decision.AbortIndex, decision.AbortPolicy = rule.Abort, rule.Policy, p.Policies[rule.Policy].Name
	}
	if rules := drawn.dryRun[:drawn.dryRuns]; len(drawn.more) > 0 {
		decision.DryRun = appendHits(hits, p, append(drawn.more, rules...))
	} else if len(rules) > 0 {
		decision.DryRun = appendHits(hits, p, rules)
	}
	return decision
}

// outcome is the result of the rules tried so far. It does not depend on the order in
// which they are tried. Rules are indices in Program.Rules, or None.
type outcome struct {
	// delayRule is the first rule with the longest delay, which is delay.
	delayRule int
	delay     time.Duration
	// abortRule is the first rule with an abort.
	abortRule int
	// dryRun has the first dryRuns rules of dry-run policies, and more the others. A single
	// slice would always be allocated.
	dryRun  [8]int
	dryRuns int
	more    []int
}

// tryIndex tries the rules that may match.
func (o *outcome) tryIndex(x *program.Index, view *view, random *Random, limits Limits) {
	o.tryAll(x.Linear, view, random, limits)
	if len(x.Exact) > 0 {
		o.tryAll(program.Find(x.Exact, view.path()), view, random, limits)
	}
	if len(x.Prefixes) > 0 {
		path := view.path()
		for at := program.LastUpTo(x.Prefixes, path); at >= 0; at = int(x.Parents[at]) {
			if group := &x.Prefixes[at]; strings.HasPrefix(path, group.Key) {
				o.tryAll(group.Rules, view, random, limits)
			}
		}
	}
	for i := range x.Headers {
		if text, present := view.header(x.Headers[i].Slot); present {
			o.tryAll(program.Find(x.Headers[i].Groups, text), view, random, limits)
		}
	}
}

func (o *outcome) tryAll(rules []uint32, view *view, random *Random, limits Limits) {
	for _, number := range rules {
		o.try(int(number), view, random, limits)
	}
}

// try adds a rule to the outcome if it applies. It makes the random draw before it
// evaluates the conditions, because the draw needs no host call.
func (o *outcome) try(number int, view *view, random *Random, limits Limits) {
	r := &view.program.Rules[number]
	policy := &view.program.Policies[r.Policy]
	delay := limits.delay(r.Delay)
	delays := delay > 0 && (delay > o.delay || delay == o.delay && number < o.delayRule)
	aborts := r.Abort != nil && (o.abortRule == None || number < o.abortRule)
	if !policy.DryRun && !delays && !aborts {
		return
	}
	if !random.Draw(r.Share) || !matches(r, view) {
		return
	}
	if policy.Expires && !view.now().Before(policy.ExpiresAt) {
		return
	}
	if policy.DryRun {
		o.addDryRun(number)
		return
	}
	if delays {
		o.delayRule, o.delay = number, delay
	}
	if aborts {
		o.abortRule = number
	}
}

func (o *outcome) addDryRun(number int) {
	if o.dryRuns == len(o.dryRun) {
		o.more = append(o.more, number)
		return
	}
	o.dryRun[o.dryRuns] = number
	o.dryRuns++
}

// delay returns a delay within the limits.
func (l Limits) delay(delay time.Duration) time.Duration {
	if l.MaxDelay > 0 {
		return min(delay, l.MaxDelay)
	}
	return delay
}

// appendHits appends the hits of dry-run rules, at most one for each policy and kind.
func appendHits(hits []Hit, p *program.Program, rules []int) []Hit {
	if len(rules) > 1 {
		slices.Sort(rules)
	}
	for first := 0; first < len(rules); {
		policy := p.Rules[rules[first]].Policy
		var delays, aborts bool
		for first < len(rules) && p.Rules[rules[first]].Policy == policy {
			delays = delays || p.Rules[rules[first]].Delay > 0
			aborts = aborts || p.Rules[rules[first]].Abort != nil
			first++
		}
		if delays {
			hits = append(hits, Hit{policy, KindDelay})
		}
		if aborts {
			hits = append(hits, Hit{policy, KindAbort})
		}
	}
	return hits
}

// matches reports whether all conditions of a rule hold.
func matches(r *program.Rule, view *view) bool {
	if r.Path.How != program.Always && !r.Path.Holds(view.path()) {
		return false
	}
	if len(r.Methods) > 0 && !slices.Contains(r.Methods, view.method()) {
		return false
	}
	for i := range r.Headers {
		condition := &r.Headers[i]
		value, present := view.header(condition.Slot)
		if !present && condition.Text.How != program.Absent || present && !condition.Text.Holds(value) {
			return false
		}
	}
	return true
}

// view caches what one decision reads from a request.
type view struct {
	request Request
	program *program.Program
	asked   struct{ path, method, now bool }
	thePath string
	verb    string
	moment  time.Time
	// headers has the values of the first slots, more those of the others. A single
	// slice would always be allocated.
	headers [16]value
	more    []value
}

// value is the cached value of a header.
type value struct {
	text           string
	asked, present bool
}

// path returns the request's path without query and fragment.
func (v *view) path() string {
	if !v.asked.path {
		v.asked.path = true
		v.thePath = v.request.Path()
		if end := strings.IndexAny(v.thePath, "?#"); end >= 0 {
			v.thePath = v.thePath[:end]
		}
	}
	return v.thePath
}

func (v *view) method() string {
	if !v.asked.method {
		v.asked.method = true
		v.verb = v.request.Method()
	}
	return v.verb
}

func (v *view) now() time.Time {
	if !v.asked.now {
		v.asked.now = true
		v.moment = v.request.Now()
	}
	return v.moment
}

func (v *view) header(slot int) (string, bool) {
	var header *value
	if slot < len(v.headers) {
		header = &v.headers[slot]
	} else {
		header = &v.more[slot-len(v.headers)]
	}
	if !header.asked {
		header.asked = true
		header.text, header.present = v.request.Header(v.program.Headers[slot])
	}
	return header.text, header.present
}
