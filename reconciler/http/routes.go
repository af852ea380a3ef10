package http

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/boifi/hfi/internal/api"
)

const jsonType = "application/json"

// handle answers a request, or returns an error before it has written anything.
type handle func(w http.ResponseWriter, r *http.Request) error

// route is a path pattern, its handler, and whether it takes POST, or GET and HEAD.
type route struct {
	// pattern is ServeMux's. name, if set, replaces it in metrics.
	pattern, name string
	post          bool
	do            handle
}

// otherRoute is the label in metrics of every path without a route.
const otherRoute = "other"

// httpError is an answer that says that a request failed.
type httpError struct {
	status        int
	code, message string
	// retryAfter is in seconds; zero if a retry does not help.
	retryAfter int
	// allow has the methods of a path that was requested with another one.
	allow string
}

func (e *httpError) Error() string { return fmt.Sprintf("%d %s: %s", e.status, e.code, e.message) }

// errGone says that the client closed its request.
var errGone = errors.New("the client closed the request")

// statusGone is the status in metrics of a request that the client closed.
const statusGone = 499

func badRequest(format string, args ...any) error {
	return &httpError{status: http.StatusBadRequest, code: "bad_request", message: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) error {
	return &httpError{status: http.StatusNotFound, code: "not_found", message: fmt.Sprintf(format, args...)}
}

func (s *Server) routes() []route {
	metrics := s.metricsHandler()
	return []route{
		{pattern: api.RouteHealth, do: s.health},
		{pattern: api.RouteReady, do: s.ready},
		{pattern: api.RouteMetrics, do: func(w http.ResponseWriter, r *http.Request) error {
			metrics.ServeHTTP(w, r)
			return nil
		}},
		{pattern: api.RoutePolicies, do: s.policies},
		{pattern: api.RoutePoliciesStatus, do: s.policiesStatus},
		{pattern: api.RoutePolicies + "/{name}", do: s.policy},
		{pattern: api.RouteStatus, do: s.status},
		{pattern: api.RouteDrift, do: s.drift},
		{pattern: api.RouteFilters, do: s.filters},
		{pattern: api.RouteFilterModule, do: s.filterModule},
		{pattern: api.RouteFilterModules + "{file}", name: api.FilterModulePath("{sha256}"), do: s.filterModule},
		{pattern: api.RouteReconcile, post: true, do: s.reconcile},
		{pattern: api.RouteWebhook, post: true, do: s.reconcile},
	}
}

func (s *Server) buildHandler() http.Handler {
	mux := http.NewServeMux()
	// The patterns have no methods: ServeMux would answer another method in
	// plain text, and "GET /v1/policies/{name}" would conflict with an own
	// answer to other methods of "/v1/policies/status".
	for _, route := range s.routes() {
		if route.name == "" {
			route.name = route.pattern
		}
		mux.Handle(route.pattern, s.routeHandler(route))
	}
	unknown := s.routeHandler(route{name: otherRoute, do: unknownPath})
	mux.Handle("/", unknown)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/") || r.URL.Path != path.Clean(r.URL.Path) {
			// ServeMux would answer "*" in plain text, and redirect to the clean
			// path, also where there is nothing.
			unknown.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) routeHandler(route route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.requests.enter() {
			panic(http.ErrAbortHandler)
		}
		defer s.requests.leave()
		w.Header().Set("X-Content-Type-Options", "nosniff")
		s.run(&writer{ResponseWriter: w, limit: s.WriteTimeout}, r, route)
	})
}

