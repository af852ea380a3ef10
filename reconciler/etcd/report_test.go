package etcd

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// The longest lists of problems that a leader reports fit into etcd, and reach
// the followers.
func TestTheLargestReportReachesFollowers(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	leader, follower := openStore(t, externalStore("a", server.Endpoint)), openStore(t, externalStore("b", server.Endpoint))
	problem := schema.Problem{File: "policies/a.yaml", Message: strings.Repeat("x", 400)}
	text, err := json.Marshal(problem)
	if err != nil {
		t.Fatal(err)
	}
	var problems []schema.Problem
	for range reconciler.MaxProblemBytes / (len(text) + 1) {
		problems = append(problems, problem)
	}
	report := &reconciler.LeaderReport{Leader: "a", Source: api.SourceStatus{Errors: problems, Warnings: problems}}
	if err := campaign(t, leader).Report(testContext(t), report); err != nil {
		t.Fatalf("a report of %d errors and as many warnings: %v", len(problems), err)
	}
	eventually(t, "the follower has the report", func() bool {
		got := follower.View().LeaderReport
		return got != nil && len(got.Source.Errors) == len(problems) && len(got.Source.Warnings) == len(problems)
	})
}

// The reports of earlier versions do not say of a failure whether it passes: their
// condition Stalled does.
func TestFailuresInReportsOfEarlierVersions(t *testing.T) {
	for name, c := range map[string]struct {
		report string
		want   bool
	}{
		"a failure that may pass": {`{"leader":"a","sync_error":{"reason":"PublishFailed"},"conditions":[{"type":"Stalled","status":"False"}]}`, true},
		"one that does not":       {`{"leader":"a","sync_error":{"reason":"InvalidCommit"},"conditions":[{"type":"Stalled","status":"True"}]}`, false},
		"one that says it itself": {`{"leader":"a","sync_error":{"reason":"InvalidCommit","retryable":false},"conditions":[]}`, false},
		"one that says otherwise": {`{"leader":"a","sync_error":{"reason":"PublishFailed","retryable":true},"conditions":[{"type":"Stalled","status":"True"}]}`, true},
	} {
		record, ok := decodeStatus([]byte(c.report))
		if !ok || record.SyncError == nil || record.SyncError.Retryable != c.want {
			t.Errorf("%s: %+v", name, record.SyncError)
		}
	}
	record, ok := decodeStatus([]byte(`{"leader":"a","source":{"error":{"reason":"Unreachable"}},"conditions":[{"type":"Stalled","status":"False"}]}`))
	if !ok || !record.Source.Error.Retryable {
		t.Errorf("the source's error: %+v", record.Source.Error)
	}
}
