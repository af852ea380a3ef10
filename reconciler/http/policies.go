package http

import (
	"cmp"
	"context"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/fleet"
	"github.com/boifi/hfi/reconciler/served"
	"github.com/boifi/hfi/schema"
)

// The header names in net/http's form, which it would else compute for each use.
var (
	headerCommit     = http.CanonicalHeaderKey(api.HeaderCommit)
	headerRevision   = http.CanonicalHeaderKey(api.HeaderRevision)
	headerNode       = http.CanonicalHeaderKey(api.HeaderNode)
	headerPod        = http.CanonicalHeaderKey(api.HeaderPod)
	headerVM         = http.CanonicalHeaderKey(api.HeaderVM)
	headerEnvoy      = http.CanonicalHeaderKey(api.HeaderEnvoy)
	headerError      = http.CanonicalHeaderKey(api.HeaderError)
	headerDirections = http.CanonicalHeaderKey(api.HeaderDirections)
	headerVMs        = http.CanonicalHeaderKey(api.HeaderVMs)
)

// maxName bounds a service, a namespace, a gateway and a filter's names in bytes, as DNS does.
const maxName = 253

// query is a request of GET /v1/policies.
type query struct {
	subject served.Subject
	// wait is zero if the client does not wait.
	wait time.Duration
	// since is the newest revision that the client has seen, or nil.
	since *reconciler.Revision
	has   tags
	// compiled reports that the client asks for a program and not for JSON.
	compiled bool
	// vm names the VM of a filter, if one sent the request, else it is empty.
	vm     string
	filter api.FilterID
	// says is what the VM says of itself.
	says fleet.Description
	// others are the VMs for which that one asks too.
	others []fleet.VM
	// first, if not zero, bounds the wait for a change: the VM has not asked on
	// this connection before.
	first time.Duration
}

// policies is GET /v1/policies. A client that has seen a newer state than this
// replica first waits for that state. Then, if it has the current policies, it
// waits for a change of them. Both waits together last as long as it asked for.
func (s *Server) policies(w http.ResponseWriter, r *http.Request) error {
	q, err := s.parseQuery(r)
	if err != nil {
		return err
	}
	if q.vm == "" {
		return s.answerQuery(w, r, q)
	}
	end := s.track(w, r, &q)
	defer func() { end(err) }()
	err = s.answerQuery(w, r, q)
	return err
}

func (s *Server) answerQuery(w http.ResponseWriter, r *http.Request, q query) error {
	snapshot := s.hub.current.Load()
	if snapshot == nil {
		return notReady()
	}
	limit := &limit{wait: q.wait}
	defer limit.stop()
	if q.since != nil && snapshot.State.Revision.Before(*q.since) {
		if q.wait == 0 {
			limit.wait = s.CatchUp
		}
		var err error
		if snapshot, err = s.catchUp(w, r, *q.since, limit); err != nil {
			if snapshot != nil {
				describe(w, snapshot)
			}
			return err
		}
	}
	if tag := tagOf(snapshot, q.subject); q.wait > 0 && q.has.match(tag) {
		// From here on "*", which matches everything, stands for the current tag.
		q.has = tags{list: append(q.has.list, tag)}
		var err error
		if q.first > 0 {
			limit.shorten(q.first)
		}
		if snapshot, err = s.change(w, r, q, limit); err != nil {
			return err
		}
	}
	return s.answer(w, r, snapshot, q)
}

func tagOf(snapshot *served.Snapshot, subject served.Subject) string {
	return string(snapshot.Selection(subject).Digest)
}

// answer is 304 or the policies.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, snapshot *served.Snapshot, q query) error {
	selected := snapshot.Selection(q.subject)
	tag := string(selected.Digest)
	describe(w, snapshot)
	// Caches must revalidate each use, so the request's revision needs no Vary.
	header := w.Header()
	header.Set("Vary", "Accept")
	header.Set("Cache-Control", "no-cache")
	if q.has.match(tag) {
		header.Set("ETag", quote(tag))
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	mediaType, size := jsonType, selected.Size
	write := func() error { return snapshot.WriteJSON(w, q.subject) }
	if q.compiled {
		encoded, err := snapshot.Program(q.subject)
		if err != nil {
			return &httpError{status: http.StatusInternalServerError, code: "too_large", retryAfter: 30, message: err.Error()}
		}
		mediaType, size = program.MediaType, len(encoded)
		write = func() error { _, err := w.Write(encoded); return err }
	}
	header.Set("ETag", quote(tag))
	header.Set("Content-Type", mediaType)
	header.Set("Content-Length", strconv.Itoa(size))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		// An error means that the client has gone.
		_ = write()
	}
	return nil
}

// acceptsProgram reports whether a client names the type of compiled programs in Accept.
func acceptsProgram(r *http.Request) bool {
	for _, line := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			if mediaType, parameters, err := mime.ParseMediaType(part); err == nil && mediaType == program.MediaType {
				quality, err := strconv.ParseFloat(cmp.Or(parameters["q"], "1"), 64)
				return err == nil && quality > 0
			}
		}
	}
	return false
}

// describe names the state that an answer comes from in its headers.
func describe(w http.ResponseWriter, snapshot *served.Snapshot) {
	w.Header().Set(headerCommit, snapshot.State.Head.Commit)
	w.Header().Set(headerRevision, snapshot.State.Revision.String())
}

// limit bounds all waits of one request. Its timer starts with the first one.
type limit struct {
	wait  time.Duration
	timer *time.Timer
}

func (l *limit) expired() <-chan time.Time {
	if l.timer == nil {
		l.timer = time.NewTimer(l.wait)
	}
	return l.timer.C
}

