package main

import (
	"container/heap"
	"time"

	"github.com/boifi/hfi/filter/program"
)

// pausedStream is a request that is delayed.
type pausedStream struct {
	id     uint32
	plugin *plugin
	due    time.Time
	// abort follows the delay. If it is nil, the request continues.
	abort *program.Abort
	// policy is the policy of the abort.
	policy string
	// at is the index in the heap.
	at int
}

// pauses has the paused streams. A stream is in it until it is resumed or ends,
// whichever is first.
type pauses struct {
	streams map[uint32]*pausedStream
	queue   pauseQueue
}

func newPauses() pauses { return pauses{streams: map[uint32]*pausedStream{}} }

func (p *pauses) add(stream *pausedStream) {
	p.streams[stream.id] = stream
	heap.Push(&p.queue, stream)
}

// forget removes a stream that has ended.
func (p *pauses) forget(id uint32) {
	if stream, ok := p.streams[id]; ok {
		delete(p.streams, id)
		heap.Remove(&p.queue, stream.at)
	}
}

// next removes and returns a stream whose delay has passed, or nil.
func (p *pauses) next(now time.Time) *pausedStream {
	if len(p.queue) == 0 || p.queue[0].due.After(now) {
		return nil
	}
	stream := heap.Pop(&p.queue).(*pausedStream)
	delete(p.streams, stream.id)
	return stream
}

// deadline returns when the next delay ends, or zero if no stream is paused.
func (p *pauses) deadline() time.Time {
	if len(p.queue) == 0 {
		return time.Time{}
	}
	return p.queue[0].due
}

// pauseQueue is a heap ordered by the end of the delay. It implements heap.Interface.
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
