package http

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	nethttp "net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

const jsonType = "application/json"

// handle answers a request, or says why not before it has written anything.
type handle func(w nethttp.ResponseWriter, r *nethttp.Request) error

// route is a path, what answers it, and whether it is asked with GET (and
// HEAD) or with POST.
type route struct {
	// name is the path as documentation writes it; metrics use it too.
	name string
	post bool
	do   handle
}

// otherRoute is the name of every path that is none of ours.
const otherRoute = "other"

// httpError is an answer that says that a request failed.
type httpError struct {
	status        int
	code, message string
	// retryAfter is in seconds; zero if asking again does not help.
	retryAfter int
	// allow has the methods of a path that was asked with another one.
	allow string
}

func (e *httpError) Error() string { return fmt.Sprintf("%d %s: %s", e.status, e.code, e.message) }

// errGone says that the client went away: there is nobody to answer.
var errGone = errors.New("the client has gone")

// statusGone is what metrics call a request whose client went away.
const statusGone = 499

func badRequest(format string, args ...any) error {
	return &httpError{status: nethttp.StatusBadRequest, code: "bad_request", message: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) error {
	return &httpError{status: nethttp.StatusNotFound, code: "not_found", message: fmt.Sprintf(format, args...)}
}

// routes are all paths; a path that ends in a slash stands for all below it.
func (s *Server) routes() map[string]route {
	metrics := s.metricsHandler()
	return map[string]route{
		"/health": {name: "/health", do: s.health},
		"/ready":  {name: "/ready", do: s.ready},
		"/metrics": {name: "/metrics", do: func(w nethttp.ResponseWriter, r *nethttp.Request) error {
			metrics.ServeHTTP(w, r)
			return nil
		}},
		"/v1/policies":        {name: "/v1/policies", do: s.policies},
		"/v1/policies/status": {name: "/v1/policies/status", do: s.policiesStatus},
		"/v1/policies/":       {name: "/v1/policies/{name}", do: s.policy},
		"/v1/status":          {name: "/v1/status", do: s.status},
		"/v1/drift":           {name: "/v1/drift", do: s.drift},
		"/v1/filters":         {name: "/v1/filters", do: s.filters},
		"/v1/filter.wasm":     {name: "/v1/filter.wasm", do: s.filter},
		"/v1/filter/":         {name: "/v1/filter/{sha256}.wasm", do: s.filter},
		"/v1/reconcile":       {name: "/v1/reconcile", post: true, do: s.reconcile},
		"/v1/webhook":         {name: "/v1/webhook", post: true, do: s.webhook},
	}
}

func (s *Server) buildHandler() nethttp.Handler {
	routes := s.routes()
	return nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if !s.requests.enter() {
			panic(nethttp.ErrAbortHandler)
		}
		defer s.requests.leave()
		found, known := routes[r.URL.Path]
		slash := strings.LastIndexByte(r.URL.Path, '/') + 1
		if !known {
			found, known = routes[r.URL.Path[:slash]]
		}
		if !known || slash == len(r.URL.Path) {
			found = route{name: otherRoute, do: unknownPath, post: r.Method == nethttp.MethodPost}
		}
		s.run(&writer{ResponseWriter: w, limit: s.WriteTimeout}, r, found)
	})
}

// run answers one request by its route, and whatever happens counts it.
func (s *Server) run(w *writer, r *nethttp.Request, found route) {
	defer func() {
		if trouble := recover(); trouble != nil {
			s.Logger.Error("a request met a bug", "route", found.name, "panic", fmt.Sprint(trouble), "stack", string(debug.Stack()))
			begun := w.code != 0
			if !begun {
				s.fail(w, &httpError{status: nethttp.StatusInternalServerError, code: "internal", message: "a bug in hfid; its log has more"})
			}
			s.Metrics.requests.WithLabelValues(found.name, strconv.Itoa(nethttp.StatusInternalServerError)).Inc()
			if begun {
				// Half an answer must not look like a whole one.
				panic(nethttp.ErrAbortHandler)
			}
			return
		}
		s.Metrics.requests.WithLabelValues(found.name, strconv.Itoa(w.code)).Inc()
	}()
	if err := s.try(w, r, found); err != nil {
		s.fail(w, err)
	}
}

