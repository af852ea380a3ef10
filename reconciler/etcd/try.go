package etcd

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errLeftOut ends a request because a member that may have got it is not used any more.
var errLeftOut = errors.New("a member of etcd does not answer, and is not used any more")

// tries are requests that are made again if they fail. A request to a member
// that hangs would take all its time, even after that member was left out: gRPC
// waits for requests that have begun. The zero value is ready for use.
type tries struct {
	mu sync.Mutex
	// underWay ends with the next interrupt; nil if there was no request since the last one.
	underWay context.Context
	end      context.CancelFunc
}

// interrupt ends the requests under way with errLeftOut.
func (t *tries) interrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.underWay != nil {
		t.end()
		t.underWay = nil
	}
}

func (t *tries) begin() context.Context {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.underWay == nil {
		t.underWay, t.end = context.WithCancel(context.Background())
	}
	return t.underWay
}

// make makes a request. exceeded says that it took longer than the limit. The
// error is errLeftOut if it was interrupted, whether or not etcd has carried it out.
func (t *tries) make(ctx context.Context, limit time.Duration, request func(context.Context) error) (exceeded bool, err error) {
	limited, cancelLimit := context.WithTimeout(ctx, limit)
	defer cancelLimit()
	limited, cancel := context.WithCancelCause(limited)
	defer cancel(nil)
	defer context.AfterFunc(t.begin(), func() { cancel(errLeftOut) })()
	err = request(limited)
	if err == nil || ctx.Err() != nil {
		return false, err
	}
	if errors.Is(context.Cause(limited), errLeftOut) {
		return false, errLeftOut
	}
	return limited.Err() != nil, err
}
