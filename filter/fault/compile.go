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

// Program is the compiled form of a set of policies. It is immutable. The zero value
// has no rules.
type Program struct {
	// policies are the names of the policies in force, sorted.
	policies []string
	// rules are the rules that can apply to a request, in the order of policies and
	// of the rules in each policy. Earlier rules have precedence.
	rules []rule
	// index finds rules. It is nil if there are few.
	index *index
	// headers are the distinct names of the headers that rules compare.
	headers []string
}

// rule is a rule that can apply: its share is above 0, and it has a delay, an abort or
// both.
type rule struct {
	// order is the rule's index in Program.rules.
	order int
	// policy is the index of its policy in Program.policies.
	policy int
	dryRun bool
	share  schema.Percentage
	// expires is when the rule expires. Nil means never.
	expires *time.Time
	delay   time.Duration
	abort   *Abort

	path text
	// methods are the methods that match. Empty means all.
	methods []string
	headers []header
}

// header is a condition on a header. slot is the header's index in Program.headers.
type header struct {
	slot int
	text text
}

// Compile compiles policies returned by schema.Parse, in any order. It skips a policy
// that cannot be applied, with all of its rules, and returns one error for it that
// names the policy and the field. The others are in force.
func Compile(policies []*schema.Policy, limits Limits) (*Program, []error) {
	c := newCompiler(limits)
	var failed []error
	ordered := slices.DeleteFunc(slices.Clone(policies), func(p *schema.Policy) bool { return p == nil })
	slices.SortStableFunc(ordered, func(a, b *schema.Policy) int {
		return cmp.Compare(a.Metadata.Name, b.Metadata.Name)
	})
	for _, policy := range ordered {
		if err := c.add(policy); err != nil {
			failed = append(failed, fmt.Errorf("policy %q cannot be applied: %w", policy.Metadata.Name, err))
		}
	}
	for i := range c.program.rules {
		c.program.rules[i].order = i
	}
	c.program.index = newIndex(c.program.rules)
	return c.program, failed
}

// Policies returns the names of the policies in force, sorted. The index of a policy
// in it is its index in a Decision. The slice must not be changed.
func (p *Program) Policies() []string { return p.policies }

// Idle reports that no rule can apply to any request.
func (p *Program) Idle() bool { return len(p.rules) == 0 }

type compiler struct {
	program *Program
	limits  Limits
	// slots has the indices of names in Program.headers.
	slots map[string]int
	// regexes has the expressions compiled so far, steps is the sum of their steps.
	regexes map[string]compiled
	steps   int
	// added are the expressions added by the current policy.
	added []string
}

func newCompiler(limits Limits) *compiler {
	return &compiler{limits: limits, slots: map[string]int{}, regexes: map[string]compiled{}, program: new(Program)}
}

// Check returns the error for which filters skip a policy, even if it is the only one.
// A policy that is valid by policy.cue may have one.
func Check(policy *schema.Policy) error { return newCompiler(Limits{}).add(policy) }

// add compiles the rules of a policy into the program. After an error the program has
// none of them.
func (c *compiler) add(policy *schema.Policy) (err error) {
	c.added = c.added[:0]
	defer func() {
		if err != nil {
			c.rollback()
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
		return rule{}, errors.New("fault: neither a delay nor an abort that this filter supports")
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

// delay converts milliseconds into a duration, limited to MaxDelay.
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
		return header{}, fmt.Errorf("name: %q is not a valid header name", match.Name)
	}
	condition := text{how: always}
	if match.Present != nil {
		if match.StringMatch != (schema.StringMatch{}) {
			return header{}, errors.New("exactly one of exact, prefix, regex and present must be set")
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
		return nil, errors.New(": status and grpc_status are both set")
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
			return nil, fmt.Errorf(".headers: %q is not a valid header name", name)
		}
		if strings.ContainsFunc(value, isControl) {
			return nil, fmt.Errorf(".headers[%q]: the value has control characters", name)
		}
		made.Headers = append(made.Headers, [2]string{name, value})
	}
	return made, nil
}

// isToken reports whether a string is a token (RFC 9110, 5.6.2).
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

// isControl reports whether a rune is a control character that is not allowed in the
// value of a header.
func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }
