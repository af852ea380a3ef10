//go:build !wasm

package program

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/boifi/hfi/filter/regex"
	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

const (
	// maxCached is the most expressions that a Compiler keeps.
	maxCached = 10_000
	// maxEffort bounds what the expressions of a policy take to compile, to some
	// hundred milliseconds: see regex.Regex.Effort.
	maxEffort = 8 << 20
)

// Compiler compiles policies. It compiles equal expressions once. It is safe for
// concurrent use. The zero value is ready.
type Compiler struct {
	mu          sync.Mutex
	expressions map[string]*regex.Regex
}

// Compiled is a compiled policy. It is immutable.
type Compiled struct {
	policy Policy
	// outbound reports that the policy is for outbound requests.
	outbound bool
	rules    []rule
	weight   Weight
}

// Weight returns what the policy takes of the limits of a program.
func (c *Compiled) Weight() Weight { return c.weight }

// rule is a Rule whose headers have names and no slots yet.
type rule struct {
	Rule
	headers []header
}

type header struct {
	name string
	text Text
}

// Compile compiles a policy returned by schema.Parse. It returns an error that names the
// field if filters cannot apply the policy, for example because evaluating an
// expression takes too long. A policy that is valid by policy.cue may have one.
func (c *Compiler) Compile(policy *schema.Policy) (*Compiled, error) {
	made := &Compiled{policy: Policy{
		Name: policy.Metadata.Name, Selector: selection.KeyOf(policy.Spec.Selector), DryRun: policy.Spec.DryRun,
	}}
	switch policy.Spec.Direction {
	case "", schema.Inbound:
	case schema.Outbound:
		made.outbound = true
	default:
		return nil, fmt.Errorf("spec.direction: %q is not known", policy.Spec.Direction)
	}
	if at := policy.Spec.ExpiresAt; at != nil {
		made.policy.Expires, made.policy.ExpiresAt = true, at.UTC()
	}
	work := &compilation{compiler: c, expressions: map[string]bool{}}
	for i := range policy.Spec.Rules {
		rule, err := work.rule(&policy.Spec.Rules[i])
		if err != nil {
			return nil, fmt.Errorf("spec.rules[%d].%w", i, err)
		}
		if !made.outbound && policy.Spec.Selector.Gateway == "" && policy.Spec.Rules[i].Match != nil && policy.Spec.Rules[i].Match.To != nil {
			return nil, fmt.Errorf("spec.rules[%d].match.to: the policy is not outbound", i)
		}
		if rule.Share > 0 {
			made.rules = append(made.rules, rule)
		}
	}
	var err error
	if made.weight, err = weigh(made); err != nil {
		return nil, fmt.Errorf("spec: it is too large: %w", err)
	}
	return made, nil
}

// compilation is the work on one policy.
type compilation struct {
	compiler *Compiler
	// expressions are those so far, and effort is what they take.
	expressions map[string]bool
	effort      int
}

func (c *compilation) rule(from *schema.Rule) (rule, error) {
	fault := &from.Fault
	made := rule{Rule: Rule{Share: fault.Percentage}}
	if fault.Percentage < 0 || fault.Percentage > schema.All {
		return rule{}, fmt.Errorf("fault.percentage: %d parts per million is not between 0 and %d", fault.Percentage, schema.All)
	}
	if fault.DelayMS < 0 {
		return rule{}, fmt.Errorf("fault.delay_ms: %d is negative", fault.DelayMS)
	}
	made.Delay = milliseconds(uint64(fault.DelayMS))
	if fault.Abort != nil {
		var err error
		if made.Abort, err = abort(fault.Abort); err != nil {
			return rule{}, fmt.Errorf("fault.abort%w", err)
		}
	}
	if made.Delay == 0 && made.Abort == nil {
		return rule{}, errors.New("fault: neither a delay nor an abort")
	}
	if from.Match == nil {
		return made, nil
	}
	made.Methods = slices.Clone(from.Match.Methods)
	if path := from.Match.Path; path != nil {
		var err error
		if made.Path, err = c.text(*path); err != nil {
			return rule{}, fmt.Errorf("match.path: %w", err)
		}
	}
	for i, match := range from.Match.Headers {
		condition, err := c.header(match)
		if err != nil {
			return rule{}, fmt.Errorf("match.headers[%d]: %w", i, err)
		}
		made.headers = append(made.headers, condition)
	}
	if to := from.Match.To; to != nil {
		made.headers = append(made.headers, destination(to)...)
		if *to == (schema.Destination{}) {
			return rule{}, errors.New("match.to: neither a service nor a host")
		}
	}
	return made, nil
}

// destination returns the conditions on the headers that stand for the destination.
func destination(to *schema.Destination) (conditions []header) {
	for _, each := range []header{
		{ToHost, Text{How: Exact, Value: to.Host}},
		{ToService, Text{How: Exact, Value: to.Service}},
		{ToNamespace, Text{How: Exact, Value: to.Namespace}},
	} {
		if each.text.Value != "" {
			conditions = append(conditions, each)
		}
	}
	return conditions
}

func (c *compilation) header(match schema.HeaderMatch) (header, error) {
	if !isToken(match.Name) {
		return header{}, fmt.Errorf("name: %q is not a valid header name", match.Name)
	}
	made := header{name: match.Name}
	if match.Present == nil {
		var err error
		made.text, err = c.text(match.StringMatch)
		return made, err
	}
	if match.StringMatch != (schema.StringMatch{}) {
		return header{}, errors.New("exactly one of exact, prefix, regex and present must be set")
	}
	if !*match.Present {
		made.text.How = Absent
	}
	return made, nil
}

// text compiles a comparison, of which exactly one field must be set.
func (c *compilation) text(match schema.StringMatch) (Text, error) {
	set := 0
	var made Text
	if match.Exact != nil {
		set++
		made = Text{How: Exact, Value: *match.Exact}
	}
	if match.Prefix != nil {
		set++
		made = Text{How: Prefix, Value: *match.Prefix}
		if *match.Prefix == "" {
			made.How = Always
		}
	}
	if match.Regex != nil {
		set++
		expression, err := c.expression(*match.Regex)
		if err != nil {
			return Text{}, err
		}
		made = Text{How: Regex, Value: expression.Prefix(), Regex: expression}
	}
	if set != 1 {
		return Text{}, errors.New("exactly one of exact, prefix and regex must be set")
	}
	return made, nil
}

// expression compiles an expression. The limit does not depend on what has been compiled
// before, so that all replicas agree on each policy.
func (c *compilation) expression(expression string) (*regex.Regex, error) {
	made, err := c.compiler.expression(expression)
	if err != nil {
		return nil, err
	}
	if !c.expressions[expression] {
		c.expressions[expression] = true
		c.effort += made.Effort()
	}
	if c.effort > maxEffort {
		return nil, fmt.Errorf("regex %q: the expressions of the policy are too many and too costly together", expression)
	}
	return made, nil
}

func (c *Compiler) expression(expression string) (*regex.Regex, error) {
	c.mu.Lock()
	made := c.expressions[expression]
	c.mu.Unlock()
	if made != nil {
		return made, nil
	}
	made, err := regex.Compile(expression)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expressions == nil || len(c.expressions) >= maxCached {
		c.expressions = map[string]*regex.Regex{}
	}
	c.expressions[expression] = made
	return made, nil
}

func abort(from *schema.Abort) (*Abort, error) {
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
