package http

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler/fleet"
)

// identify reads which filter's VM sends the request. The query's workload and
// tags have been read.
func (q *query) identify(r *http.Request) (err error) {
	if q.subject.All {
		return badRequest("a request with %s needs the parameters service, gateway or waypoint, and namespace, empty if they are not known", headerVM)
	}
	if q.vm, err = single(r, headerVM); err != nil {
		return err
	}
	if q.vm == "" {
		return badRequest("the header %s is empty", headerVM)
	}
	if q.filter.Node, err = single(r, headerNode); err != nil {
		return err
	}
	if q.filter.Pod, err = single(r, headerPod); err != nil {
		return err
	}
	if q.says.Envoy, err = single(r, headerEnvoy); err != nil {
		return err
	}
	if q.says.Problem, err = single(r, headerError); err != nil {
		return err
	}
	directions, err := single(r, headerDirections)
	if err != nil {
		return err
	}
	q.says.Directions = fleet.DirectionsOf(directions)
	workload := q.subject.Workload
	q.filter.Service, q.filter.Namespace, q.filter.Gateway = workload.Service, workload.Namespace, workload.Gateway
	if !isText(workload.Service) || !isText(workload.Namespace) || !isText(workload.Gateway) || !isText(q.filter.Waypoint) {
		return badRequest("the parameters service, namespace, gateway and waypoint must be UTF-8 without control characters")
	}
	if tag := q.inForce(); len(tag) > maxName || !isText(tag) {
		return badRequest("the tag in If-None-Match must be UTF-8 without control characters of at most %d bytes, not %d", maxName, len(tag))
	}
	q.others, err = parseVMs(r.Header.Values(headerVMs), q.inForce())
	return err
}

// parseVMs parses the header that names other VMs of the same Envoy. Those that
// have no state have the given policies in force.
func parseVMs(values []string, inForce string) ([]fleet.VM, error) {
	switch {
	case len(values) == 0:
		return nil, nil
	case len(values) > 1:
		return nil, badRequest("the header %s is given %d times", headerVMs, len(values))
	case strings.Count(values[0], ",") >= api.MaxVMs:
		return nil, badRequest("the header %s names more than %d VMs", headerVMs, api.MaxVMs)
	}
	var vms []fleet.VM
	for part := range strings.SplitSeq(values[0], ",") {
		name, state, given := strings.Cut(strings.TrimSpace(part), "=")
		vm := fleet.VM{Name: name, Digest: inForce}
		tag, opened := strings.CutPrefix(state, `"`)
		tag, closed := strings.CutSuffix(tag, `"`)
		switch {
		case !given:
		case state == api.VMGone:
			vm.Gone = true
		case state == api.VMWithout:
			vm.Digest = ""
		case opened && closed:
			vm.Digest = tag
		default:
			return nil, badRequest("the header %s has the state %.40q of a VM, and must have none, gone or an ETag", headerVMs, state)
		}
		if name == "" || len(name) > maxName || len(vm.Digest) > maxName || !isText(name) || !isText(vm.Digest) {
			return nil, badRequest("the header %s must have names and ETags of at most %d bytes, UTF-8 without control characters", headerVMs, maxName)
		}
		vms = append(vms, vm)
	}
	return vms, nil
}

// inForce is the digest of the policies that the VM enforces, or empty.
func (q *query) inForce() string {
	if len(q.has.list) == 1 {
		return q.has.list[0]
	}
	return ""
}

// single returns a header that may be given once, or empty.
func single(r *http.Request, name string) (string, error) {
	switch values := r.Header.Values(name); {
	case len(values) == 0:
		return "", nil
	case len(values) > 1:
		return "", badRequest("the header %s is given %d times", name, len(values))
	case len(values[0]) > maxName:
		return "", badRequest("the header %s has %d bytes, and may have %d", name, len(values[0]), maxName)
	case !isText(values[0]):
		return "", badRequest("the header %s is not UTF-8 without control characters", name)
	default:
		return values[0], nil
	}
}

// isText reports whether a text is UTF-8 without control characters, which
// would be longer in a report to another replica.
func isText(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, unicode.IsControl)
}

// track records a VM's request, shortens its wait if it is the first on its
// connection, and returns the function that records its end.
func (s *Server) track(w http.ResponseWriter, r *http.Request, q *query) (end func(error)) {
	request := s.fleet.Ask(q.filter, q.vm, q.inForce(), callerOf(r), q.others...)
	request.Describe(q.says)
	if request.First {
		q.first = s.fleet.FirstWait()
	}
	return func(err error) {
		if r.Context().Err() != nil {
			// Only the client's side ends this context.
			request.Left()
			return
		}
		var failure *httpError
		retry := time.Duration(0)
		if errors.As(err, &failure) {
			retry = time.Duration(failure.retryAfter) * time.Second
		}
		given := ""
		if answer, ok := w.(*writer); ok && answer.code == http.StatusOK {
			given = strings.Trim(answer.Header().Get("ETag"), `"`)
		}
		request.Answered(given, retry)
	}
}

// connections numbers the connections, for the fleet.
type connections struct{ last atomic.Uint64 }

type connectionKey struct{}

// add is an http.Server's ConnContext.
func (c *connections) add(ctx context.Context, connection net.Conn) context.Context {
	caller := fleet.Caller{Connection: c.last.Add(1)}
	if address, ok := connection.RemoteAddr().(*net.TCPAddr); ok {
		caller.Address = address.AddrPort().Addr()
	}
	return context.WithValue(ctx, connectionKey{}, &clientConnection{caller: caller})
}

// clientConnection is what is known of the connection of a request.
type clientConnection struct {
	caller fleet.Caller
	// waiting is how many requests wait on it.
	waiting atomic.Int64
}

// connectionOf returns nil for a request that did not come through Serve.
func connectionOf(r *http.Request) *clientConnection {
	c, _ := r.Context().Value(connectionKey{}).(*clientConnection)
	return c
}

// callerOf is where a request comes from.
func callerOf(r *http.Request) fleet.Caller {
	if c := connectionOf(r); c != nil {
		return c.caller
	}
	return fleet.Caller{}
}

// filters is GET /v1/filters: the filters of all replicas or, with local=true,
// the report of this replica for its peers.
func (s *Server) filters(w http.ResponseWriter, r *http.Request) error {
	values, err := parameters(r, "local")
	if err != nil {
		return err
	}
	switch local, given := values["local"]; {
	case given && local == "true":
		w.Header().Set("Content-Type", jsonType)
		w.Header().Set("Cache-Control", "no-store")
		buffered := bufio.NewWriterSize(w, 64<<10)
		if err := s.fleet.WriteReport(buffered); err != nil {
			return errGone // Nothing else fails.
		}
		_ = buffered.Flush()
		return nil
	case given && local != "false":
		return badRequest("the parameter local is %.40q, and must be true or false", local)
	}
	status, err := s.fleetStatus(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, status.Bounded())
}

// fleetStatus is the status of all filters, or the error to answer with.
func (s *Server) fleetStatus(r *http.Request) (fleet.Status, error) {
	status, err := s.fleet.Status(r.Context())
	switch {
	case errors.Is(err, fleet.ErrClosed):
		return status, &httpError{status: http.StatusServiceUnavailable, code: "stopping", message: "this daemon is shutting down", retryAfter: 1}
	case err != nil && r.Context().Err() != nil:
		return status, errGone
	}
	return status, err
}
