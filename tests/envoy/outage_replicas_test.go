package envoy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler/fleet"
)

// Two daemons on one etcd report the same for each real sidecar, although its VMs'
// requests are balanced over both, also after one is killed and after it is back.
// No request fails.
func TestTwoReplicasReportEachEnvoyAlike(t *testing.T) {
	testtool.SlowOnly(t)
	t.Parallel()
	server, repo, upstream := etcdtest.Start(t), gittest.New(t), envoytest.RunUpstream(t)
	files := func(version int) map[string]string {
		all := map[string]string{}
		for _, policy := range outageSettled(version) {
			all["policies/"+nameOf(t, policy)+".yaml"] = policy
		}
		return all
	}
	first := repo.Commit("One", files(1))
	repo.Push()
	var daemons []*hfidtest.Daemon
	for _, id := range []string{"one", "two"} {
		address := testtool.FreeAddress(t)
		daemons = append(daemons, hfidtest.Run(t, repo.Bare(), "--listen", address, "--advertise", "http://"+address, "--etcd-endpoints", server.Endpoint, "--replica-id", id))
	}
	cluster := envoytest.Cluster{Name: "daemon"}
	for _, d := range daemons {
		d.WaitSynced(first)
		address := strings.TrimPrefix(d.URL(), "http://")
		if cluster.Address == "" {
			cluster.Address = address
			continue
		}
		cluster.Others = append(cluster.Others, address)
	}
	const vms = 3
	var envoys []*envoytest.Envoy
	for _, pod := range []string{"frontend-1", "frontend-2"} {
		envoys = append(envoys, envoytest.Run(t, envoytest.Config{
			Node: envoytest.Workload("frontend", "demo", pod), Concurrency: vms - 1,
			Clusters:  []envoytest.Cluster{{Name: "upstream", Address: upstream.Address}, cluster},
			Listeners: []envoytest.Listener{{Filters: []envoytest.Filter{filter(t, settings())}}},
		}))
	}
	// see waits until each daemon reports both sidecars as current, with the digest that it serves now.
	see := func(what string, commit string, replicas ...string) {
		t.Helper()
		for _, d := range daemons {
			if d.PID() == 0 {
				continue
			}
			d.WaitSynced(commit)
			etag := d.Policies("?service=frontend&namespace=demo").ETag
			d.WaitStatus(what, func(s *api.Status) bool {
				f := s.Filters
				if f.Silent > 0 {
					t.Fatalf("%s: wrongly reported as silent: %+v", what, f)
				}
				if !f.Complete || len(f.Replicas) != len(replicas) || f.Connected != 2 || f.Current != 2 {
					return false
				}
				for i, one := range f.Items {
					if one.Pod != []string{"frontend-1", "frontend-2"}[i] || one.VMs.Current != vms || one.VMs.Total != vms || `"`+one.Digest+`"` != etag {
						return false
					}
				}
				return true
			})
		}
	}
	see("both sidecars current", first, "one", "two")
	for _, d := range daemons {
		var here struct{ Filters []fleet.FilterSeen }
		d.JSON("/v1/filters?local=true", &here)
		pods := map[string]bool{}
		for _, filter := range here.Filters {
			pods[filter.Pod] = true
		}
		if len(pods) != len(envoys) {
			t.Errorf("requests should be balanced over both replicas, but a single one has seen %+v", here.Filters)
		}
	}

	busy := outageBusy(t, envoys[0].URL())
	second := repo.Commit("Two", files(2))
	repo.Push()
	see("the second commit", second, "one", "two")

	daemons[0].Kill()
	third := repo.Commit("Three", files(3))
	repo.Push()
	see("one replica is gone", third, "two")
	for _, e := range envoys {
		if answer := get(t, client(t, false), e.URL()+"/version-3"); answer.Status != 410 {
			t.Errorf("with one replica gone, new policies are not in force: %d", answer.Status)
		}
	}

	daemons[0].Start()
	daemons[0].WaitReady()
	see("both again", third, "one", "two")
	fourth := repo.Commit("Four", files(4))
	repo.Push()
	see("the fourth commit", fourth, "one", "two")
	// Nothing is reported for longer than a filter may take between two requests.
	testtool.Throughout(t, 10*time.Second, "all stays well", func() error {
		for _, d := range daemons {
			if f := d.Status().Filters; f.Silent > 0 {
				return fmt.Errorf("wrongly reported as silent: %+v", f)
			}
		}
		return nil
	})
	busy.end()
}
