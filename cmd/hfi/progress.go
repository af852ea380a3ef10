package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// When progress is shown: on a terminal in one line that is rewritten, else
// now and then as a plain line, for those who read logs.
const (
	progressAfter      = time.Second
	progressEvery      = 250 * time.Millisecond
	plainProgressAfter = 15 * time.Second
)

// progress says on standard error what takes so long.
type progress struct {
	mu   sync.Mutex
	note string
	stop context.CancelFunc
	done chan struct{}
}

// progress starts with a note; Stop must be called, and erases the line.
func (a *app) progress(ctx context.Context, note string) *progress {
	ctx, cancel := context.WithCancel(ctx)
	p := &progress{note: note, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		if isTerminal(a.stderr) {
			p.rewrite(ctx, a)
		} else {
			p.plain(ctx, a)
		}
	}()
	return p
}

// Note changes what is said.
func (p *progress) Note(note string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note = clean(note)
}

func (p *progress) Stop() {
	p.stop()
	<-p.done
}

func (p *progress) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.note
}

func (p *progress) rewrite(ctx context.Context, a *app) {
	began := time.Now()
	if !pause(ctx, progressAfter) {
		return
	}
	for {
		line := fmt.Sprintf("%s … %v", p.text(), time.Since(began).Truncate(time.Second))
		fmt.Fprintf(a.stderr, "\r\x1b[K%s", fit(line, a.stderr))
		if !pause(ctx, progressEvery) {
			fmt.Fprint(a.stderr, "\r\x1b[K")
			return
		}
	}
}

func (p *progress) plain(ctx context.Context, a *app) {
	began := time.Now()
	for pause(ctx, plainProgressAfter) {
		fmt.Fprintf(a.stderr, "%s … %v\n", p.text(), time.Since(began).Truncate(time.Second))
	}
}

// pause waits, and says whether it was left to.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// step announces a run of git on a terminal: in a line of its own that is not
// rewritten, since git may ask for a password there.
func (a *app) step(pattern string, args ...any) {
	if isTerminal(a.stderr) {
		fmt.Fprintln(a.stderr, clean(fmt.Sprintf(pattern, args...)))
	}
}
