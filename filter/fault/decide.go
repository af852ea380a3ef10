package fault

import (
	"slices"
	"strings"
	"time"
)

// Decide draws what happens to a request. It allocates nothing unless a
// dry-run policy hits or the rules ask for more than 16 different headers.
func (p *Program) Decide(request Request, random *Random) Decision {
	decision := Decision{DelayIndex: None, AbortIndex: None}
	if len(p.rules) == 0 {
		return decision
	}
	view := view{request: request, program: p}
	if more := len(p.headers) - len(view.headers); more > 0 {
		view.more = make([]value, more)
	}
	var drawn outcome
	if p.index != nil {
		p.index.try(&drawn, &view, random)
	} else {
		for i := range p.rules {
			drawn.try(&p.rules[i], &view, random)
		}
	}
	if rule := drawn.delay; rule != nil {
		decision.Delay, decision.DelayIndex, decision.DelayPolicy = rule.delay, rule.policy, p.policies[rule.policy]
	}
	if rule := drawn.abort; rule != nil {
		decision.Abort, decision.AbortIndex, decision.AbortPolicy = rule.abort, rule.policy, p.policies[rule.policy]
	}
	if drawn.dryRun != nil {
		decision.DryRun = p.hits(drawn.dryRun)
	}
	return decision
}

// outcome is what the rules tried so far come to. The order in which they
// are tried makes no difference.
type outcome struct {
	// delay has the longest delay, and is the first of those that have it.
	delay *rule
	// abort is the first rule with an abort.
	abort  *rule
	dryRun []*rule
}

// try draws for a rule that may match, and adds it to the outcome if it
// applies. The draw comes before the conditions, since it asks the proxy nothing.
func (o *outcome) try(r *rule, view *view, random *Random) {
	delays, aborts := o.wouldDelay(r), o.wouldAbort(r)
	if !r.dryRun && !delays && !aborts {
		return
	}
	if !random.Draw(r.share) || !r.matches(view) {
		return
	}
	if r.expires != nil && !view.now().Before(*r.expires) {
		return
	}
	if r.dryRun {
		o.dryRun = append(o.dryRun, r)
		return
	}
	if delays {
		o.delay = r
	}
	if aborts {
		o.abort = r
	}
}

func (o *outcome) wouldDelay(r *rule) bool {
	if r.delay == 0 || o.delay == nil {
		return r.delay > 0
	}
	return r.delay > o.delay.delay || r.delay == o.delay.delay && r.order < o.delay.order
}

func (o *outcome) wouldAbort(r *rule) bool {
	return r.abort != nil && (o.abort == nil || r.order < o.abort.order)
}

// hits reports dry-run rules by policy, each policy once for each kind.
func (p *Program) hits(rules []*rule) []Hit {
	slices.SortFunc(rules, func(a, b *rule) int { return a.order - b.order })
	var hits []Hit
	for first := 0; first < len(rules); {
		policy := rules[first].policy
		var delays, aborts bool
		for first < len(rules) && rules[first].policy == policy {
			delays = delays || rules[first].delay > 0
			aborts = aborts || rules[first].abort != nil
			first++
		}
		if delays {
			hits = append(hits, Hit{Policy: p.policies[policy], Index: policy, Kind: KindDelay})
		}
		if aborts {
			hits = append(hits, Hit{Policy: p.policies[policy], Index: policy, Kind: KindAbort})
		}
	}
	return hits
}

// matches says whether all conditions hold.
func (r *rule) matches(view *view) bool {
	if r.path.how != always && !r.path.holds(view.path()) {
		return false
	}
	if len(r.methods) > 0 && !slices.Contains(r.methods, view.method()) {
		return false
	}
	for i := range r.headers {
		condition := &r.headers[i]
		value, present := view.header(condition.slot)
		if !present && condition.text.how != absent || present && !condition.text.holds(value) {
			return false
		}
	}
	return true
}

// view is what one decision has asked a request for: each thing once.
type view struct {
	request Request
	program *Program
	asked   struct{ path, method, now bool }
	thePath string
	verb    string
	moment  time.Time
	// headers are by slot, and more are those that come after them. Were
	// they one slice, it would always be allocated.
	headers [16]value
	more    []value
}

// value is a header's, if it was asked for.
type value struct {
	text           string
	asked, present bool
}

// path is the request's path without its query.
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
		header.text, header.present = v.request.Header(v.program.headers[slot])
	}
	return header.text, header.present
}
