package main

import (
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
	p.queue.push(stream)
}

// forget removes a stream that has ended.
func (p *pauses) forget(id uint32) {
	if stream, ok := p.streams[id]; ok {
		delete(p.streams, id)
		p.queue.remove(stream.at)
	}
}

// next removes and returns a stream whose delay has passed, or nil.
func (p *pauses) next(now time.Time) *pausedStream {
	if len(p.queue) == 0 || p.queue[0].due.After(now) {
		return nil
	}
	stream := p.queue.remove(0)
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

// pauseQueue is a heap ordered by the end of the delay: the one at i is not later than those
// at 2i+1 and 2i+2. (With package container/heap, the Go linker would keep all methods of
// the types that can be reached from a stream.)
type pauseQueue []*pausedStream

// push adds a stream.
func (q *pauseQueue) push(stream *pausedStream) {
	stream.at = len(*q)
	*q = append(*q, stream)
	q.up(stream.at)
}

// remove removes and returns the stream at an index.
func (q *pauseQueue) remove(i int) *pausedStream {
	last := len(*q) - 1
	removed := (*q)[i]
	q.swap(i, last)
	(*q)[last] = nil
	*q = (*q)[:last]
	if i < last {
		q.down(i)
		q.up(i)
	}
	return removed
}

func (q pauseQueue) swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}

// up moves the stream at an index towards the start, to its place.
func (q pauseQueue) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !q[i].due.Before(q[parent].due) {
			return
		}
		q.swap(i, parent)
		i = parent
	}
}

// down moves the stream at an index towards the end, to its place.
func (q pauseQueue) down(i int) {
	for {
		first := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(q); child++ {
			if q[child].due.Before(q[first].due) {
				first = child
			}
		}
		if first == i {
			return
		}
		q.swap(i, first)
		i = first
	}
}
