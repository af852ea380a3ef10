package cue

import "strings"

// fieldInfo describes the valid values of a field of a policy, for error messages. It
// does not decide whether a value is valid: CUE does.
type fieldInfo struct {
	// must completes "FIELD must be …".
	must string
	// limits are sentences for single constraints. %v is replaced by the value.
	limits []limit
	// instead returns a clause that says what to write in place of a wrong value, or "".
	instead func(text string) string
	// needs is a sentence about which fields a struct must have.
	needs string
	// conditions are the fields in needs.
	conditions []string
	// sample is a valid value. It replaces a wrong one in the search for further
	// errors.
	sample string
}

// limit is the sentence for the CUE errors that contain a text.
type limit struct{ marker, sentence string }

const (
	aMapping   = "a mapping"
	aList      = "a list"
	tooManyRun = "MaxRunes"
)

func atMost(n string) limit {
	return limit{tooManyRun, "must have at most " + n + " characters"}
}

// fields has every field of a policy. [] stands for any item of a list, * for any
// key of a mapping.
var fields = map[string]fieldInfo{
	"":           {must: aMapping + " with metadata and spec", sample: `{metadata: name: "x", spec: rules: [{fault: delay_ms: 1}]}`},
	"apiVersion": {must: "a string", limits: []limit{atMost("253")}, sample: `"x"`},
	"kind":       {must: "a string", limits: []limit{atMost("253")}, sample: `"x"`},
	"metadata":   {must: aMapping + " with a name", sample: `{name: "x"}`},
	"metadata.name": {
		must: "a DNS-1123 label: lower-case letters, digits and hyphens, beginning and ending with a letter or digit",
		limits: []limit{
			atMost("63"),
			{"(excluded value)", `must not be "status": the name is reserved for the route GET /v1/policies/status`},
			{`!="status"`, `must not be "status": the name is reserved for the route GET /v1/policies/status`},
		},
		sample: `"x"`,
	},
	"spec":          {must: aMapping + " with rules", sample: `{rules: [{fault: delay_ms: 1}]}`},
	"spec.selector": {must: aMapping + " with service or gateway, and namespace; omit it to select every workload", sample: `{}`},
	"spec.selector.service": {
		must:   selector.must,
		limits: append([]limit{{`"^\\*?$"`, "must be omitted beside gateway: a policy applies to workloads or to gateways"}}, selector.limits...),
		sample: `"*"`,
	},
	"spec.selector.namespace": selector,
	"spec.selector.gateway": {
		must:   selector.must,
		limits: append([]limit{{`!=""`, "must not be empty: use * for any gateway, or omit it to select workloads"}}, selector.limits...),
		sample: `"*"`,
	},
	"spec.direction": {
		must:    "inbound, for the requests that the selected workload receives, or outbound, for those that it sends",
		limits:  []limit{{`!="outbound"`, "must be omitted beside spec.selector.gateway"}},
		instead: direction,
		sample:  `"outbound"`,
	},
	"spec.rules": {
		must: aList + " of rules",
		limits: []limit{
			{"MinItems", "must have at least one rule"},
			{"MaxItems", "must have at most 64 rules"},
		},
		sample: `[{fault: delay_ms: 1}]`,
	},
	"spec.expires_at": {
		must:   "an RFC 3339 time in the years 2000 to 2999, such as 2027-01-31T12:00:00Z",
		sample: `"2027-01-31T12:00:00Z"`,
	},
	"spec.dry_run":       {must: "true or false", instead: trueOrFalse, sample: `true`},
	"spec.rules[]":       {must: aMapping + " with a fault", sample: `{fault: delay_ms: 1}`},
	"spec.rules[].match": {must: aMapping + " with methods, path, headers or to; omit it to match every request", sample: `{}`},
	"spec.rules[].match.methods": {
		must: aList + " of methods",
		limits: []limit{
			{"MinItems", "must have at least one method; omit it to match any method"},
			{"MaxItems", "must have at most 32 methods"},
		},
		sample: `["GET"]`,
	},
	"spec.rules[].match.methods[]": {
		must:    "an HTTP method in upper case, such as GET",
		limits:  []limit{atMost("32")},
		instead: upperCase,
		sample:  `"GET"`,
	},
	"spec.rules[].match.path": {
		must:       aMapping + " with one of exact, prefix and regex",
		needs:      "needs exactly one of exact, prefix and regex",
		conditions: []string{"exact", "prefix", "regex"},
		sample:     `{exact: "/"}`,
	},
	"spec.rules[].match.path.exact":  pattern,
	"spec.rules[].match.path.prefix": pattern,
	"spec.rules[].match.path.regex":  regex,
	"spec.rules[].match.headers": {
		must:   aList + " of mappings, each with a name and a condition",
		limits: []limit{{"MaxItems", "must have at most 32 headers"}},
		sample: `[]`,
	},
	"spec.rules[].match.headers[]": {
		must:       aMapping + " with a name and one of exact, prefix, regex and present",
		needs:      "needs exactly one of exact, prefix, regex and present",
		conditions: []string{"exact", "prefix", "regex", "present"},
		sample:     `{name: "x", present: true}`,
	},
	"spec.rules[].match.headers[].name":    headerName,
	"spec.rules[].match.headers[].exact":   pattern,
	"spec.rules[].match.headers[].prefix":  pattern,
	"spec.rules[].match.headers[].regex":   regex,
	"spec.rules[].match.headers[].present": {must: "true or false", instead: trueOrFalse, sample: `true`},
	"spec.rules[].match.to": {
		must:       aMapping + " with service and namespace, or with host",
		needs:      "needs service or namespace, or else host",
		conditions: []string{"service", "namespace", "host"},
		sample:     `{service: "x"}`,
	},
	"spec.rules[].match.to.service": {
		must:    "the name of a service, without its namespace and without spaces; omit it to match any",
		limits:  []limit{atMost("253")},
		instead: serviceAndNamespace,
		sample:  `"x"`,
	},
	"spec.rules[].match.to.namespace": {
		must:   "the name of a namespace; omit it to match any",
		limits: []limit{atMost("253")},
		sample: `"x"`,
	},
	"spec.rules[].match.to.host": {
		must:    "a DNS name in lower case, without a scheme, port and path (wildcards are not supported)",
		limits:  []limit{atMost("253")},
		instead: hostOnly,
		sample:  `"x"`,
	},
	"spec.rules[].fault": {
		must:       aMapping + " with delay_ms, abort or both",
		needs:      "needs delay_ms or abort",
		conditions: []string{"delay_ms", "abort"},
		sample:     `{delay_ms: 1}`,
	},
	"spec.rules[].fault.percentage": {
		must: "a number between 0 and 100",
		limits: []limit{
			{"out of bound", "must be between 0 and 100, not %v"},
			{"MultipleOf", "must have at most four decimals, not %v"},
		},
		instead: inPercent,
		sample:  `1`,
	},
	"spec.rules[].fault.delay_ms": {must: "a whole number from 1 to 3600000", instead: inMilliseconds, sample: `1`},
	"spec.rules[].fault.abort": {
		must:       aMapping + " with status or grpc_status",
		needs:      "needs exactly one of status and grpc_status",
		conditions: []string{"status", "grpc_status"},
		sample:     `{status: 503}`,
	},
	"spec.rules[].fault.abort.status":      {must: "a whole number from 200 to 599", instead: unquotedNumber, sample: `503`},
	"spec.rules[].fault.abort.grpc_status": {must: "a whole number from 0 to 16", instead: grpcStatus, sample: `14`},
	"spec.rules[].fault.abort.body":        {must: "a string", limits: []limit{atMost("4096")}, sample: `""`},
	"spec.rules[].fault.abort.headers": {
		must: aMapping + " from names to values",
		limits: []limit{
			{"MaxFields", "must have at most 32 headers"},
			{"UniqueItems", "must have each name once; header names are not case-sensitive"},
		},
		sample: `{}`,
	},
	"spec.rules[].fault.abort.headers.*": {
		must:   "a string on one line, without control characters",
		limits: []limit{atMost("1024")},
		sample: `"x"`,
	},
}

