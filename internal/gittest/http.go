package gittest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Server is a git server for one repository.
type Server struct {
	// URL is the repository's address, without credentials.
	URL string
	// CAFile is a PEM file with the authority of the server's certificate, if it serves HTTPS.
	CAFile string

	mu       sync.Mutex
	fault    func(http.Handler) http.Handler
	requests int
	// release is closed at the end of the test, and ends hanging requests.
	release chan struct{}
}

// HTTP configures ServeHTTP. The zero value requires no credentials.
type HTTP struct {
	// User and Password are required by basic authentication, if set.
	User, Password string
	// Token is required as a bearer token, if set.
	Token string
	// TLS enables HTTPS, with the certificate of httptest.
	TLS bool
	// ClientCA is the authority, in PEM, of the certificate that clients must present over TLS, if set.
	ClientCA []byte
	// Refuse, if it is not nil, returns why a request gets status 400, or nothing.
	// It may read the body, a copy of which it is given.
	Refuse func(r *http.Request, body []byte) string
}

// ServeHTTP serves a repository with git http-backend until the end of the test.
func ServeHTTP(t testing.TB, repo *Repo, options HTTP) *Server {
	t.Helper()
	path, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{
		Path: path, Args: []string{"http-backend"}, Dir: repo.bare,
		Env: append(Environment(), "GIT_PROJECT_ROOT="+strings.TrimSuffix(repo.bare, "/policies.git"), "GIT_HTTP_EXPORT_ALL=1"),
	}
	s := &Server{release: make(chan struct{})}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		fault := s.fault
		s.requests++
		s.mu.Unlock()
		if fault != nil {
			fault(backend).ServeHTTP(w, r)
			return
		}
		if !options.allow(r) {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "credentials are needed", http.StatusUnauthorized)
			return
		}
		if options.Refuse != nil {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			if reason := options.Refuse(r, body); reason != "" {
				http.Error(w, reason, http.StatusBadRequest)
				return
			}
		}
		backend.ServeHTTP(w, r)
	})
	server := httptest.NewUnstartedServer(handler)
	if options.TLS {
		if options.ClientCA != nil {
			authorities := x509.NewCertPool()
			authorities.AppendCertsFromPEM(options.ClientCA)
			server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authorities}
			server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes
		}
		server.StartTLS()
		s.CAFile = filepath.Join(t.TempDir(), "ca.pem")
		write(t, s.CAFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	} else {
		server.Start()
	}
	t.Cleanup(func() {
		close(s.release)
		server.CloseClientConnections()
		server.Close()
	})
	s.URL = server.URL + "/policies.git"
	return s
}

func (o HTTP) allow(r *http.Request) bool {
	if o.Token != "" {
		return r.Header.Get("Authorization") == "Bearer "+o.Token
	}
	if o.User == "" && o.Password == "" {
		return true
	}
	user, password, _ := r.BasicAuth()
	return user == o.User && password == o.Password
}

// Requests returns the number of requests so far.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// Break applies a fault to every later request; nil ends it.
func (s *Server) Break(fault func(git http.Handler) http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// Answer is a fault that answers with a status.
func Answer(status int) func(http.Handler) http.Handler {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, http.StatusText(status), status)
		})
	}
}

// Hang is a fault that does not answer until the client or the test ends.
func (s *Server) Hang(http.Handler) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { s.wait(r) })
}

// HangAfter is a fault that hangs after count bytes of the answer's body.
func (s *Server) HangAfter(count int) func(http.Handler) http.Handler {
	return func(git http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			git.ServeHTTP(&limited{ResponseWriter: w, left: count, then: func() { s.wait(r); panic(http.ErrAbortHandler) }}, r)
		})
	}
}

// CutAfter is a fault that closes the connection after count bytes of the answer's body.
func CutAfter(count int) func(http.Handler) http.Handler {
	return func(git http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			git.ServeHTTP(&limited{ResponseWriter: w, left: count, then: func() { panic(http.ErrAbortHandler) }}, r)
		})
	}
}

func (s *Server) wait(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-s.release:
	}
}

// limited writes left bytes of a body and then calls then.
type limited struct {
	http.ResponseWriter
	left int
	then func()
}

func (l *limited) Write(text []byte) (int, error) {
	if len(text) <= l.left {
		l.left -= len(text)
		return l.ResponseWriter.Write(text)
	}
	_, _ = l.ResponseWriter.Write(text[:l.left])
	_ = http.NewResponseController(l.ResponseWriter).Flush()
	l.left = 0
	l.then()
	return len(text), nil
}