func (s *Server) try(w *writer, r *nethttp.Request, found route) error {
	if err := checkMethod(r, found); err != nil {
		return err
	}
	if r.ContentLength != 0 || found.post {
		// Bodies have this long; afterwards net/http lifts the deadline itself.
		_ = nethttp.NewResponseController(w).SetReadDeadline(time.Now().Add(s.BodyTimeout))
	}
	if r.ContentLength != 0 && !found.post {
		w.Header().Set("Connection", "close")
		return badRequest("a %s request has no body here", r.Method)
	}
	return found.do(w, r)
}

func checkMethod(r *nethttp.Request, found route) error {
	allow := []string{nethttp.MethodGet, nethttp.MethodHead}
	if found.post {
		allow = []string{nethttp.MethodPost}
	}
	if found.name == otherRoute || slices.Contains(allow, r.Method) {
		return nil
	}
	return &httpError{
		status: nethttp.StatusMethodNotAllowed, code: "method_not_allowed", allow: strings.Join(allow, ", "),
		message: fmt.Sprintf("%s takes %s", found.name, strings.Join(allow, " and ")),
	}
}

func unknownPath(_ nethttp.ResponseWriter, r *nethttp.Request) error {
	return notFound("there is nothing at %.120q", r.URL.Path)
}

// fail answers with an error. One that is not an httpError is a bug's.
func (s *Server) fail(w *writer, err error) {
	if errors.Is(err, errGone) {
		w.code = statusGone
		return
	}
	failure := &httpError{status: nethttp.StatusInternalServerError, code: "internal", message: err.Error()}
	errors.As(err, &failure)
	header := w.Header()
	if failure.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(failure.retryAfter))
	}
	if failure.allow != "" {
		header.Set("Allow", failure.allow)
	}
	var body struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	body.Error.Code, body.Error.Message = failure.code, failure.message
	_ = writeJSON(w, failure.status, body)
}

// writeJSON writes a whole answer that no cache may keep. It fails, with
// nothing written, if the value cannot be JSON.
func writeJSON(w nethttp.ResponseWriter, status int, value any) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("writing the answer as JSON: %w", err)
	}
	header := w.Header()
	header.Set("Content-Type", jsonType)
	header.Set("Content-Length", strconv.Itoa(text.Len()))
	if header.Get("Cache-Control") == "" {
		header.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	// A client that is gone by now has no use for the error; net/http itself
	// leaves out the body of an answer to HEAD.
	_, _ = w.Write(text.Bytes())
	return nil
}

// parameters are the request's, each of a known name and given once: a
// misspelt one must not silently answer another question.
func parameters(r *nethttp.Request, known ...string) (map[string]string, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("the part after the question mark cannot be read: %v", err)
	}
	single := make(map[string]string, len(values))
	for name, all := range values {
		if !slices.Contains(known, name) {
			if len(known) == 0 {
				return nil, badRequest("the parameter %.60q is not known: this path takes none", name)
			}
			return nil, badRequest("the parameter %.60q is not known: there are %s", name, strings.Join(known, ", "))
		}
		if len(all) > 1 {
			return nil, badRequest("the parameter %s is given %d times", name, len(all))
		}
		single[name] = all[0]
	}
	return single, nil
}

// writer notes the status, and gives the client its time to read the answer
// from the moment that the answer begins.
type writer struct {
	nethttp.ResponseWriter
	limit time.Duration
	// code is zero before the answer begins.
	code int
}

func (w *writer) WriteHeader(code int) {
	if w.code == 0 && code >= nethttp.StatusOK {
		w.code = code
		// Only a connection that cannot have deadlines refuses one: a test's recorder.
		_ = nethttp.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.limit))
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *writer) Write(text []byte) (int, error) {
	if w.code == 0 {
		w.WriteHeader(nethttp.StatusOK)
	}
	return w.ResponseWriter.Write(text)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *writer) Unwrap() nethttp.ResponseWriter { return w.ResponseWriter }
