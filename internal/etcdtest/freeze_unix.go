//go:build unix

package etcdtest

import "syscall"

// Freeze suspends the server until Thaw.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw resumes a frozen server.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(number syscall.Signal) {
	s.t.Helper()
	if err := s.process.Process.Signal(number); err != nil {
		s.t.Fatal(err)
	}
}