// shorten bounds what is left of the waits.
func (l *limit) shorten(to time.Duration) {
	l.wait = min(l.wait, to)
	l.stop()
	l.timer = nil
}

func (l *limit) stop() {
	if l.timer != nil {
		l.timer.Stop()
	}
}

// catchUp waits for a state that is not before since. With the error behind it
// returns the current state.
func (s *Server) catchUp(w http.ResponseWriter, r *http.Request, since reconciler.Revision, limit *limit) (*served.Snapshot, error) {
	leave, err := s.enterWait(w, r)
	if err != nil {
		return nil, err
	}
	defer leave()
	for {
		snapshot, advanced := s.hub.next()
		if !snapshot.State.Revision.Before(since) {
			return snapshot, nil
		}
		select {
		case <-advanced:
		case <-limit.expired():
			return snapshot, behind(snapshot.State.Revision, since)
		case <-s.draining:
			return snapshot, behind(snapshot.State.Revision, since)
		case <-r.Context().Done():
			return nil, errGone
		}
	}
}

// change waits until the client does not have the current selection, its time
// is over, or the service shuts down, and returns the snapshot to answer from.
func (s *Server) change(w http.ResponseWriter, r *http.Request, q query, limit *limit) (*served.Snapshot, error) {
	leave, err := s.enterWait(w, r)
	if err != nil {
		return nil, err
	}
	defer leave()
	for {
		snapshot, woken, err := s.changeOnce(r.Context(), q, limit)
		if !woken {
			return snapshot, err
		}
		s.Metrics.wakeups.Inc()
	}
}

// changeOnce subscribes before it compares, so that no change is missed (see
// hub). If it was woken, the caller calls it again.
func (s *Server) changeOnce(ctx context.Context, q query, limit *limit) (at *served.Snapshot, woken bool, err error) {
	snapshot, topic := s.hub.subscribe(q.subject)
	defer s.hub.unsubscribe(topic)
	if !q.has.match(tagOf(snapshot, q.subject)) {
		return snapshot, false, nil
	}
	select {
	case <-topic.changed:
		return nil, true, nil
	case <-limit.expired():
	case <-s.draining:
	case <-ctx.Done():
		return nil, false, errGone
	}
	// A new snapshot may have come at the same moment.
	return s.hub.current.Load(), false, nil
}

func (s *Server) parseQuery(r *http.Request) (q query, err error) {
	values, err := parameters(r, "service", "namespace", "gateway", "waypoint", "wait")
	if err != nil {
		return q, err
	}
	service, hasService := values["service"]
	namespace, hasNamespace := values["namespace"]
	gateway, hasGateway := values["gateway"]
	waypoint, hasWaypoint := values["waypoint"]
	// A name that is not given is unknown, which is the same as empty.
	q.subject = served.Subject{All: !hasService && !hasNamespace && !hasGateway && !hasWaypoint, Workload: selection.Workload{Service: service, Namespace: namespace}}
	switch {
	case hasService && hasGateway, hasService && hasWaypoint, hasGateway && hasWaypoint:
		return q, badRequest("the parameters service, gateway and waypoint exclude each other")
	case hasGateway:
		q.subject.Workload.Gateway = cmp.Or(gateway, schema.Any)
	case hasWaypoint:
		q.subject.Workload.Waypoint, q.filter.Waypoint = true, cmp.Or(waypoint, schema.Any)
	}
	for _, name := range []string{"service", "namespace", "gateway", "waypoint"} {
		if len(values[name]) > maxName {
			return q, badRequest("the parameter %s has %d bytes, and may have %d", name, len(values[name]), maxName)
		}
	}
	if text, given := values["wait"]; given {
		if q.wait, err = parseWait(text); err != nil {
			return q, err
		}
		q.wait = min(q.wait, s.MaxWait)
	}
	switch revisions := r.Header.Values(headerRevision); len(revisions) {
	case 0:
	case 1:
		since, err := reconciler.ParseRevision(revisions[0])
		if err != nil {
			return q, badRequest("the header %s: %v", headerRevision, err)
		}
		q.since = &since
	default:
		return q, badRequest("the header %s is given %d times", headerRevision, len(revisions))
	}
	if q.has, err = parseTags(r.Header.Values("If-None-Match")); err != nil {
		return q, err
	}
	q.compiled = !q.subject.All && acceptsProgram(r)
	if r.Header.Values(headerVM) != nil {
		err = q.identify(r)
		q.wait = min(q.wait, s.MaxFilterWait)
	}
	return q, err
}

// parseWait parses a duration in Go's syntax, or whole seconds.
func parseWait(text string) (time.Duration, error) {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, nil
	}
	wait, err := time.ParseDuration(text)
	if err != nil || wait < 0 {
		return 0, badRequest("the parameter wait is %.40q, and must be a duration such as 60s, or whole seconds", text)
	}
	return wait, nil
}

func behind(at, since reconciler.Revision) error {
	return &httpError{
		status: http.StatusServiceUnavailable, code: "behind", retryAfter: 1,
		message: fmt.Sprintf("this replica is at revision %s and has not seen %s yet: try again, or another replica", at, since),
	}
}

func notReady() error {
	return &httpError{
		status: http.StatusServiceUnavailable, code: "not_ready", retryAfter: 1,
		message: "there is no verified set of policies yet: /v1/status says why",
	}
}

// tooManyWaiting refuses a wait at a bound of the replica or of the connection.
func tooManyWaiting(on string) error {
	return &httpError{
		status: http.StatusServiceUnavailable, code: "too_many_waiting", retryAfter: 30,
		message: "too many clients wait on this " + on + ": use another one, or ask without wait",
	}
}
