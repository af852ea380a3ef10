package etcd

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// pair is an external etcd with a leader and a follower on it.
func pair(t *testing.T) (*etcdtest.Server, *Store, *Store, *Term) {
	t.Helper()
	server := etcdtest.Start(t)
	a, b := openStore(t, externalStore("a", server.Endpoint)), openStore(t, externalStore("b", server.Endpoint))
	return server, a, b, campaign(t, a)
}

func seen(s *Store, status api.DriftState) func() bool {
	return func() bool { return s.View().Drift.Status == status }
}

// What others write with etcdctl is reported on every replica, key by key, is
// not served, and is gone after a repair.
func TestForeignWritesAreReportedAndNotServed(t *testing.T) {
	t.Parallel()
	other := string(policy(t, "p00001", 4711).Canonical)
	bucket := schema.BucketOf("p00001")
	cases := map[string]struct {
		do   []string
		want []api.DriftItem
	}{
		"extra":          {[]string{"put", "/hfi/policies/foreign", string(policy(t, "foreign", 1).Canonical)}, []api.DriftItem{{Name: "foreign", Key: "/hfi/policies/foreign", Kind: api.Extra}}},
		"extra garbage":  {[]string{"put", "/hfi/policies/foreign", "garbage"}, []api.DriftItem{{Name: "foreign", Key: "/hfi/policies/foreign", Kind: api.Extra}}},
		"another's name": {[]string{"put", "/hfi/policies/foreign", other}, []api.DriftItem{{Name: "foreign", Key: "/hfi/policies/foreign", Kind: api.Extra}}},
		"modified":       {[]string{"put", "/hfi/policies/p00001", other}, []api.DriftItem{{Name: "p00001", Key: "/hfi/policies/p00001", Kind: api.Modified}}},
		"made rubbish":   {[]string{"put", "/hfi/policies/p00001", "garbage"}, []api.DriftItem{{Name: "p00001", Key: "/hfi/policies/p00001", Kind: api.Modified}}},
		"missing":        {[]string{"del", "/hfi/policies/p00001"}, []api.DriftItem{{Name: "p00001", Key: "/hfi/policies/p00001", Kind: api.Missing}}},
		"head gone":      {[]string{"del", "/hfi/head"}, []api.DriftItem{{Key: "/hfi/head", Kind: api.Missing}}},
		"head rubbish":   {[]string{"put", "/hfi/head", "garbage"}, []api.DriftItem{{Key: "/hfi/head", Kind: api.Forged}}},
		"head forged":    {[]string{"put", "/hfi/head", `{"format":1,"commit":"evil","digest":"v1:00","count":1}`}, []api.DriftItem{{Key: "/hfi/head", Kind: api.Forged}}},
		"epoch gone":     {[]string{"del", "/hfi/epoch"}, []api.DriftItem{{Key: "/hfi/epoch", Kind: api.Missing}}},
		"epoch forged":   {[]string{"put", "/hfi/epoch", `{"number":1,"id":"evil"}`}, []api.DriftItem{{Key: "/hfi/epoch", Kind: api.Forged}}},
		"origins":        {[]string{"put", fmt.Sprintf("/hfi/origins/%02x", bucket), `{"p00001":{"file":"evil","line":1,"commit":"c"}}`}, []api.DriftItem{{Key: fmt.Sprintf("/hfi/origins/%02x", bucket), Kind: api.Modified}}},
		"origins gone":   {[]string{"del", fmt.Sprintf("/hfi/origins/%02x", bucket)}, []api.DriftItem{{Key: fmt.Sprintf("/hfi/origins/%02x", bucket), Kind: api.Missing}}},
	}
	server, a, b, term := pair(t)
	want := publish(t, term, publication("c1", policies(t, 3, 100)))
	eventually(t, "the follower has the state", func() bool { return b.View().State != nil })
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			server.Ctl(c.do...)
			for _, s := range []*Store{a, b} {
				eventually(t, "drift is seen on "+s.ID, seen(s, api.DriftDetected))
				drift := s.View().Drift
				if diff := cmp.Diff(c.want, drift.Items); diff != "" || drift.Total != len(c.want) || drift.Since == nil {
					t.Errorf("drift on %s: total %d, since %v, %s", s.ID, drift.Total, drift.Since, diff)
				}
				if state := s.View().State; state.Set.Digest() != want.Set.Digest() || state.Head.Commit != "c1" || len(schema.Diff(want.Set, state.Set)) > 0 {
					t.Errorf("%s serves %+v", s.ID, state)
				}
			}
			want = publish(t, term, reconciler.Publication{Commit: "c1", Set: a.View().State.Set})
			for _, s := range []*Store{a, b} {
				eventually(t, "the repair is seen on "+s.ID, seen(s, api.DriftNone))
			}
			if got := server.Ctl("get", "/hfi/policies/p00001", "--print-value-only"); strings.TrimSpace(got) != string(want.Set.Get("p00001").Canonical) {
				t.Errorf("after the repair etcd holds %s", got)
			}
			if got := server.Ctl("get", "--prefix", "/hfi/policies/", "--keys-only"); strings.Count(got, "/hfi/policies/") != 3 {
				t.Errorf("after the repair etcd holds the keys %s", got)
			}
		})
	}
}

