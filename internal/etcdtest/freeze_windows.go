package etcdtest

// Freeze skips the test: Windows cannot suspend a process.
func (s *Server) Freeze() { s.t.Skip("Windows cannot suspend a process") }

// Thaw does nothing.
func (s *Server) Thaw() {}
