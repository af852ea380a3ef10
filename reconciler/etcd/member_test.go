package etcd

import (
	"context"
	"fmt"
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
	s.StateKeys = testKeys
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

// A check of the endpoints that may take long, because no member led before, does
// not wait for one that hangs once others have answered.
func TestTheCheckOfEndpointsDoesNotWaitForAMemberThatHangs(t *testing.T) {
	t.Parallel()
	members, s := openOnThree(t)
	publish(t, campaign(t, s), publication("c1", policies(t, 3, 1)))
	hanging := slices.IndexFunc(members, (*etcdtest.Server).Leads)
	members[hanging].Freeze()
	others := slices.Delete(slices.Clone(s.Access.Endpoints), hanging, hanging+1)
	eventually(t, "the others have a leader", func() bool {
		return slices.Equal(s.answering(s.etcd(), others, s.TryTimeout), others)
	})
	began := time.Now()
	if got := s.answering(s.etcd(), s.Access.Endpoints, 12*time.Second); !slices.Equal(got, others) {
		t.Errorf("these answer: %v", got)
	}
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A request to a member that hangs, which may take long because etcd was slow
// before, is made again as soon as that member is left out.
func TestRequestsToAMemberThatIsLeftOutAreMadeAgain(t *testing.T) {
	t.Parallel()
	members, s := openOnThree(t)
	term := campaign(t, s)
	publish(t, term, publication("c1", policies(t, 3, 1)))
	hanging := members[slices.IndexFunc(members, func(s *etcdtest.Server) bool { return !s.Leads() })]
	hanging.Freeze()
	for _, adaptive := range []*adaptiveTimeout{&s.timeouts.read, &s.timeouts.write} {
		adaptive.exceeded(s.RequestTimeout, s.timeoutBounds())
	}
	s.etcd().SetEndpoints(hanging.Endpoint)
	began := time.Now()
	var requests sync.WaitGroup
	requests.Go(func() { publish(t, term, publication("c2", policies(t, 3, 2))) })
	requests.Go(func() {
		if _, err := s.readMarkers(t.Context(), s.RequestTimeout); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(time.Second) // Both have reached the member by then, or are about to.
	s.checkEndpoints()
	requests.Wait()
	// etcd's client gives up the connection after 13 s.
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A watch that a member which hangs has not begun delays none that another one
// can begin. Each watch goes to one or the other, so there are several.
func TestAWatchThatDoesNotBeginDelaysNoOther(t *testing.T) {
	t.Parallel()
	members, first := openOnThree(t)
	stores := []*Store{first}
	for i := range 7 {
		s := New(DefaultPrefix, fmt.Sprint("follower ", i), quiet())
		s.StateKeys = testKeys
		s.RequestTimeout, s.Access = time.Minute, first.Access
		stores = append(stores, openStore(t, s))
	}
	term := campaign(t, first)
	state := publish(t, term, publication("c1", policies(t, 3, 1)))
	for _, s := range stores {
		eventually(t, s.ID+" follows", serves(s, state))
	}
	hanging := members[slices.IndexFunc(members, func(s *etcdtest.Server) bool { return !s.Leads() })]
	other := members[slices.IndexFunc(members, (*etcdtest.Server).Leads)]
	hanging.Freeze()
	began := time.Now()
	for _, s := range stores {
		s.etcd().SetEndpoints(hanging.Endpoint, other.Endpoint)
		s.rewatch <- struct{}{}
	}
	state = publish(t, term, publication("c2", policies(t, 3, 2)))
	for _, s := range stores {
		eventually(t, s.ID+" follows", serves(s, state))
	}
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
