package chaos

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// transcriptLines bounds the number of lines printed.
const transcriptLines = 300

// transcript records the events in order, to explain a violation.
type transcript struct {
	begun time.Time
	mu    sync.Mutex
	lines []string
}

func (s *transcript) note(format string, arguments ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf("%9.3fs  ", time.Since(s.begun).Seconds())+fmt.Sprintf(format, arguments...))
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines[max(0, len(s.lines)-transcriptLines):], "\n")
}
