package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/boifi/hfi/reconciler"
)

// ballastSize is in bytes of address space. The collector lets the heap grow
// in proportion to what is in use, and counts the ballast as used.
const ballastSize = 48 << 20

// ballast makes the garbage collector run less often during the first
// validation, when the heap is small and nearly all that CUE allocates is
// garbage at once: it saves a tenth of the processor time of a cold start. The
// memory is never touched, and so takes no physical memory. After the first
// state is served the ballast is freed, and unused memory goes back to the
// system.
type ballast struct {
	once    sync.Once
	weight  []byte
	freeing sync.WaitGroup
}

func newBallast() *ballast {
	if os.Getenv("GOMEMLIMIT") != "" {
		return &ballast{} // it would count towards the limit
	}
	return &ballast{weight: make([]byte, ballastSize)}
}

// before returns serve, which frees the ballast after its first call, and ends tuneCollector.
func (b *ballast) before(serve func(*reconciler.State)) func(*reconciler.State) {
	return func(state *reconciler.State) {
		serve(state)
		b.once.Do(func() {
			runtime.KeepAlive(b.weight)
			b.weight = nil
			collectAsUsual()
			b.freeing.Go(debug.FreeOSMemory)
		})
	}
}

// wait waits until the memory is freed. The function of before must not be called after it.
func (b *ballast) wait() { b.freeing.Wait() }
