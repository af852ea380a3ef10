// Package fault decides what happens to one request: it compiles the
// policies in force into a Program, and asks that, for each request, whether
// to delay it, to abort it, or both.
//
// The rule: every rule that matches the request, in every policy, draws once
// on its own. Of the delays drawn the longest applies, then the first abort
// drawn, in the order of the policies' names and of the rules as written. A
// rule with a delay and an abort has one draw for both. A rule of a policy
// that has expired does nothing. A rule of a dry-run policy draws, is
// reported, and changes nothing for the others.
//
// The package is pure: it knows no proxy, starts no goroutine and sets no
// timer, so that it can be tested natively and run in a Wasm module.
package fault

import "time"

// Request gives what a rule asks for. A call may cost microseconds, so a
// decision makes each at most once, and only when a rule needs the answer.
type Request interface {
	// Method is the HTTP method, in capitals.
	Method() string
	// Path is the request's target as in :path. A query and a fragment may
	// be part of it; they are cut off before it is compared.
	Path() string
	// Header is the value of a header, whose name is given in lower case;
	// several values are joined by ",". It is false if there is no such header.
	Header(name string) (string, bool)
	// Now is the present time. It is asked for only when a rule that would
	// otherwise apply has an expiry.
	Now() time.Time
}

// Kind is what a fault does.
type Kind uint8

// The kinds of fault.
const (
	KindDelay Kind = iota + 1
	KindAbort
)

// String is "delay" or "abort".
func (k Kind) String() string {
	switch k {
	case KindDelay:
		return "delay"
	case KindAbort:
		return "abort"
	}
	return "none"
}

// None is the index of no policy.
const None = -1

// Decision is what happens to one request.
type Decision struct {
	// Delay is how long the request waits, before the abort if there is one
	// too; 0 means that it does not wait. DelayPolicy is the policy that
	// wants it, and DelayIndex that policy's place in Program.Policies;
	// without a delay they are "" and None.
	Delay       time.Duration
	DelayPolicy string
	DelayIndex  int
	// Abort is the response that the request gets in place of the
	// upstream's; nil means that it goes on. The policy is named as above.
	Abort       *Abort
	AbortPolicy string
	AbortIndex  int
	// DryRun is what dry-run policies would have done: in the order of their
	// names, each policy at most once for each kind, the delay first. It is
	// mostly nil.
	DryRun []Hit
}

// Hit is what a dry-run policy would have done to a request, were it the
// only one.
type Hit struct {
	Policy string
	// Index is the policy's place in Program.Policies.
	Index int
	Kind  Kind
}

// Abort is a response, prepared when the policies were compiled. It is
// shared by all decisions: nobody may change it.
type Abort struct {
	// Status is the HTTP status, 200 to 599; it is 200 where GRPCStatus is
	// given, as gRPC wants.
	Status int
	// GRPCStatus is 0 to 16, or NoGRPC.
	GRPCStatus int
	// Body is nil if there is none.
	Body []byte
	// Headers are names in lower case and values, by name.
	Headers [][2]string
}

// NoGRPC is the GRPCStatus of an abort by HTTP status.
const NoGRPC = -1

// Limits are the bounds that a filter sets to what policies ask for.
type Limits struct {
	// MaxDelay is the longest delay; longer ones are cut to it. 0 or less
	// means that there is no bound.
	MaxDelay time.Duration
}
