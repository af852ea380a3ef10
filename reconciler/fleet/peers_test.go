package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/testtool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitLimit is longer than any request takes on a busy machine.
const waitLimit = 30 * time.Second

// withPeer is a fleet with one peer, which handler answers for.
func withPeer(t *testing.T, handler http.HandlerFunc) *Fleet {
	peer := httptest.NewServer(handler)
	t.Cleanup(peer.Close)
	f := newFleet()
	f.PeerTimeout = waitLimit
	f.Replicas = func() Replicas { return Replicas{List: []api.Replica{{ID: "a"}, {ID: "b", URL: peer.URL}}} }
	return f
}

// Between Open and Close the last status is kept recent, though nothing asks for it.
func TestOpenRefreshes(t *testing.T) {
	var asked atomic.Int64
	f := withPeer(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, `{"replica":"b","filters":[{"pod":"p","vms":[{"id":"1","state":"waiting"}]}]}`)
	})
	if _, known := f.Last(); known {
		t.Error("there is a last status before the first one")
	}
	f.RefreshInterval = 5 * time.Millisecond
	f.Open()
	testtool.Eventually(t, "three statuses were merged", func() bool { return asked.Load() >= 3 })
	last, known := f.Last()
	if !known || last.Behind != 1 || !last.Complete || last.Items != nil || last.Replicas != nil {
		t.Errorf("the last status is %+v, %v", last, known)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.Status(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed fleet says %v", err)
	}
}

// A report on the cluster ends with the leadership, though nobody took it back yet.
func TestTheClusterReportEndsWithTheLeadership(t *testing.T) {
	f := newFleet()
	leads := true
	f.Leads = func() bool { return leads }
	f.SetClusterReport(&api.ClusterReport{Error: "x"})
	if report := f.state().Kubernetes; report == nil || report.Error != "x" {
		t.Errorf("the leader's report is %+v", report)
	}
	leads = false
	if report := f.state().Kubernetes; report != nil {
		t.Errorf("a deposed leader reports %+v", report)
	}
}

// Close ends a request to a peer that does not answer, and who waits for it learns why.
func TestCloseEndsRequestsToPeers(t *testing.T) {
	asked := make(chan struct{}, 1)
	f := withPeer(t, func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	})
	result := make(chan error, 1)
	go func() {
		_, err := f.Status(context.Background())
		result <- err
	}()
	<-asked
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := f.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that does not wait gets %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(err, ErrClosed) {
		t.Errorf("the caller gets %v", err)
	}
}

// No connection is made to an address that no replica can have, though a name
// resolves to it: the check is that of the address that is connected to.
func TestNoConnectionsToAddressesOfNoReplica(t *testing.T) {
	f := withPeer(t, func(w http.ResponseWriter, _ *http.Request) {
		t.Error("a peer at an unspecified address was asked")
		fmt.Fprint(w, `{"replica":"b","filters":[]}`)
	})
	peer, err := url.Parse(f.Replicas().List[1].URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"0.0.0.0:" + peer.Port(), "[::]:" + peer.Port(), "169.254.169.254:80", "[fe80::1]:80", "224.0.0.1:80", "[::ffff:169.254.169.254]:80"} {
		f.Replicas = func() Replicas {
			return Replicas{List: []api.Replica{{ID: "a"}, {ID: "b", URL: "http://" + host}}}
		}
		status, err := f.Status(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if said := status.Replicas[1].Error; !strings.Contains(said, "no connections are made to") {
			t.Errorf("a peer at %s: %q", host, said)
		}
	}
}
