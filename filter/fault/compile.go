package fault

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/boifi/hfi/schema"
)

// Program is the compiled rules of the policies in force. It is immutable,
// and the zero value has no rules.
type Program struct {
	// policies are the names of the policies in force, in order.
	policies []string
	// rules are those that could ever act, by policy and as written: of two,
	// the one that comes first has precedence.
	rules []rule
	// index finds rules; it is nil where they are few.
	index *index
	// headers are the names of the headers that rules ask for, each once.
	headers []string
}

// rule is one rule that can act: its share is above 0 and it has a delay or
// an abort or both.
type rule struct {
	// order is the rule's place in Program.rules.
	order int
	// policy is the place of its policy in Program.policies.
	policy int
	dryRun bool
	share  schema.Percentage
	// expires is when the rule ends; nil means never.
	expires *time.Time
	delay   time.Duration
	abort   *Abort

	path text
	// methods are those allowed; none means all.
	methods []string
	headers []header
}

// header is a condition on the header with a place in Program.headers.
type header struct {
	slot int
	text text
}

// Compile makes a program of policies as schema.Parse gives them, in any
// order. A policy that cannot be carried out is left out whole and reported, in
// one error that names the policy and the place; the others stay in force.
func Compile(policies []*schema.Policy, limits Limits) (*Program, []error) {
	c := newCompiler(limits)
	var failed []error
	ordered := slices.DeleteFunc(slices.Clone(policies), func(p *schema.Policy) bool { return p == nil })
	slices.SortStableFunc(ordered, func(a, b *schema.Policy) int {
		return cmp.Compare(a.Metadata.Name, b.Metadata.Name)
	})
	for _, policy := range ordered {
		if err := c.add(policy); err != nil {
			failed = append(failed, fmt.Errorf("policy %q cannot be carried out: %w", policy.Metadata.Name, err))
		}
	}
	for i := range c.program.rules {
		c.program.rules[i].order = i
	}
	c.program.index = newIndex(c.program.rules)
	return c.program, failed
}

// Policies are the names of the policies in force, in order. A policy's place
// here is its index in a Decision. Nobody may change it.
func (p *Program) Policies() []string { return p.policies }

// Idle says that no rule could ever act, so that no request need be looked at.
func (p *Program) Idle() bool { return len(p.rules) == 0 }

type compiler struct {
	program *Program
	limits  Limits
	// slots are the places of names in Program.headers.
	slots map[string]int
	// regexes are the expressions compiled so far, and steps what all of them
	// count for; fresh are those that the policy at hand brought.
	regexes map[string]compiled
	steps   int
	fresh   []string
}

func newCompiler(limits Limits) *compiler {
	return &compiler{limits: limits, slots: map[string]int{}, regexes: map[string]compiled{}, program: new(Program)}
}

// Check says why a filter would leave a policy out, even if it were the only
// one: what is wrong with it beyond what policy.cue can see.
func Check(policy *schema.Policy) error { return newCompiler(Limits{}).add(policy) }

// add compiles a policy's rules into the program: all or, with an error, none.
func (c *compiler) add(policy *schema.Policy) (err error) {
	c.fresh = c.fresh[:0]
	defer func() {
		if err != nil {
			c.giveBack()
		}
	}()
	var rules []rule
	for i := range policy.Spec.Rules {
		made, err := c.compileRule(&policy.Spec.Rules[i])
		if err != nil {
			return fmt.Errorf("spec.rules[%d].%w", i, err)
		}
		if made.share == 0 {
			continue
		}
		made.policy = len(c.program.policies)
		made.dryRun = policy.Spec.DryRun
		if at := policy.Spec.ExpiresAt; at != nil {
			moment := *at
			made.expires = &moment
		}
		rules = append(rules, made)
	}
	c.program.policies = append(c.program.policies, policy.Metadata.Name)
	c.program.rules = append(c.program.rules, rules...)
	return nil
}

