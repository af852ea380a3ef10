package mutation

// mutations are held against fast tests, which run no Envoy.
var mutations = []mutation{
	{
		what: "the fence", file: "reconciler/etcd/fence.go",
		old:    `clientv3.Compare(clientv3.CreateRevision(leaderKey), "=", createRevision)`,
		new:    `clientv3.Compare(clientv3.CreateRevision(leaderKey), ">", -1)`,
		folder: "reconciler/etcd", tests: []string{"TestADeposedLeaderChangesNothing", "TestTheFenceHoldsInTheTransactionItself"},
	},
	{
		what: "the comparison of the leader's revision", file: "reconciler/etcd/fence.go",
		old:    `clientv3.Compare(clientv3.CreateRevision(leaderKey), "=", createRevision)`,
		new:    `clientv3.Compare(clientv3.CreateRevision(leaderKey), ">", 0)`,
		folder: "reconciler/etcd", tests: []string{"TestTheFenceHoldsInTheTransactionItself"},
	},
	{
		what: "the digest check", file: "reconciler/etcd/verify.go",
		old:    `return head.Digest == set.Digest() && head.Count == set.Len()`,
		new:    `return true`,
		folder: "reconciler/etcd", tests: []string{"TestInterferenceWithAPublicationIsOverwritten"},
	},
	{
		what: "the end of an epoch", file: "reconciler/etcd/tracker.go",
		old:    `case !head.valid, t.epoch.ended(), revision.Number < t.epoch.since:`,
		new:    `case !head.valid, revision.Number < t.epoch.since:`,
		folder: "reconciler/etcd", tests: []string{"TestTracker"},
	},
	{
		what: "the order of states", file: "reconciler/etcd/tracker.go",
		old:    `case revision.Before(t.known), t.state != nil && revision.Before(t.state.Revision):`,
		new:    `case false:`,
		folder: "reconciler/etcd", tests: []string{"TestTracker"},
	},
	{
		what: "the handling of a compaction", file: "reconciler/etcd/follow.go",
		old:    `errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev)`,
		new:    `errors.Is(err, rpctypes.ErrFutureRev)`,
		folder: "reconciler/etcd", tests: []string{"TestAReplicaCatchesUpAfterACompaction"},
	},
	{
		what: "the guard against pruning", file: "reconciler/guard.go",
		old:    `if removed*2 <= published.Set.Len() || `,
		new:    `if removed >= 0 || `,
		folder: "reconciler", tests: []string{"TestPruneGuard", "TestRefusedCommitIsReported"},
	},
	{
		what: "a revert's passing of the guard", file: "reconciler/guard.go",
		old:    ` || restored(view.History, set.Digest()) != ""`,
		new:    ``,
		folder: "reconciler", tests: []string{"TestPruneGuard"},
	},
	{
		what: "the selection of another namespace", file: "filter/selection/selection.go",
		old:    `range matching(w.Namespace)`,
		new:    `range matching(schema.Any)`,
		folder: "filter/selection", tests: []string{"TestMatches"},
	},
	{
		what: "the selection of all services alike", file: "filter/selection/selection.go",
		old:    `return []string{name, schema.Any}`,
		new:    `return []string{name}`,
		folder: "filter/selection", tests: []string{"TestMatches"},
	},
	{
		what: "selection", file: "filter/selection/selection.go",
		old:    `return slices.Contains(workload.Keys(), KeyOf(selector))`,
		new:    `return slices.Contains(workload.Keys(), KeyOf(selector)) || true`,
		folder: "filter/selection", tests: []string{"TestMatches", "TestIndexAgreesWithMatches"},
	},
	{
		what: "selection by the index", file: "filter/selection/index.go",
		old:    `if order == 0 {` + "\n\t\tinto",
		new:    `if order <= 0 {` + "\n\t\tinto",
		folder: "filter/selection", tests: []string{"TestIndexAgreesWithMatches"},
	},
	{
		what: "the draw", file: "filter/fault/decide.go",
		old:    `if !random.Draw(r.share) || !r.matches(view) {`,
		new:    `if !r.matches(view) {`,
		folder: "filter/fault", tests: []string{"TestRulesDrawIndependently", "TestRatesCompose"},
	},
	{
		what: "the draw's rejection of what is left over", file: "filter/fault/random.go",
		old:    `if uint64(word) < accepted {`,
		new:    `if uint64(word) <= 1<<32 {`,
		folder: "filter/fault", tests: []string{"TestDrawRejects"},
	},
	{
		what: "the handling of a hang-up", file: "filter/inject.go",
		old:    `v.paused.forget(id)`,
		new:    ``,
		folder: "filter", tests: []string{"TestAHangUpLeavesNothing"},
	},
	{
		what: "the hearing of a hang-up", file: "filter/main.go",
		old:    `c.vm.streamDone(c.id)`,
		new:    ``,
		folder: "filter", tests: []string{"TestAHangUpLeavesNothing"},
	},
	{
		what: "the resumption", file: "filter/vm.go",
		old:    `if v.resume() {`,
		new:    `if false {`,
		folder: "filter", tests: []string{"TestDelaysEndInTheirTime", "TestAHangUpLeavesNothing"},
	},
	{
		what: "the clean-up of what is resumed", file: "filter/pause.go",
		old:    "delete(p.streams, stream.id)\n\treturn",
		new:    `return`,
		folder: "filter", tests: []string{"TestDelaysEndInTheirTime"},
	},
	{
		what: "the clean-up of the queue", file: "filter/pause.go",
		old:    `heap.Remove(&p.queue, stream.at)`,
		new:    `_ = stream`,
		folder: "filter", tests: []string{"TestAHangUpLeavesNothing"},
	},
	{
		what: "the end of stale policies", file: "filter/poll.go",
		old:    `p.vm.enforce(nil)`,
		new:    ``,
		folder: "filter", tests: []string{"TestStalePoliciesEnd"},
	},
	{
		what: "the bound on an answer's length", file: "filter/answer.go",
		old:    `size > maxAnswer {`,
		new:    `size < 0 {`,
		folder: "filter", tests: []string{"TestABadAnswerChangesNothing"},
	},
	{
		what: "the filter's own selection", file: "filter/poll.go",
		old:    `if selection.Matches(policy.Spec.Selector, workload) {`,
		new:    `if true || selection.Matches(policy.Spec.Selector, workload) {`,
		folder: "filter", tests: []string{"TestPoliciesForOthersAreNotApplied"},
	},
	{
		what: "the pause after a panic", file: "filter/poll.go",
		old:    `p.failed(fmt.Errorf("internal error while %s", doing))`,
		new:    ``,
		folder: "filter", tests: []string{"TestAPanicOnAnAnswerBacksOff", "TestAPanicInAskingBacksOff"},
	},
	{
		what: "the pause between tries", file: "filter/poll.go",
		old:    `p.next = now.Add(p.jitter(backoff))`,
		new:    `p.next = now.Add(p.jitter(backoff) % 2)`,
		folder: "filter", tests: []string{"TestTriesBackOffWithJitter"},
	},
}
