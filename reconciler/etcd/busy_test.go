package etcd

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines collects a log that several goroutines write to.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(text)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Many publications with many probes in between do not make the store suspect
// that etcd was replaced, and read all of it again.
func TestABusyEtcdIsNotReadAgain(t *testing.T) {
	t.Parallel()
	var log lines
	s := New(DefaultPrefix, "a", slog.New(slog.NewTextHandler(&log, nil)))
	s.StateKeys = testKeys
	s.DataDir = t.TempDir()
	s.Embedded = NewEmbedded(s.DataDir, quiet())
	s.ProbeInterval = time.Millisecond
	openStore(t, s)
	term := campaign(t, s)
	for i := range 300 {
		publish(t, term, publication(fmt.Sprintf("c%d", i), policies(t, 3, i+1)))
	}
	if said := strings.Count(log.String(), "reading it again"); said > 0 {
		t.Errorf("all of etcd was read again %d times:\n%s", said, log.String())
	}
}
