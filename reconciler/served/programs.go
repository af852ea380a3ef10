package served

import (
	"fmt"
	"runtime"
	"sync"
	"weak"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/schema"
)

// maxPrograms bounds the encoded programs that are kept for the next filter, in bytes.
const maxPrograms = 64 << 20

// programs compiles the policies of workloads. Each policy is compiled once, and each
// selection of policies is encoded once for all workloads that have it. It is safe for
// concurrent use.
type programs struct {
	compiler program.Compiler

	mu sync.Mutex
	// compiled has the policies that are still referenced elsewhere.
	compiled map[weak.Pointer[schema.Entry]]*program.Compiled
	// encoded has programs by their policies, and order these keys, the oldest first.
	// Their size is at most maxPrograms, or they are one.
	encoded map[programKey]*encoding
	order   []programKey
	sizes   map[programKey]int
	size    int
}

// programKey identifies a program: the digest of its policies, and whether it is for waypoints.
type programKey struct {
	digest   schema.Digest
	waypoint bool
}

func newPrograms() *programs {
	return &programs{
		compiled: map[weak.Pointer[schema.Entry]]*program.Compiled{},
		encoded:  map[programKey]*encoding{},
		sizes:    map[programKey]int{},
	}
}

// encoding is a program that is encoded when it is needed first.
type encoding struct {
	once sync.Once
	// done is closed when the result is known.
	done    chan struct{}
	encoded []byte
	err     error
}

// known reports whether the result is known.
func (e *encoding) known() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// of returns the program of the policies with a key.
func (p *programs) of(key programKey, entries func() []*schema.Entry) ([]byte, error) {
	p.mu.Lock()
	e, ok := p.encoded[key]
	if !ok {
		e = &encoding{done: make(chan struct{})}
		p.encoded[key] = e
	}
	p.mu.Unlock()
	e.once.Do(func() {
		defer func() {
			// A defect must not affect other policies, or stay after an upgrade of the policies.
			if fault := recover(); fault != nil {
				e.err = fmt.Errorf("compiling them failed: %v", fault)
			}
			close(e.done)
			p.keep(key, len(e.encoded))
		}()
		e.encoded, e.err = p.encode(entries(), key.waypoint)
	})
	return e.encoded, e.err
}

// refusal returns the error that of has returned for a key, or nil.
func (p *programs) refusal(key programKey) error {
	p.mu.Lock()
	e := p.encoded[key]
	p.mu.Unlock()
	if e == nil || !e.known() {
		return nil
	}
	return e.err
}

// keep accounts for a program, and drops the oldest ones beyond the limit.
func (p *programs) keep(key programKey, size int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.order = append(p.order, key)
	p.sizes[key] = size
	p.size += size
	for len(p.order) > 1 && (p.size > maxPrograms || len(p.order) > maxCached) {
		oldest := p.order[0]
		p.order = p.order[1:]
		p.size -= p.sizes[oldest]
		delete(p.sizes, oldest)
		delete(p.encoded, oldest)
	}
}

// encode leaves out a policy that cannot be compiled. Validation has warned of it.
func (p *programs) encode(entries []*schema.Entry, waypoint bool) ([]byte, error) {
	compiled := make([]*program.Compiled, 0, len(entries))
	for _, entry := range entries {
		if one := p.compile(entry); one != nil {
			compiled = append(compiled, one)
		}
	}
	if waypoint {
		return program.EncodeForWaypoints(compiled)
	}
	return program.Encode(compiled)
}

// compile returns nil if filters cannot apply the policy.
func (p *programs) compile(entry *schema.Entry) *program.Compiled {
	key := weak.Make(entry)
	p.mu.Lock()
	made, known := p.compiled[key]
	p.mu.Unlock()
	if known {
		return made
	}
	made, err := p.compiler.Compile(entry.Policy)
	if err != nil {
		made = nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.compiled[key]; !known {
		p.compiled[key] = made
		runtime.AddCleanup(entry, p.forget, key)
	}
	return made
}

func (p *programs) forget(key weak.Pointer[schema.Entry]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.compiled, key)
}
