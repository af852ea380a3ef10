package etcd

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/etcdtest"
)

// openOnThree opens a store on a cluster of three members, whose requests may take a minute.
func openOnThree(t *testing.T) ([]*etcdtest.Server, *Store) {
	t.Helper()
	members := etcdtest.StartCluster(t, 3)
	s := New(DefaultPrefix, "a", quiet())
	s.RequestTimeout = time.Minute
	for _, member := range members {
		s.Access.Endpoints = append(s.Access.Endpoints, member.Endpoint)
	}
	return members, openStore(t, s)
}

// When a member of etcd dies or hangs, the leader still leads, and the next
// commit is published in about the time in which etcd itself recovers: 2 s
// after a death and 5 s for a member that hangs, on a machine with nothing else to do. The
// bound is generous, and below what a request may take in this test.
func TestACommitSurvivesTheLossOfAMember(t *testing.T) {
	const bound = 12 * time.Second
	leads := func(s *etcdtest.Server) bool { return s.Leads() }
	follows := func(s *etcdtest.Server) bool { return !s.Leads() }
	t.Parallel()
	for _, c := range []struct {
		name string
		who  func(*etcdtest.Server) bool
		what func(*etcdtest.Server)
	}{
		{"the leader dies", leads, (*etcdtest.Server).Kill},
		{"the leader hangs", leads, (*etcdtest.Server).Freeze},
		{"another one hangs", follows, (*etcdtest.Server).Freeze},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			members, s := openOnThree(t)
			term := campaign(t, s)
			began := time.Now()
			publish(t, term, publication("c1", policies(t, 3, 1)))
			busy := time.Since(began) // milliseconds, unless the machine is busy
			victim := members[slices.IndexFunc(members, c.who)]

			c.what(victim)
			began = time.Now()
			ctx, cancel := context.WithTimeout(testContext(t), time.Minute)
			defer cancel()
			if _, err := term.Publish(ctx, publication("c2", policies(t, 3, 2))); err != nil {
				t.Errorf("after %s: %v", time.Since(began), err)
			}
			took := time.Since(began)
			t.Logf("the next commit took %s", took)
			if took > bound+20*busy {
				t.Errorf("the next commit took %s, and the first one %s", took, busy)
			}
			// Nor does it lose the leadership later, when its lease would have ended.
			for i := range 6 {
				if _, err := term.Publish(ctx, publication("c3", policies(t, 3, i+3))); err != nil {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
				time.Sleep(time.Second) // for longer than a lease lasts
			}
		})
	}
}

// While the members elect a leader, the check of the endpoints does not wait for one that
// hangs: it leaves that out once another member leads.
func TestEndpointsAreCheckedDuringAnElection(t *testing.T) {
	t.Parallel()
	members, s := openOnThree(t)
	publish(t, campaign(t, s), publication("c1", policies(t, 3, 1)))
	leader := slices.IndexFunc(members, (*etcdtest.Server).Leads)
	hanging, paused, last := members[leader], members[(leader+1)%3], members[(leader+2)%3]
	hanging.Freeze()
	paused.Freeze()
	eventually(t, "the only member that runs has no leader", func() bool {
		status, err := s.etcd().Status(t.Context(), last.Endpoint)
		return err == nil && status.Leader == 0
	})
	thawed := time.AfterFunc(time.Second, paused.Thaw)
	defer thawed.Stop()
	began := time.Now()
	eventually(t, "the member that hangs is left out", func() bool {
		s.checkEndpoints()
		return !slices.Contains(s.etcd().Endpoints(), hanging.Endpoint)
	})
	// etcd's client gives up the connection after 13 s.
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// Requests to a member that hangs are tried again in short tries, each of which may go to it again.
func TestReadsDoNotWaitForAMemberThatHangs(t *testing.T) {
	t.Parallel()
	members, s := openOnThree(t)
	publish(t, campaign(t, s), publication("c1", policies(t, 3, 1)))
	members[slices.IndexFunc(members, (*etcdtest.Server).Leads)].Freeze()
	began := time.Now()
	var reads sync.WaitGroup
	for range 12 {
		reads.Go(func() {
			if _, err := s.readMarkers(t.Context(), s.RequestTimeout); err != nil {
				t.Error(err)
			}
		})
	}
	reads.Wait()
	// etcd's client gives up the connection after 13 s.
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("it took %s", took)
	}
}