func (c *compiler) compileRule(from *schema.Rule) (rule, error) {
	fault := &from.Fault
	made := rule{share: fault.Percentage}
	if fault.Percentage < 0 || fault.Percentage > schema.All {
		return rule{}, fmt.Errorf("fault.percentage: %d parts per million is not between 0 and %d", fault.Percentage, schema.All)
	}
	if fault.DelayMS < 0 {
		return rule{}, fmt.Errorf("fault.delay_ms: %d is negative", fault.DelayMS)
	}
	made.delay = c.delay(fault.DelayMS)
	if fault.Abort != nil {
		var err error
		if made.abort, err = compileAbort(fault.Abort); err != nil {
			return rule{}, fmt.Errorf("fault.abort%w", err)
		}
	}
	if made.delay == 0 && made.abort == nil {
		return rule{}, errors.New("fault: it has neither a delay nor an abort, or one that this filter does not know")
	}
	if from.Match == nil {
		return made, nil
	}
	made.methods = slices.Clone(from.Match.Methods)
	if path := from.Match.Path; path != nil {
		var err error
		if made.path, err = c.compileText(*path); err != nil {
			return rule{}, fmt.Errorf("match.path: %w", err)
		}
	}
	for i, match := range from.Match.Headers {
		condition, err := c.compileHeader(match)
		if err != nil {
			return rule{}, fmt.Errorf("match.headers[%d]: %w", i, err)
		}
		made.headers = append(made.headers, condition)
	}
	return made, nil
}

// delay is milliseconds as a duration, within the limit and what fits.
func (c *compiler) delay(ms int64) time.Duration {
	delay := time.Duration(math.MaxInt64)
	if ms <= int64(delay/time.Millisecond) {
		delay = time.Duration(ms) * time.Millisecond
	}
	if c.limits.MaxDelay > 0 {
		delay = min(delay, c.limits.MaxDelay)
	}
	return delay
}

func (c *compiler) compileHeader(match schema.HeaderMatch) (header, error) {
	if !isToken(match.Name) {
		return header{}, fmt.Errorf("name: %q is no header's name", match.Name)
	}
	condition := text{how: always}
	if match.Present != nil {
		if match.StringMatch != (schema.StringMatch{}) {
			return header{}, errors.New("it wants exactly one of exact, prefix, regex and present")
		}
		if !*match.Present {
			condition.how = absent
		}
	} else {
		var err error
		if condition, err = c.compileText(match.StringMatch); err != nil {
			return header{}, err
		}
	}
	slot, ok := c.slots[match.Name]
	if !ok {
		slot = len(c.program.headers)
		c.slots[match.Name] = slot
		c.program.headers = append(c.program.headers, match.Name)
	}
	return header{slot: slot, text: condition}, nil
}

func compileAbort(from *schema.Abort) (*Abort, error) {
	made := &Abort{Status: from.Status, GRPCStatus: NoGRPC}
	switch {
	case from.GRPCStatus == nil:
		if from.Status < 200 || from.Status > 599 {
			return nil, fmt.Errorf(".status: %d is not between 200 and 599", from.Status)
		}
	case from.Status != 0:
		return nil, errors.New(": it has both a status and a grpc_status")
	default:
		if *from.GRPCStatus < 0 || *from.GRPCStatus > 16 {
			return nil, fmt.Errorf(".grpc_status: %d is not between 0 and 16", *from.GRPCStatus)
		}
		made.Status, made.GRPCStatus = 200, *from.GRPCStatus
	}
	if from.Body != "" {
		made.Body = []byte(from.Body)
	}
	for _, name := range slices.Sorted(maps.Keys(from.Headers)) {
		value := from.Headers[name]
		if !isToken(name) {
			return nil, fmt.Errorf(".headers: %q is no header's name", name)
		}
		if strings.ContainsFunc(value, isControl) {
			return nil, fmt.Errorf(".headers[%q]: the value has control characters", name)
		}
		made.Headers = append(made.Headers, [2]string{name, value})
	}
	return made, nil
}

// isToken says whether a string is a token of RFC 9110, 5.6.2.
func isToken(name string) bool {
	for i := range len(name) {
		b := name[i]
		letter := 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
		if !letter && strings.IndexByte("!#$%&'*+-.^_`|~", b) < 0 {
			return false
		}
	}
	return name != ""
}

// isControl says whether a rune would break a header's line or field.
func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }
