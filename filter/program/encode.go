//go:build !wasm

package program

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/boifi/hfi/filter/regex"
	"github.com/boifi/hfi/schema"
)

// Encode encodes the program of the policies, which must have distinct names. It returns an
// error if filters do not accept it because it is too large.
func Encode(policies []*Compiled) ([]byte, error) {
	text, _, err := encodeAndWeigh(policies)
	return text, err
}

// EncodeForWaypoints is Encode for waypoints: each policy applies to the requests of the service
// that its selector names.
func EncodeForWaypoints(policies []*Compiled) ([]byte, error) {
	limited := make([]*Compiled, len(policies))
	for i, policy := range policies {
		limited[i] = policy.forWaypoints()
	}
	return Encode(limited)
}

// forWaypoints returns the policy with its selector as a condition of each rule.
func (c *Compiled) forWaypoints() *Compiled {
	var conditions []header
	for _, condition := range []header{
		{Service, Text{How: Exact, Value: c.policy.Selector.Service}},
		{ServiceNamespace, Text{How: Exact, Value: c.policy.Selector.Namespace}},
	} {
		if condition.text.Value != schema.Any {
			conditions = append(conditions, condition)
		}
	}
	if len(conditions) == 0 {
		return c
	}
	limited := *c
	limited.rules = slices.Clone(c.rules)
	for i := range limited.rules {
		rule := &limited.rules[i]
		rule.headers = slices.Concat(conditions, rule.headers)
	}
	return &limited
}

// encodeAndWeigh also returns how much of each limit the program takes.
func encodeAndWeigh(policies []*Compiled) ([]byte, Weight, error) {
	ordered := slices.SortedFunc(slices.Values(policies), func(a, b *Compiled) int {
		if a.policy.Name < b.policy.Name {
			return -1
		}
		return 1
	})
	var in, out []*Compiled
	for _, policy := range ordered {
		if policy.outbound {
			out = append(out, policy)
		} else {
			in = append(in, policy)
		}
	}
	inbound := newEncoder(in)
	text := inbound.appendSections(append([]byte(magic), version))
	used, err := inbound.used(), inbound.err
	if len(out) > 0 {
		outbound := newEncoder(out)
		text = appendBytes(append(text, sectionOutbound), outbound.appendSections(nil))
		used, err = used.Plus(outbound.used()), cmp.Or(err, outbound.err)
	}
	used.size = len(text)
	if err == nil {
		err = used.check()
	}
	if err != nil {
		return nil, Weight{}, err
	}
	return text, used, nil
}

// check returns an error if a program that takes exactly this exceeds a limit.
func (w Weight) check() error {
	switch {
	case w.rules > MaxRules:
		return fmt.Errorf("they have %d rules, and a filter accepts at most %d", w.rules, MaxRules)
	case w.expressions > MaxExpressions || w.expressionsSize > MaxExpressionsSize:
		return fmt.Errorf("they have %d different expressions that take %d bytes when compiled, and a filter accepts at most %d with %d bytes",
			w.expressions, w.expressionsSize, MaxExpressions, MaxExpressionsSize)
	case w.items > MaxItems:
		return fmt.Errorf("they have %d rules, conditions and headers, and a filter accepts at most %d", w.items, MaxItems)
	case w.size > MaxSize:
		return fmt.Errorf("they take %d bytes when compiled, and a filter accepts at most %d", w.size, MaxSize)
	}
	return nil
}

// appendSections appends the sections of the policies.
func (e *encoder) appendSections(text []byte) []byte {
	for _, section := range []struct {
		kind   byte
		append func([]byte) []byte
	}{
		{sectionExpressions, e.appendExpressions},
		{sectionHeaders, e.appendHeaders},
		{sectionPolicies, e.appendPolicies},
		{sectionIndex, e.appendIndex},
	} {
		if content := section.append(nil); content != nil {
			text = appendBytes(append(text, section.kind), content)
		}
	}
	return text
}

// used returns what the appended sections take of each limit but MaxSize.
func (e *encoder) used() Weight {
	w := Weight{rules: len(e.rules), items: e.items, expressions: len(e.expressions)}
	for _, expression := range e.expressions {
		w.expressionsSize += len(expression)
	}
	return w
}

type encoder struct {
	policies []*Compiled
	rules    []Rule
	// headers are the names that rules compare, and slots their indices.
	headers []string
	slots   map[string]int
	// expressions are the distinct expressions, numbers their indices by their encoding,
	// and known those by the expression.
	expressions [][]byte
	numbers     map[string]int
	known       map[*regex.Regex]int
	// items counts what MaxItems limits.
	items int
	err   error
}

func newEncoder(policies []*Compiled) *encoder {
	e := &encoder{policies: policies, slots: map[string]int{}, numbers: map[string]int{}, known: map[*regex.Regex]int{}}
	for _, policy := range policies {
		for i := range policy.rules {
			for j := range policy.rules[i].headers {
				e.slots[policy.rules[i].headers[j].name] = 0
			}
		}
	}
	e.headers = slices.Sorted(maps.Keys(e.slots))
	for slot, name := range e.headers {
		e.slots[name] = slot
	}
	for number, policy := range policies {
		for i := range policy.rules {
			rule := policy.rules[i].Rule
			rule.Policy = number
			for _, header := range policy.rules[i].headers {
				rule.Headers = append(rule.Headers, Header{Slot: e.slots[header.name], Text: header.text})
				e.intern(&header.text)
			}
			e.intern(&rule.Path)
			e.rules = append(e.rules, rule)
		}
	}
	return e
}