// run answers one request, and counts it whatever happens.
func (s *Server) run(w *writer, r *http.Request, route route) {
	defer func() {
		if value := recover(); value != nil {
			s.Logger.Error("panic in an HTTP handler", "route", route.name, "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
			begun := w.code != 0
			if !begun {
				s.fail(w, &httpError{status: http.StatusInternalServerError, code: "internal", message: "internal error; see the log of hfid"})
			}
			s.Metrics.requests.WithLabelValues(route.name, strconv.Itoa(http.StatusInternalServerError)).Inc()
			if begun {
				// Close the connection: half an answer must not look like a whole one.
				panic(http.ErrAbortHandler)
			}
			return
		}
		s.Metrics.requests.WithLabelValues(route.name, strconv.Itoa(w.code)).Inc()
	}()
	if err := s.try(w, r, route); err != nil {
		s.fail(w, err)
	}
}

func (s *Server) try(w *writer, r *http.Request, route route) error {
	if err := checkMethod(r, route); err != nil {
		return err
	}
	if err := s.checkOrigin(r, route); err != nil {
		return err
	}
	takesBody := route.post || route.name == otherRoute && r.Method == http.MethodPost
	if r.ContentLength != 0 || takesBody {
		// net/http itself removes this deadline after the request.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.BodyTimeout))
	}
	if r.ContentLength != 0 && !takesBody {
		w.Header().Set("Connection", "close")
		return badRequest("a %s request has no body here", r.Method)
	}
	return route.do(w, r)
}

func checkMethod(r *http.Request, route route) error {
	allow := []string{http.MethodGet, http.MethodHead}
	if route.post {
		allow = []string{http.MethodPost}
	}
	if route.name == otherRoute || slices.Contains(allow, r.Method) {
		return nil
	}
	return &httpError{
		status: http.StatusMethodNotAllowed, code: "method_not_allowed", allow: strings.Join(allow, ", "),
		message: fmt.Sprintf("%s takes %s", route.name, strings.Join(allow, " and ")),
	}
}

func unknownPath(_ http.ResponseWriter, r *http.Request) error {
	return notFound("there is nothing at %.120q", r.URL.Path)
}

// fail answers with an error. One that is not an httpError is a bug's.
func (s *Server) fail(w *writer, err error) {
	if errors.Is(err, errGone) {
		w.code = statusGone
		return
	}
	failure := &httpError{status: http.StatusInternalServerError, code: "internal", message: err.Error()}
	errors.As(err, &failure)
	header := w.Header()
	if failure.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(failure.retryAfter))
	}
	if failure.allow != "" {
		header.Set("Allow", failure.allow)
	}
	_ = writeJSON(w, failure.status, api.Error{Error: api.ErrorDetail{Code: failure.code, Message: failure.message}})
}

// writeJSON writes a whole answer, which caches must not store unless its
// Cache-Control is set already. If the value cannot be encoded, it writes
// nothing and returns an error.
func writeJSON(w http.ResponseWriter, status int, value any) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("writing the answer as JSON: %w", err)
	}
	body := escapeControls(text.Bytes())
	header := w.Header()
	header.Set("Content-Type", jsonType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if header.Get("Cache-Control") == "" {
		header.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	// An error means that the client has gone. For HEAD, net/http drops the body.
	_, _ = w.Write(body)
	return nil
}

// parameters returns the query parameters. Each must be known and given once:
// a misspelt one would otherwise select something else without a word.
func parameters(r *http.Request, known ...string) (map[string]string, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("the query cannot be read: %v", err)
	}
	single := make(map[string]string, len(values))
	for name, all := range values {
		if !slices.Contains(known, name) {
			if len(known) == 0 {
				return nil, badRequest("unknown parameter %.60q: this path takes none", name)
			}
			return nil, badRequest("unknown parameter %.60q: this path takes %s", name, strings.Join(known, ", "))
		}
		if len(all) > 1 {
			return nil, badRequest("the parameter %s is given %d times", name, len(all))
		}
		single[name] = all[0]
	}
	return single, nil
}

// writer records the status, and starts the client's time limit for reading
// the answer when the answer begins.
type writer struct {
	http.ResponseWriter
	limit time.Duration
	// code is zero before the answer begins.
	code int
}

func (w *writer) WriteHeader(code int) {
	if w.code == 0 && code >= http.StatusOK {
		w.code = code
		// It fails only where there is no connection: for a test's recorder.
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.limit))
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *writer) Write(text []byte) (int, error) {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(text)
}

// Unwrap gives http.ResponseController access to the connection.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
