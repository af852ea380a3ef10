package etcd

import (
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/boifi/hfi/reconciler"
)

// leaderReport is what a leader stored last under the status key. A report
// that is put back later, or anything else there, does not replace it.
type leaderReport struct {
	// value is nil if there was none.
	value *reconciler.LeaderReport
	// term and number are those of its record; modRevision is when it was written.
	term, number, modRevision int64
	// loaded says that it was found when etcd was read. Nobody saw it being
	// written, so any report of the leader's may follow it.
	loaded bool
	// lost says that the key no longer holds it; it implies that value is not nil.
	lost bool
}

// maxReportJump is how many reports of a term a watch may miss: none, in fact.
// The bound keeps a foreign report from making the leader's look old.
const maxReportJump = 1000

// putReport applies that the status key was written.
func (c *cache) putReport(kv *mvccpb.KeyValue) {
	record, ok := decodeStatus(kv.Value)
	if !ok || !c.mayFollow(record) {
		c.report.lost = c.report.value != nil
		return
	}
	c.report = leaderReport{value: &record.LeaderReport, term: record.Term, number: record.Number, modRevision: kv.ModRevision}
}

// mayFollow reports whether a record may be a later report than the present
// one: the leader's, and not an earlier one of its term. Leaders of earlier
// versions write neither term nor number.
func (c *cache) mayFollow(next statusRecord) bool {
	if c.report.value == nil {
		return true
	}
	leader, leads := c.leader()
	switch {
	case next.Term == 0:
		return leads && leader.createRevision > c.report.term
	case next.Term != c.report.term:
		return leads && leader.createRevision == next.Term
	case c.report.loaded:
		return true
	}
	return next.Number > c.report.number && next.Number-c.report.number <= maxReportJump
}

// keepReport marks the report as read, and keeps that of an earlier cache if
// it is a later one of the same term: this one was put back in between.
func (c *cache) keepReport(earlier leaderReport) {
	c.report.loaded = c.report.value != nil
	if c.report.value != nil && c.report.term == earlier.term && c.report.number < earlier.number {
		c.report, c.report.lost = earlier, true
	}
}

// reportCurrent reports whether the report is one of the leader's present term.
func (c *cache) reportCurrent() bool {
	leader, leads := c.leader()
	if !leads || c.report.value == nil || c.report.value.Leader != leader.id {
		return false
	}
	if c.report.term == 0 {
		return c.report.modRevision > leader.createRevision
	}
	return c.report.term == leader.createRevision
}
