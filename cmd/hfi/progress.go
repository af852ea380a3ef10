package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// When progress is shown: on a terminal in one line that is rewritten, else from
// time to time as a plain line, for logs.
const (
	progressAfter      = time.Second
	progressEvery      = 250 * time.Millisecond
	plainProgressAfter = 15 * time.Second
)

// progress shows on standard error what the command is waiting for.
type progress struct {
	mu   sync.Mutex
	note string
	stop context.CancelFunc
	done chan struct{}
}

// progress starts to show a note. Stop must be called; it erases the line.
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

// Note changes the text.
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

// pause waits, and returns false if the context ended first.
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

// step announces a git command on a terminal, in a line that is not rewritten: git
// may prompt for a password there.
func (a *app) step(pattern string, args ...any) {
	if isTerminal(a.stderr) {
		fmt.Fprintln(a.stderr, clean(fmt.Sprintf(pattern, args...)))
	}
}
