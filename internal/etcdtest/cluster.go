package etcdtest

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

// StartCluster starts a cluster of n members, with etcd's default times for
// heartbeats and elections, and stops it at the end of the test.
func StartCluster(t testing.TB, n int) []*Server {
	t.Helper()
	testtool.Path(t, "etcd") // It may skip the test, which no other goroutine can.
	members := make([]*Server, n)
	peers, all := make([]string, n), make([]string, n)
	for i := range members {
		peers[i] = "http://" + testtool.FreeAddress(t)
		all[i] = fmt.Sprintf("m%d=%s", i, peers[i])
	}
	errs := make([]error, n)
	var started sync.WaitGroup
	for i := range members {
		s := &Server{t: t, Folder: filepath.Join(t.TempDir(), "data"), address: testtool.FreeAddress(t)}
		s.Endpoint = "http://" + s.address
		s.arguments = []string{
			"--name", fmt.Sprintf("m%d", i), "--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
			"--initial-cluster", strings.Join(all, ","), "--heartbeat-interval", "100", "--election-timeout", "1000",
		}
		members[i] = s
		t.Cleanup(s.Kill)
		started.Go(func() { errs[i] = s.start() })
	}
	started.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return members
}

// Leads reports whether the member is the leader of its cluster.
func (s *Server) Leads() bool {
	s.t.Helper()
	var members []struct {
		Status struct {
			Header struct {
				MemberID uint64 `json:"member_id"`
			} `json:"header"`
			Leader uint64 `json:"leader"`
		} `json:"Status"`
	}
	if err := json.Unmarshal([]byte(s.Ctl("endpoint", "status", "-w", "json")), &members); err != nil || len(members) != 1 {
		s.t.Fatalf("the status of a member: %v", err)
	}
	return members[0].Status.Leader == members[0].Status.Header.MemberID
}