// A policy in another spelling, and keys that hfi does not use, are no drift.
func TestEquivalentPoliciesAreNoDrift(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	publish(t, term, publication("c1", policies(t, 3, 100)))
	server.Ctl("put", "/hfi/policies/p00001", `{ "apiVersion": "x", "metadata": {"name": "p00001"},
		"spec": {"rules": [{"fault": {"percentage": 50.0, "delay_ms": 100}}], "selector": {"namespace": "demo", "service": "frontend"}}}`)
	for _, key := range []string{"/hfi/unknown", "/hfi/origins/zz", "/hfi/history/x", "/hfi/history/999999999999", "/hfi/status", "/hfi/publishing", "/hfi2/policies/x", "/hfipolicies"} {
		server.Ctl("put", key, "garbage")
	}
	server.Ctl("put", "/hfi/policies/marker", "x")
	for _, s := range []*Store{a, b} {
		eventually(t, "the marker is seen on "+s.ID, seen(s, api.DriftDetected))
		if drift := s.View().Drift; drift.Total != 1 || drift.Items[0].Name != "marker" {
			t.Errorf("drift on %s: %+v", s.ID, drift.Items)
		}
	}
	server.Ctl("del", "/hfi/policies/marker")
	for _, s := range []*Store{a, b} {
		eventually(t, "undone drift is no drift on "+s.ID, seen(s, api.DriftNone))
	}
	if err := term.Record(testContext(t), api.HistoryEntry{Commit: "c2", Outcome: api.Invalid, At: time.Now()}); err != nil {
		t.Error(err)
	}
	if history := a.View().History; len(history) == 0 || history[0].Commit != "c2" {
		t.Errorf("history beside foreign keys: %+v", history)
	}
}

// Thousands of foreign keys are counted, are not served, and are deleted by a repair.
func TestAFloodOfForeignKeysIsCountedAndPruned(t *testing.T) {
	t.Parallel()
	server, a, b, term := pair(t)
	want := publish(t, term, publication("c1", policies(t, 10, 100)))
	count := 4_000
	if testtool.Slow() {
		count = 20_000
	}
	flood(t, server, count)
	for _, s := range []*Store{a, b} {
		eventually(t, "the flood is seen on "+s.ID, func() bool { return s.View().Drift.Total == count })
		if drift := s.View().Drift; len(drift.Items) != api.MaxDriftItems || drift.Items[0].Name != "s000000" {
			t.Errorf("%d items, beginning with %+v", len(drift.Items), drift.Items[0])
		}
		if s.View().State.Set.Digest() != want.Set.Digest() {
			t.Error("the flood is served")
		}
	}
	publish(t, term, reconciler.Publication{Commit: "c1", Set: want.Set})
	if got := server.Ctl("get", "--prefix", "/hfi/policies/", "--count-only", "-w", "fields"); !strings.Contains(got, `"Count" : 10`) {
		t.Errorf("after the repair: %s", got)
	}
	eventually(t, "no drift after the repair", seen(b, api.DriftNone))
}

// flood puts n foreign policies with etcdctl's transactions.
func flood(t *testing.T, server *etcdtest.Server, n int) {
	t.Helper()
	for i := 0; i < n; {
		var script strings.Builder
		script.WriteString("\n")
		for end := min(i+100, n); i < end; i++ {
			if i%2 == 0 {
				fmt.Fprintf(&script, "put /hfi/policies/s%06d rubbish\n", i)
			} else {
				fmt.Fprintf(&script, "put /hfi/policies/s%06d '{\"metadata\":{\"name\":\"s%06d\"}}'\n", i, i)
			}
		}
		script.WriteString("\n\n")
		command := exec.Command(testtool.Path(t, "etcdctl"), "--endpoints", server.Endpoint, "txn")
		command.Stdin = strings.NewReader(script.String())
		if out, err := command.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "SUCCESS") {
			t.Fatalf("etcdctl txn: %v: %.300s", err, out)
		}
	}
}

// Drift is seen by the watch, far below a second; the bound on the average is generous, for a busy machine.
func TestDriftIsSeenFast(t *testing.T) {
	t.Parallel()
	server, a, _, term := pair(t)
	publish(t, term, publication("c1", policies(t, 100, 100)))
	client := a.etcd()
	var total time.Duration
	const rounds = 20
	for range rounds {
		began := time.Now()
		if _, err := client.Put(testContext(t), "/hfi/policies/foreign", "x"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "drift is seen", seen(a, api.DriftDetected))
		total += time.Since(began)
		server.Ctl("del", "/hfi/policies/foreign")
		eventually(t, "drift is gone", seen(a, api.DriftNone))
	}
	t.Logf("put to seen: %s on average", total/rounds)
	if total/rounds > time.Second {
		t.Errorf("put to seen takes %s on average", total/rounds)
	}
}