// intern gives the expression of a condition a number.
func (e *encoder) intern(text *Text) {
	if text.How != Regex {
		return
	}
	if _, known := e.known[text.Regex]; known {
		return
	}
	encoded, err := text.Regex.AppendBinary(nil)
	if err != nil && e.err == nil {
		e.err = fmt.Errorf("encoding an expression: %w", err)
	}
	number, known := e.numbers[string(encoded)]
	if !known {
		number = len(e.expressions)
		e.numbers[string(encoded)] = number
		e.expressions = append(e.expressions, encoded)
	}
	e.known[text.Regex] = number
}

// count begins a list.
func (e *encoder) count(text []byte, n int) []byte {
	e.items += n
	return appendNumber(text, n)
}

func (e *encoder) appendExpressions(text []byte) []byte {
	text = e.count(text, len(e.expressions))
	for _, expression := range e.expressions {
		text = appendBytes(text, expression)
	}
	return text
}

func (e *encoder) appendHeaders(text []byte) []byte {
	text = e.count(text, len(e.headers))
	for _, name := range e.headers {
		text = appendBytes(text, []byte(name))
	}
	return text
}

func (e *encoder) appendPolicies(text []byte) []byte {
	text = e.count(text, len(e.policies))
	rules := e.rules
	for _, policy := range e.policies {
		n := len(policy.rules)
		text = appendBytes(text, e.appendPolicy(nil, &policy.policy, rules[:n]))
		rules = rules[n:]
	}
	return text
}

func (e *encoder) appendPolicy(text []byte, policy *Policy, rules []Rule) []byte {
	text = appendString(text, policy.Name)
	text = appendString(text, policy.Selector.Service)
	text = appendString(text, policy.Selector.Namespace)
	text = appendString(text, policy.Selector.Gateway)
	text = appendNumber(text, 0) // features
	text = e.count(text, len(rules))
	var flags byte
	if policy.DryRun {
		flags |= flagDryRun
	}
	if policy.Expires {
		flags |= flagExpires
	}
	text = append(text, flags)
	if policy.Expires {
		text = binary.AppendVarint(text, policy.ExpiresAt.Unix())
		text = appendNumber(text, policy.ExpiresAt.Nanosecond())
	}
	for i := range rules {
		text = appendBytes(text, e.appendRule(nil, &rules[i]))
	}
	return text
}

func (e *encoder) appendRule(text []byte, rule *Rule) []byte {
	text = appendNumber(text, int(rule.Share))
	text = binary.AppendUvarint(text, uint64(rule.Delay.Milliseconds()))
	var flags byte
	if rule.Abort != nil {
		flags |= flagAbort
		if rule.Abort.GRPCStatus != NoGRPC {
			flags |= flagGRPC
		}
	}
	if rule.Path.How != Always {
		flags |= flagPath
	}
	text = append(text, flags)
	if abort := rule.Abort; abort != nil {
		if abort.GRPCStatus != NoGRPC {
			text = appendNumber(text, abort.GRPCStatus)
		} else {
			text = appendNumber(text, abort.Status)
		}
		text = appendBytes(text, abort.Body)
		text = e.count(text, len(abort.Headers))
		for _, header := range abort.Headers {
			text = appendString(text, header[0])
			text = appendString(text, header[1])
		}
	}
	text = e.count(text, len(rule.Methods))
	for _, method := range rule.Methods {
		text = appendString(text, method)
	}
	if rule.Path.How != Always {
		text = e.appendText(text, &rule.Path)
	}
	text = e.count(text, len(rule.Headers))
	for i := range rule.Headers {
		text = appendNumber(text, rule.Headers[i].Slot)
		text = e.appendText(text, &rule.Headers[i].Text)
	}
	return text
}

func (e *encoder) appendText(text []byte, condition *Text) []byte {
	text = append(text, byte(condition.How))
	text = appendString(text, condition.Value)
	if condition.How == Regex {
		text = appendNumber(text, e.known[condition.Regex])
	}
	return text
}

// appendIndex returns nil if there is no index.
func (e *encoder) appendIndex(text []byte) []byte {
	x := newIndex(e.rules)
	if x == nil {
		return nil
	}
	text = appendRules(text, x.Linear)
	text = appendGroups(text, x.Exact)
	text = appendGroups(text, x.Prefixes)
	text = appendNumber(text, len(x.Headers))
	for _, header := range x.Headers {
		text = appendNumber(text, header.Slot)
		text = appendGroups(text, header.Groups)
	}
	return text
}

func appendGroups(text []byte, groups []Group) []byte {
	text = appendNumber(text, len(groups))
	for _, group := range groups {
		text = appendString(text, group.Key)
		text = appendRules(text, group.Rules)
	}
	return text
}

func appendRules(text []byte, rules []uint32) []byte {
	text = appendNumber(text, len(rules))
	for _, rule := range rules {
		text = appendNumber(text, int(rule))
	}
	return text
}

func appendNumber(text []byte, n int) []byte { return binary.AppendUvarint(text, uint64(n)) }

func appendString(text []byte, s string) []byte {
	return append(appendNumber(text, len(s)), s...)
}

func appendBytes(text, content []byte) []byte {
	return append(appendNumber(text, len(content)), content...)
}
