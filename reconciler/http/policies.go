package http

import (
	"context"
	"fmt"
	"io"
	nethttp "net/http"
	"strconv"
	"time"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// maxName bounds a service or namespace in bytes: no DNS name is longer.
const maxName = 253

// query is what a client asks of GET /v1/policies.
type query struct {
	subject subject
	// wait is zero for a client that wants its answer at once.
	wait time.Duration
	// since is the newest revision that the client has seen, or nil.
	since *reconciler.Revision
	has   tags
	// vm is the VM of a filter that asks, or empty; filter is the filter.
	vm     string
	filter api.FilterID
}

// policies is GET /v1/policies: see DESIGN for its contract. A client that
// has seen a newer state than ours waits for that first, then, if it has our
// answer already, for another one; both within the time that it gave.
func (s *Server) policies(w nethttp.ResponseWriter, r *nethttp.Request) error {
	q, err := s.parseQuery(r)
	if err != nil {
		return err
	}
	if q.vm == "" {
		return s.answerQuery(w, r, q)
	}
	end := s.asked(r, q)
	defer func() { end(err) }()
	err = s.answerQuery(w, r, q)
	return err
}

func (s *Server) answerQuery(w nethttp.ResponseWriter, r *nethttp.Request, q query) error {
	snapshot := s.hub.current.Load()
	if snapshot == nil {
		return notReady()
	}
	limit := &limit{wait: q.wait}
	defer limit.stop()
	if q.since != nil && snapshot.state.Revision.Before(*q.since) {
		if q.wait == 0 {
			limit.wait = s.CatchUp
		}
		var err error
		if snapshot, err = s.catchUp(r.Context(), *q.since, limit); err != nil {
			if snapshot != nil {
				describe(w, snapshot)
			}
			return err
		}
	}
	if tag := snapshot.summary(q.subject).tag; q.wait > 0 && q.has.match(tag) {
		// From here on "*", which matches whatever there is, means what there is now.
		q.has = tags{list: append(q.has.list, tag)}
		var err error
		if snapshot, err = s.change(r.Context(), q, limit); err != nil {
			return err
		}
	}
	return s.answer(w, r, snapshot, q)
}

// answer is 304 or the selection.
func (s *Server) answer(w nethttp.ResponseWriter, r *nethttp.Request, snapshot *snapshot, q query) error {
	summary := snapshot.summary(q.subject)
	describe(w, snapshot)
	if !q.has.match(summary.tag) && !q.subject.all && summary.size > s.MaxSelection {
		return tooLarge(q.subject.workload, summary, s.MaxSelection)
	}
	header := w.Header()
	header.Set("ETag", quote(summary.tag))
	// A cache may keep it, but must ask before each use; so the revision that
	// a client sends needs no Vary.
	header.Set("Cache-Control", "no-cache")
	if q.has.match(summary.tag) {
		w.WriteHeader(nethttp.StatusNotModified)
		return nil
	}
	header.Set("Content-Type", jsonType)
	header.Set("Content-Length", strconv.Itoa(summary.size))
	w.WriteHeader(nethttp.StatusOK)
	if r.Method != nethttp.MethodHead {
		// A client that is gone by now has no use for the error.
		_ = writeList(w, snapshot.entries(q.subject))
	}
	return nil
}

// describe names the state that an answer comes from.
func describe(w nethttp.ResponseWriter, snapshot *snapshot) {
	w.Header().Set("X-Hfi-Commit", snapshot.state.Head.Commit)
	w.Header().Set("X-Hfi-Revision", snapshot.state.Revision.String())
}

const listHead, listTail = `{"policies":[`, "]}\n"

func listSize(entries []*schema.Entry) int {
	size := len(listHead) + len(listTail) + max(0, len(entries)-1)
	for _, entry := range entries {
		size += len(entry.Canonical)
	}
	return size
}

// writeList streams the answer: however many clients are answered at one
// time, none of them holds a copy of it.
func writeList(w io.Writer, entries []*schema.Entry) error {
	if _, err := io.WriteString(w, listHead); err != nil {
		return err
	}
	for i, entry := range entries {
		if i > 0 {
			if _, err := io.WriteString(w, ","); err != nil {
				return err
			}
		}
		if _, err := w.Write(entry.Canonical); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, listTail)
	return err
}

// limit is the one timer of a client, made when it first has to wait.
type limit struct {
	wait  time.Duration
	timer *time.Timer
}

func (l *limit) over() <-chan time.Time {
	if l.timer == nil {
		l.timer = time.NewTimer(l.wait)
	}
	return l.timer.C
}

func (l *limit) stop() {
	if l.timer != nil {
		l.timer.Stop()
	}
}

// catchUp waits for a state that is not before since. When it ends in an
// error other than the client's going, it gives the state that there is.
func (s *Server) catchUp(ctx context.Context, since reconciler.Revision, limit *limit) (*snapshot, error) {
	if !s.Metrics.enterWait(s.MaxWaiting) {
		return nil, tooManyWaiting()
	}
	defer s.Metrics.leaveWait()
	for {
		snapshot, advanced := s.hub.next()
		if !snapshot.state.Revision.Before(since) {
			return snapshot, nil
		}
		select {
		case <-advanced:
		case <-limit.over():
			return snapshot, behind(snapshot.state.Revision, since)
		case <-s.draining:
			return snapshot, behind(snapshot.state.Revision, since)
		case <-ctx.Done():
			return nil, errGone
		}
	}
}

// change waits until the client's selection is none that it has, or its time
// is over, or the service shuts down; in each case the snapshot that it gives
// is the one to answer from.
func (s *Server) change(ctx context.Context, q query, limit *limit) (*snapshot, error) {
	if !s.Metrics.enterWait(s.MaxWaiting) {
		return nil, tooManyWaiting()
	}
	defer s.Metrics.leaveWait()
	for {
		snapshot, woken, err := s.changeOnce(ctx, q, limit)
		if !woken {
			return snapshot, err
		}
		s.Metrics.wakeups.Inc()
	}
}

// changeOnce subscribes, compares, and only then waits: see hub for why no
// change is missed. When it was woken, the caller looks again.
func (s *Server) changeOnce(ctx context.Context, q query, limit *limit) (at *snapshot, woken bool, err error) {
	snapshot, topic := s.hub.subscribe(q.subject)
	defer s.hub.unsubscribe(topic)
	if !q.has.match(snapshot.summary(q.subject).tag) {
		return snapshot, false, nil
	}
	select {
	case <-topic.changed:
		return nil, true, nil
	case <-limit.over():
	case <-s.draining:
	case <-ctx.Done():
		return nil, false, errGone
	}
	// The newest, should one have come at that moment.
	return s.hub.current.Load(), false, nil
}

func (s *Server) parseQuery(r *nethttp.Request) (q query, err error) {
	values, err := parameters(r, "service", "namespace", "wait")
	if err != nil {
		return q, err
	}
	service, hasService := values["service"]
	namespace, hasNamespace := values["namespace"]
	// One of the two alone: the other is not known, as if it were empty.
	q.subject = subject{all: !hasService && !hasNamespace, workload: selection.Workload{Service: service, Namespace: namespace}}
	for _, name := range []string{"service", "namespace"} {
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
	switch revisions := r.Header.Values("X-Hfi-Revision"); len(revisions) {
	case 0:
	case 1:
		since, err := reconciler.ParseRevision(revisions[0])
		if err != nil {
			return q, badRequest("the header X-Hfi-Revision: %v", err)
		}
		q.since = &since
	default:
		return q, badRequest("the header X-Hfi-Revision is given %d times", len(revisions))
	}
	if q.has, err = parseTags(r.Header.Values("If-None-Match")); err != nil {
		return q, err
	}
	if values := r.Header[headerVM]; values != nil {
		err = q.identify(r)
		q.wait = min(q.wait, s.MaxFilterWait)
	}
	return q, err
}

// parseWait reads a duration as Go writes it, or whole seconds.
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

func tooLarge(workload selection.Workload, summary summary, most int) error {
	return &httpError{
		status: nethttp.StatusInternalServerError, code: "too_large", retryAfter: 30,
		message: tooLargeMessage(workload, summary, most),
	}
}

func tooLargeMessage(workload selection.Workload, summary summary, most int) string {
	return fmt.Sprintf("the %d policies of service %q in namespace %q take %d bytes, and a filter takes at most %d: make them fewer or smaller",
		summary.count, workload.Service, workload.Namespace, summary.size, most)
}

func behind(at, since reconciler.Revision) error {
	return &httpError{
		status: nethttp.StatusServiceUnavailable, code: "behind", retryAfter: 1,
		message: fmt.Sprintf("this replica is at revision %s and has not seen %s yet: ask again, or another", at, since),
	}
}

func notReady() error {
	return &httpError{
		status: nethttp.StatusServiceUnavailable, code: "not_ready", retryAfter: 1,
		message: "there is no verified set of policies yet: /v1/status says why",
	}
}

func tooManyWaiting() error {
	return &httpError{
		status: nethttp.StatusServiceUnavailable, code: "too_many_waiting", retryAfter: 30,
		message: "as many clients wait already as this replica allows: ask another, or without wait",
	}
}
