package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/boifi/hfi/reconciler"
)

// ballastSize is in bytes of address space. The collector lets the heap grow
// to twice what is in use, and counts the ballast as used: so this is also
// how much more garbage may lie about.
const ballastSize = 48 << 20

// ballast keeps the garbage collector from running all the time during the
// first validation, when the heap is small and nearly all that CUE allocates
// is garbage at once: it takes a tenth off the processor time of a cold start.
// It is memory that is never touched, and so costs none. With the first set
// served it is thrown off, and what the validation took goes back to the system.
type ballast struct {
	once    sync.Once
	weight  []byte
	freeing sync.WaitGroup
}

func newBallast() *ballast {
	if os.Getenv("GOMEMLIMIT") != "" {
		return &ballast{} // it would count, and the limit is the user's
	}
	return &ballast{weight: make([]byte, ballastSize)}
}

// before is serve, which throws the ballast off the first time.
func (b *ballast) before(serve func(*reconciler.State)) func(*reconciler.State) {
	return func(state *reconciler.State) {
		serve(state)
		b.once.Do(func() {
			runtime.KeepAlive(b.weight)
			b.weight = nil
			b.freeing.Go(debug.FreeOSMemory)
		})
	}
}

// wait waits until memory has gone back. No set is served after it.
func (b *ballast) wait() { b.freeing.Wait() }
