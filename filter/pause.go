package main

import (
	"container/heap"
	"time"

	"github.com/boifi/hfi/filter/fault"
)

// pausedStream is a request that waits for the end of its delay.
type pausedStream struct {
	id  uint32
	due time.Time
	// abort is what follows the delay, or nil: the request goes on.
	abort *fault.Abort
	// policy is the abort's.
	policy string
	// at is the place in the heap.
	at int
}

// pauses are the paused streams. A stream is in it from its pause to its
// resumption or its end, whichever comes first.
type pauses struct {
	streams map[uint32]*pausedStream
	queue   pauseQueue
}

func newPauses() pauses { return pauses{streams: map[uint32]*pausedStream{}} }

func (p *pauses) add(stream *pausedStream) {
	p.streams[stream.id] = stream
	heap.Push(&p.queue, stream)
}

// forget takes out a stream that has ended.
func (p *pauses) forget(id uint32) {
	if stream, ok := p.streams[id]; ok {
		delete(p.streams, id)
		heap.Remove(&p.queue, stream.at)
	}
}

// next takes out a stream whose delay is over, or gives nil.
func (p *pauses) next(now time.Time) *pausedStream {
	if len(p.queue) == 0 || p.queue[0].due.After(now) {
		return nil
	}
	stream := heap.Pop(&p.queue).(*pausedStream)
	delete(p.streams, stream.id)
	return stream
}

// deadline is when the next delay ends; zero: no stream is paused.
func (p *pauses) deadline() time.Time {
	if len(p.queue) == 0 {
		return time.Time{}
	}
	return p.queue[0].due
}

// pauseQueue is a heap by the end of the delay.
type pauseQueue []*pausedStream

func (q pauseQueue) Len() int           { return len(q) }
func (q pauseQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q pauseQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}
func (q *pauseQueue) Push(x any) {
	stream := x.(*pausedStream)
	stream.at = len(*q)
	*q = append(*q, stream)
}
func (q *pauseQueue) Pop() any {
	last := len(*q) - 1
	stream := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return stream
}