var (
	selector = fieldInfo{
		must:   "a name without spaces, or * for any (patterns are not supported)",
		limits: []limit{atMost("253")},
		sample: `"x"`,
	}
	pattern    = fieldInfo{must: "a string", limits: []limit{atMost("1024")}, sample: `"x"`}
	headerName = fieldInfo{
		must:   "a header name: letters, digits and hyphens, without spaces and colons",
		limits: []limit{atMost("128")},
		sample: `"x"`,
	}
	regex = fieldInfo{
		must:    "a regular expression in RE2 syntax",
		limits:  []limit{atMost("512")},
		instead: whyNotRE2,
		sample:  `"x"`,
	}
)

// destinationField is for outbound policies only, and needsOutbound is in CUE's error for
// others: policy.cue has it.
const (
	destinationField = "spec.rules[].match.to"
	needsOutbound    = "needs spec.direction: outbound"
)

// connectionHeaders are the headers that an abort cannot have, in lower case.
var connectionHeaders = []string{"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"}

// headersField is the only field whose keys the author chooses.
const headersField = "spec.rules[].fault.abort.headers"

// children returns the names of the fields directly below a field.
func children(parent string) []string {
	var names []string
	for path := range fields {
		name, below := path, true
		if parent != "" {
			name, below = strings.CutPrefix(path, parent+".")
		}
		if below && name != "" && name != "*" && !strings.ContainsAny(name, ".[") {
			names = append(names, name)
		}
	}
	return names
}

// remedies says what to write in place of fields that policies do not have, but other
// systems do.
var remedies = map[string]string{
	"metadata.namespace":             "to select the workloads of a namespace, write it as spec.selector.namespace",
	"metadata.labels":                "policies have no labels; write a comment",
	"metadata.annotations":           "policies have no annotations; write a comment",
	"spec.selector.matchLabels":      noLabels,
	"spec.selector.matchExpressions": noLabels,
	"spec.selector.labelSelectors":   noLabels,
	"spec.selector.labels":           noLabels,
	"spec.selector.app":              noLabels,
}

const noLabels = "a selector has no labels: write service, the name of the workload, and namespace"

// homeOf returns the only field, or else the only one of the least depth, in which a
// field with that name belongs, or "".
func homeOf(name string) string {
	home, least := "", 100
	for path := range fields {
		parent, isField := strings.CutSuffix(path, "."+name)
		if depth := strings.Count(parent, "."); isField && depth <= least {
			if depth == least {
				parent = ""
			}
			home, least = parent, depth
		}
	}
	return home
}

// didYouMean returns the known field whose name is closest to a wrong one, or "".
func didYouMean(wrong, parent string) string {
	flat := func(s string) string {
		return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(s))
	}
	// Up to a third of the letters may be wrong.
	best, least := "", max(1, len(wrong)/3)+1
	for _, name := range children(parent) {
		distance := editDistance(flat(wrong), flat(name))
		if len(flat(wrong)) >= 4 && strings.HasPrefix(flat(name), flat(wrong)) {
			distance = 0 // delay for delay_ms, percent for percentage
		}
		if distance < least || distance == least && best != "" && name < best {
			best, least = name, distance
		}
	}
	return best
}

// editDistance returns the Levenshtein distance of two words: 40 if one of them
// is longer than any field's name.
func editDistance(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return 40
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
