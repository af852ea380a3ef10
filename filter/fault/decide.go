package fault

import (
	"slices"
	"strings"
	"time"
)

// Decide makes the decision on a request. It allocates memory only if a dry-run policy
// applies, or if the rules compare more than 16 different headers.
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

// outcome is the result of the rules tried so far. It does not depend on the order in
// which they are tried.
type outcome struct {
	// delay is the first rule with the longest delay.
	delay *rule
	// abort is the first rule with an abort.
	abort  *rule
	dryRun []*rule
}

// try adds a rule to the outcome if it applies. It makes the random draw before it
// evaluates the conditions, because the draw needs no host call.
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

// hits returns the hits of dry-run rules, at most one for each policy and kind.
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

// matches reports whether all conditions of a rule hold.
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

// view caches what one decision reads from a request.
type view struct {
	request Request
	program *Program
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
		header.text, header.present = v.request.Header(v.program.headers[slot])
	}
	return header.text, header.present
}
