//go:build !wasm

// The filter gets compiled programs, and reads no policies.

package schema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

const partsPerPercent = 10_000

// MarshalJSON writes the shortest decimal form: 50, 12.5, 0.0001.
func (p Percentage) MarshalJSON() ([]byte, error) {
	whole, parts := int(p)/partsPerPercent, int(p)%partsPerPercent
	if parts == 0 {
		return strconv.AppendInt(nil, int64(whole), 10), nil
	}
	return fmt.Appendf(nil, "%d.%s", whole, strings.TrimRight(fmt.Sprintf("%04d", parts), "0")), nil
}

// UnmarshalJSON reads a JSON number from 0 to 100 with up to four decimals.
func (p *Percentage) UnmarshalJSON(text []byte) error {
	value, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return fmt.Errorf("percentage %.40q is not a number", text)
	}
	parts := math.Round(value * partsPerPercent)
	if !(value >= 0 && value <= 100) || math.Abs(value*partsPerPercent-parts) > 1e-6 {
		return fmt.Errorf("percentage %s is not a number from 0 to 100 with up to four decimals", text)
	}
	*p = Percentage(parts)
	return nil
}

// UnmarshalJSON sets Percentage to All if the JSON has none.
func (f *Fault) UnmarshalJSON(text []byte) error {
	type plain Fault
	fault := plain{Percentage: All}
	if err := json.Unmarshal(text, &fault); err != nil {
		return err
	}
	*f = Fault(fault)
	return nil
}

// Parse reads one policy from JSON and normalises it. It ignores unknown
// fields, so that a filter can read the policies of a newer daemon. It does not
// validate the policy against policy.cue: it returns an error only for JSON that
// does not decode, a missing name, and a time that has no canonical form.
func Parse(text []byte) (*Policy, error) {
	var policy Policy
	if err := json.Unmarshal(text, &policy); err != nil {
		return nil, fmt.Errorf("reading a policy from JSON: %w", err)
	}
	if policy.Metadata.Name == "" {
		return nil, fmt.Errorf("reading a policy from JSON: metadata.name is missing")
	}
	policy.normalise()
	if at := policy.Spec.ExpiresAt; at != nil && (at.Year() < 0 || at.Year() > 9999) {
		// RFC 3339 cannot express such a year, so Canonical cannot either.
		return nil, fmt.Errorf("reading a policy from JSON: spec.expires_at is outside the years 0 to 9999 in UTC")
	}
	return &policy, nil
}

// normalise replaces equivalent ways to write a policy by the canonical one.
func (p *Policy) normalise() {
	selector := &p.Spec.Selector
	if selector.Service == "" {
		selector.Service = Any
	}
	if selector.Namespace == "" {
		selector.Namespace = Any
	}
	if p.Spec.Direction == Inbound {
		p.Spec.Direction = ""
	}
	if at := p.Spec.ExpiresAt; at != nil {
		utc := at.UTC()
		p.Spec.ExpiresAt = &utc
	}
	for i := range p.Spec.Rules {
		p.Spec.Rules[i].normalise()
	}
}

func (r *Rule) normalise() {
	if abort := r.Fault.Abort; abort != nil && len(abort.Headers) > 0 {
		lower := make(map[string]string, len(abort.Headers))
		// Sorted, so that the result does not depend on the map's order if two
		// names differ only in case, which no valid policy has.
		for _, name := range slices.Sorted(maps.Keys(abort.Headers)) {
			lower[strings.ToLower(name)] = abort.Headers[name]
		}
		abort.Headers = lower
	}
	if r.Match == nil {
		return
	}
	slices.Sort(r.Match.Methods)
	r.Match.Methods = slices.Compact(r.Match.Methods)
	for i := range r.Match.Headers {
		r.Match.Headers[i].Name = strings.ToLower(r.Match.Headers[i].Name)
	}
	if len(r.Match.Methods) == 0 && r.Match.Path == nil && len(r.Match.Headers) == 0 && r.Match.To == nil {
		r.Match = nil
	}
}

// Canonical returns the canonical JSON of the policy: fields in the order of
// the types, defaults written out, no white space. It is a valid policy file.
func (p *Policy) Canonical() []byte {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(p); err != nil {
		// Encoding strings, numbers and a time that was parsed from RFC 3339 cannot fail.
		panic(fmt.Sprintf("encoding policy %q: %v", p.Metadata.Name, err))
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n"))
}

// Expired reports whether the policy has expired at a time.
func (p *Policy) Expired(at time.Time) bool {
	return p.Spec.ExpiresAt != nil && !at.Before(*p.Spec.ExpiresAt)
}

// Outbound reports whether the policy faults the requests that the selected workloads
// send, and not those that they receive.
func (p *Policy) Outbound() bool { return p.Spec.Direction == Outbound }

// HasDelay reports whether any rule has a delay.
func (p *Policy) HasDelay() bool {
	return slices.ContainsFunc(p.Spec.Rules, func(r Rule) bool { return r.Fault.DelayMS > 0 })
}

// HasAbort reports whether any rule has an abort.
func (p *Policy) HasAbort() bool {
	return slices.ContainsFunc(p.Spec.Rules, func(r Rule) bool { return r.Fault.Abort != nil })
}
