package http

import (
	"context"
	"errors"
	"fmt"
	nethttp "net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler/fleet"
)

// The headers by which a filter's VM says who it is, in canonical form.
const (
	headerNode = "X-Hfi-Node"
	headerPod  = "X-Hfi-Pod"
	headerVM   = "X-Hfi-Vm"
)

// identify reads which filter's VM asks. The query's workload and tags are
// read already.
func (q *query) identify(r *nethttp.Request) (err error) {
	if q.subject.all {
		return badRequest("a request with %s says whose policies it asks for: give service and namespace, empty if they are not known", headerVM)
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
	q.filter.Service, q.filter.Namespace = q.subject.workload.Service, q.subject.workload.Namespace
	if !utf8.ValidString(q.filter.Service) || !utf8.ValidString(q.filter.Namespace) {
		return badRequest("the parameters service and namespace must be UTF-8")
	}
	if tag := q.inForce(); len(tag) > maxName || !utf8.ValidString(tag) {
		return badRequest("the tag in If-None-Match has %d bytes, or is no UTF-8; a filter's may have %d bytes", len(tag), maxName)
	}
	return nil
}

// inForce is the digest of what the VM says that it has in force, or empty.
func (q *query) inForce() string {
	if len(q.has.list) == 1 {
		return q.has.list[0]
	}
	return ""
}

// single is a header that may be given once, or empty.
func single(r *nethttp.Request, name string) (string, error) {
	switch values := r.Header[name]; {
	case len(values) == 0:
		return "", nil
	case len(values) > 1:
		return "", badRequest("the header %s is given %d times", name, len(values))
	case len(values[0]) > maxName:
		return "", badRequest("the header %s has %d bytes, and may have %d", name, len(values[0]), maxName)
	case !utf8.ValidString(values[0]):
		return "", badRequest("the header %s is no UTF-8", name)
	default:
		return values[0], nil
	}
}

// asked notes a VM's request, and gives what notes its end.
func (s *Server) asked(r *nethttp.Request, q query) (end func(error)) {
	asking := s.Fleet.Ask(q.filter, q.vm, q.inForce())
	return func(err error) {
		if r.Context().Err() != nil {
			// Nobody else ends it: the VM's side has closed its request.
			asking.Left()
			return
		}
		var failure *httpError
		retry := time.Duration(0)
		if errors.As(err, &failure) {
			retry = time.Duration(failure.retryAfter) * time.Second
		}
		asking.Answered(retry)
	}
}

// filters is GET /v1/filters: the part of the status, or, with local=true,
// what this replica alone has seen, for its peers.
func (s *Server) filters(w nethttp.ResponseWriter, r *nethttp.Request) error {
	values, err := parameters(r, "local")
	if err != nil {
		return err
	}
	switch local, given := values["local"]; {
	case given && local == "true":
		seen := seenHere{Replica: s.ID, Filters: s.Fleet.Seen(), Full: s.Fleet.Full(), LostAgo: s.lostAgo()}
		if s.Cluster != nil {
			seen.Kubernetes = s.Cluster.Told()
		}
		return writeJSON(w, nethttp.StatusOK, seen)
	case given && local != "false":
		return badRequest("the parameter local is %.40q, and must be true or false", local)
	}
	status, err := s.FleetStatus(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, nethttp.StatusOK, status.Bounded())
}

// seenHere is the answer of GET /v1/filters?local=true.
type seenHere struct {
	Replica string             `json:"replica"`
	Filters []fleet.FilterSeen `json:"filters"`
	// Full: the replica had more VMs than it remembers.
	Full bool `json:"full,omitempty"`
	// LostAgo is how long ago it saw another replica go; zero if it never did.
	LostAgo time.Duration `json:"lost_ago_ns,omitempty"`
	// Kubernetes is what it found in the cluster, if it leads.
	Kubernetes *api.ClusterReport `json:"kubernetes,omitempty"`
}

// lostAgo is how long ago this replica saw another go; zero if it never did.
func (s *Server) lostAgo() time.Duration {
	if s.Replicas == nil {
		return 0
	}
	lost := s.Replicas().LostAt
	if lost.IsZero() {
		return 0
	}
	return max(s.Now().Sub(lost), 1)
}

// FleetStatus is how all filters stand, by what all replicas have seen; its
// Items are all of them.
func (s *Server) FleetStatus(ctx context.Context) (api.FiltersStatus, error) {
	replicas := fleet.Replicas{}
	if s.Replicas != nil {
		replicas = s.Replicas()
	}
	asked, err := s.askPeers(ctx, replicas.List)
	if err != nil {
		return api.FiltersStatus{}, err
	}
	sightings := []fleet.ReplicaReport{{Replica: s.ID, Filters: s.Fleet.Seen()}}
	full, lost := s.Fleet.Full(), s.lostAgo()
	var told *api.ClusterReport
	myself := api.Replica{ID: s.ID}
	list := []api.Replica{}
	for _, peer := range asked {
		if peer.ID == s.ID {
			myself = peer.Replica
			continue
		}
		list = append(list, peer.Replica)
		if peer.seen != nil {
			sightings = append(sightings, fleet.ReplicaReport{Replica: peer.ID, Filters: peer.seen.Filters, Ago: time.Since(peer.at)})
			full = full || peer.seen.Full
			if peer.seen.Kubernetes != nil {
				told = peer.seen.Kubernetes
			}
			// A replica that started since has not seen it itself.
			if ago := peer.seen.LostAgo; ago > 0 && (lost == 0 || ago < lost) {
				lost = ago
			}
		}
	}
	list = append(list, myself)
	sortReplicas(list)

	var doubts []string
	for _, replica := range list {
		if replica.Error != "" {
			doubts = append(doubts, fmt.Sprintf("replica %s: %s", replica.ID, replica.Error))
		}
	}
	message := replicas.Doubt
	if full {
		message = join("; ", message, fmt.Sprintf("more VMs asked than a replica remembers (%d here): some are missing", s.Fleet.MaxVMs))
	}
	complete := len(doubts) == 0 && message == ""
	doubt := join("; ", append(doubts, message)...)
	if doubt == "" && lost > 0 && lost <= s.SettleTime {
		doubt = fmt.Sprintf("a replica went %d s ago", int(lost.Seconds()))
	}
	status := s.Fleet.Whole(sightings, doubt, s.present())
	status.Replicas, status.Complete, status.Message, status.Cluster = list, complete, message, told
	return status, nil
}

// present gives the present selections, or is nil if nothing is served yet.
func (s *Server) present() func(service, namespace string) fleet.Selection {
	snapshot := s.hub.current.Load()
	if snapshot == nil {
		return nil
	}
	return func(service, namespace string) fleet.Selection {
		workload := selection.Workload{Service: service, Namespace: namespace}
		summary := snapshot.summary(subject{workload: workload})
		present := fleet.Selection{Digest: summary.tag}
		if summary.size > s.MaxSelection {
			present.Problem = tooLargeMessage(workload, summary, s.MaxSelection)
		}
		return present
	}
}

func join(separator string, parts ...string) string {
	var some []string
	for _, part := range parts {
		if part != "" {
			some = append(some, part)
		}
	}
	return strings.Join(some, separator)
}
