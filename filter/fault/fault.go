// Package fault decides whether a request is delayed, aborted, or both, by executing a
// program.Program.
//
// Every rule that matches the request, in every policy, makes its own random draw.
// The longest of the delays drawn applies, followed by the first abort drawn, in the
// order of the names of the policies and of the rules in a policy. A rule with a delay
// and an abort makes one draw for both. Rules of an expired policy do nothing. Rules of
// a dry-run policy are drawn and reported, and have no effect on the others.
//
// The package does not depend on a proxy, and uses no goroutines or timers, so that it
// can be tested natively and run in a Wasm module.
package fault

import (
	"time"

	"github.com/boifi/hfi/filter/program"
)

// Request is the request to decide on. A call may cost microseconds, so a decision makes
// each call at most once, and only if a rule needs it.
type Request interface {
	// Method returns the HTTP method, in upper case.
	Method() string
	// Path returns the value of :path. A query and a fragment are removed before it
	// is compared.
	Path() string
	// Header returns the value of a header, whose name is in lower case, and whether
	// the header is present. Several values are joined by ",".
	Header(name string) (string, bool)
	// Now returns the current time. It is called only if a rule that would otherwise
	// apply has an expiry.
	Now() time.Time
}

// Kind is the kind of a fault.
type Kind uint8

// The kinds of fault.
const (
	KindDelay Kind = iota + 1
	KindAbort
)

// String returns "delay" or "abort".
func (k Kind) String() string {
	switch k {
	case KindDelay:
		return "delay"
	case KindAbort:
		return "abort"
	}
	return "none"
}

// None is the index in a Decision without a policy.
const None = -1

// Decision is the decision on a request.
type Decision struct {
	// Delay is how long the request is delayed, before the abort if there is one.
	// 0 means no delay. DelayPolicy is the name of the policy, and DelayIndex its
	// index in Program.Policies. Without a delay they are "" and None.
	Delay       time.Duration
	DelayPolicy string
	DelayIndex  int
	// Abort is the response in place of the upstream's. Nil means that the request
	// continues. AbortPolicy and AbortIndex are as above.
	Abort       *program.Abort
	AbortPolicy string
	AbortIndex  int
	// DryRun has the faults of dry-run policies, sorted by name, at most one for each
	// policy and kind, with the delay first. It is usually nil.
	DryRun []Hit
}

// Hit is a fault that a dry-run policy would inject if it were the only one.
type Hit struct {
	// Policy is the policy's index in Program.Policies.
	Policy int
	Kind   Kind
}

// Limits limit the effect of policies.
type Limits struct {
	// MaxDelay limits delays. 0 or less means no limit.
	MaxDelay time.Duration
}
