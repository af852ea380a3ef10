package program

import (
	"errors"
	"strconv"
	"strings"

	"github.com/boifi/hfi/filter/regex"
	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

// The kinds of sections.
const (
	sectionExpressions = 1
	sectionHeaders     = 2
	sectionPolicies    = 3
	sectionIndex       = 4
	sectionOutbound    = 5
)

// The flags of a policy and of a rule.
const (
	flagDryRun, flagExpires       = 1, 2
	flagAbort, flagGRPC, flagPath = 1, 2, 4
)

// Read reads the program of a workload. It keeps data, which must not be changed
// afterwards. It returns an error unless the encoding is valid in every part, and needs
// memory in proportion to the length of data and at most for MaxItems items.
func Read(data []byte, workload selection.Workload) (*Program, error) {
	if len(data) > MaxSize {
		return nil, errors.New("the program has " + strconv.Itoa(len(data)) + " bytes, and may have " + strconv.Itoa(MaxSize))
	}
	// One string, which all names and values share, except those of an Abort.
	r := reader{text: string(data)}
	if len(data) < len(magic)+1 || r.text[:len(magic)] != magic {
		return nil, errors.New("the response is not a compiled program")
	}
	if r.text[len(magic)] != version {
		return nil, errors.New("the program has version " + strconv.Itoa(int(r.text[len(magic)])) + ", and this filter reads version " + strconv.Itoa(version))
	}
	r.at = len(magic) + 1
	p := &parser{keys: workload.Keys(), program: new(Program)}
	if err := p.sections(&r); err != nil {
		return nil, err
	}
	return p.program, nil
}

// sections reads all sections of a program, or of the outbound part of one.
func (p *parser) sections(r *reader) error {
	for r.at < len(r.text) && !r.bad {
		kind := r.byte()
		section := r.part()
		if section.bad {
			r.bad = true
			break
		}
		section.items = r.items
		p.section(kind, &section)
		r.items = section.items
		if section.bad || section.at < len(section.text) && p.known(kind) {
			return errors.New("section " + strconv.Itoa(int(kind)) + " of the program is invalid at byte " + strconv.Itoa(section.at))
		}
	}
	if r.bad {
		return errors.New("the program is invalid at byte " + strconv.Itoa(r.at))
	}
	if !p.hasPolicies {
		return errors.New("the program has no policies section")
	}
	p.program.idle = true
	for i := range p.program.Rules {
		if p.program.Rules[i].Share > 0 {
			p.program.idle = false
		}
	}
	return nil
}

// known reports whether a kind of section is read, and not skipped.
func (p *parser) known(kind byte) bool {
	return kind >= sectionExpressions && kind <= sectionIndex || kind == sectionOutbound && p.outer == nil
}

// parser holds what has been read so far.
type parser struct {
	// outer is nil unless this is the parser of the outbound part of outer's program.
	outer       *parser
	keys        []selection.Key
	program     *Program
	expressions []*regex.Regex
	// expressionsSize is the size of the section of the expressions.
	expressionsSize int
	last            byte
	hasPolicies     bool
}

// section reads a section. Known sections must be in order, each at most once.
func (p *parser) section(kind byte, r *reader) {
	if !p.known(kind) {
		return
	}
	if kind <= p.last {
		r.bad = true
		return
	}
	p.last = kind
	switch kind {
	case sectionExpressions:
		p.readExpressions(r)
	case sectionHeaders:
		p.readHeaders(r)
	case sectionPolicies:
		p.hasPolicies = true
		p.readPolicies(r)
	case sectionIndex:
		p.readIndex(r)
	case sectionOutbound:
		p.readOutbound(r)
	}
}

// readOutbound reads the part for outbound requests.
func (p *parser) readOutbound(r *reader) {
	part := &parser{outer: p, keys: p.keys, program: new(Program)}
	if part.sections(r) != nil {
		r.bad = true
		return
	}
	p.program.Outbound = part.program
}

// before returns what the part read before has of the limits of a program.
func (p *parser) before() (rules, expressions, expressionsSize int) {
	if p.outer == nil {
		return 0, 0, 0
	}
	return len(p.outer.program.Rules), len(p.outer.expressions), p.outer.expressionsSize
}

func (p *parser) readExpressions(r *reader) {
	count := r.count()
	_, others, size := p.before()
	p.expressionsSize = len(r.text)
	// Each has a length of up to three bytes.
	if others+count > MaxExpressions || size+len(r.text) > MaxExpressionsSize+3*MaxExpressions {
		r.bad = true
		return
	}
	p.expressions = make([]*regex.Regex, 0, count)
	for range cap(p.expressions) {
		text := r.string()
		if r.bad {
			return
		}
		expression, err := regex.Read([]byte(text))
		if err != nil {
			r.bad = true
			return
		}
		p.expressions = append(p.expressions, expression)
	}
}

func (p *parser) readHeaders(r *reader) {
	names := make([]string, r.count())
	for i := range names {
		names[i] = r.string()
		if names[i] == "" || i > 0 && names[i-1] >= names[i] {
			r.bad = true
		}
	}
	p.program.Headers = names
}

func (p *parser) readPolicies(r *reader) {
	policies := make([]Policy, r.count())
	for i := range policies {
		part := r.part()
		if r.bad {
			return
		}
		part.items = r.items
		p.readPolicy(&part, i, &policies[i])
		r.items = part.items
		if part.bad || i > 0 && policies[i-1].Name >= policies[i].Name {
			r.bad = true
			return
		}
	}
	p.program.Policies = policies
}

func (p *parser) readPolicy(r *reader, number int, policy *Policy) {
	policy.Name = r.string()
	policy.Selector = selection.Key{Service: r.string(), Namespace: r.string(), Gateway: r.string()}
	needs := r.number()
	first := len(p.program.Rules)
	count := r.count()
	others, _, _ := p.before()
	if r.bad || policy.Name == "" || others+first+count > MaxRules {
		r.bad = true
		return
	}
	for range count {
		// Until a rule is read, it never applies.
		p.program.Rules = append(p.program.Rules, Rule{Policy: number})
	}
	if needs&^features != 0 {
		p.program.Unsupported = append(p.program.Unsupported, policy.Name)
		r.at = len(r.text)
		return
	}
	flags := r.byte()
	if flags&^(flagDryRun|flagExpires) != 0 {
		r.bad = true
		return
	}
	policy.DryRun, policy.Expires = flags&flagDryRun != 0, flags&flagExpires != 0
	if policy.Expires {
		policy.ExpiresAt = r.time()
	}
	mine := p.selects(policy.Selector)
	if !mine {
		p.program.Others = append(p.program.Others, policy.Name)
	}
	for i := range count {
		part := r.part()
		if r.bad {
			return
		}
		part.items = r.items
		rule := &p.program.Rules[first+i]
		p.readRule(&part, rule)
		r.items = part.items
		if part.bad || part.at < len(part.text) {
			r.bad = true
			return
		}
		if !mine {
			rule.Share = 0
		}
	}
	if r.at < len(r.text) {
		r.bad = true
	}
}

// selects runs the selection once more: a policy for another workload is not applied,
// whatever the daemon sends.
func (p *parser) selects(key selection.Key) bool {
	return selection.Selects(p.keys, key)
}

func (p *parser) readRule(r *reader, rule *Rule) {
	share := r.number()
	if share < 1 || share > uint64(schema.All) {
		r.bad = true
		return
	}
	rule.Share = schema.Percentage(share)
	rule.Delay = milliseconds(r.number())
	flags := r.byte()
	if flags&flagAbort != 0 {
		rule.Abort = readAbort(r, flags&flagGRPC != 0)
	}
	if rule.Abort == nil && rule.Delay == 0 || flags&^(flagAbort|flagGRPC|flagPath) != 0 {
		r.bad = true
		return
	}
	if n := r.count(); n > 0 {
		rule.Methods = make([]string, n)
		for i := range rule.Methods {
			rule.Methods[i] = r.string()
		}
	}
	if flags&flagPath != 0 {
		rule.Path = p.readText(r)
		if rule.Path.How == Absent {
			r.bad = true
		}
	}
	if n := r.count(); n > 0 {
		rule.Headers = make([]Header, n)
		for i := range rule.Headers {
			slot := r.number()
			if slot >= uint64(len(p.program.Headers)) {
				r.bad = true
				return
			}
			rule.Headers[i] = Header{Slot: int(slot), Text: p.readText(r)}
		}
	}
}

func readAbort(r *reader, grpc bool) *Abort {
	abort := &Abort{Status: 200, GRPCStatus: NoGRPC}
	status := r.number()
	switch {
	case grpc && status <= 16:
		abort.GRPCStatus = int(status)
	case !grpc && 200 <= status && status <= 599:
		abort.Status = int(status)
	default:
		r.bad = true
	}
	if body := r.string(); body != "" {
		abort.Body = []byte(body)
	}
	if n := r.count(); n > 0 {
		abort.Headers = make([][2]string, n)
		for i := range abort.Headers {
			abort.Headers[i] = [2]string{strings.Clone(r.string()), strings.Clone(r.string())}
		}
	}
	return abort
}

func (p *parser) readText(r *reader) (text Text) {
	text.How = Comparison(r.byte())
	text.Value = r.string()
	if text.How > Absent {
		r.bad = true
	}
	if text.How == Regex {
		number := r.number()
		if number >= uint64(len(p.expressions)) {
			r.bad = true
			return text
		}
		text.Regex = p.expressions[number]
	}
	return text
}

// readIndex reads the index, which must have each rule exactly once.
func (p *parser) readIndex(r *reader) {
	x := new(Index)
	seen := make([]bool, len(p.program.Rules))
	x.Linear = readRules(r, seen)
	x.Exact = readGroups(r, seen)
	x.Prefixes = readGroups(r, seen)
	n := r.number()
	if n > uint64(len(p.program.Headers)) {
		r.bad = true
		return
	}
	x.Headers = make([]HeaderGroups, n)
	for i := range x.Headers {
		slot := r.number()
		if slot >= uint64(len(p.program.Headers)) {
			r.bad = true
			return
		}
		x.Headers[i] = HeaderGroups{int(slot), readGroups(r, seen)}
	}
	for _, once := range seen {
		if !once {
			r.bad = true
		}
	}
	if !r.bad {
		x.connectPrefixes()
		p.program.Index = x
	}
}

// readGroups reads groups, whose keys must ascend and which have a rule at least.
func readGroups(r *reader, seen []bool) []Group {
	n := r.number()
	if n > uint64(len(seen)) {
		r.bad = true
		return nil
	}
	groups := make([]Group, n)
	for i := range groups {
		groups[i] = Group{r.string(), readRules(r, seen)}
		if r.bad || len(groups[i].Rules) == 0 || i > 0 && groups[i-1].Key >= groups[i].Key {
			r.bad = true
			return nil
		}
	}
	return groups
}

func readRules(r *reader, seen []bool) []uint32 {
	n := r.number()
	if n > uint64(len(seen)) {
		r.bad = true
		return nil
	}
	rules := make([]uint32, n)
	for i := range rules {
		number := r.number()
		if r.bad || number >= uint64(len(seen)) || seen[number] {
			r.bad = true
			return nil
		}
		seen[number] = true
		rules[i] = uint32(number)
	}
	return rules
}
