package main

import (
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// The daemon lists the first problems and counts all: the table's count is of all.
func TestStatusCountsTheProblemsThatAreNotListed(t *testing.T) {
	listed := make([]schema.Problem, 1000)
	for i := range listed {
		listed[i] = schema.Problem{File: "policies/bad.yaml", Message: "is wrong"}
	}
	for _, test := range []struct {
		total int
		want  string
	}{
		{10_000, "… and 9980 more (-o json has the first 1000)"},
		{1000, "… and 980 more (-o json has them)"},
		{0, "… and 980 more (-o json has them)"}, // a daemon of before the totals
	} {
		var out strings.Builder
		a := &app{stdout: &out, now: time.Now}
		if err := a.printStatus(&api.Status{Source: api.SourceStatus{Errors: listed, ErrorsTotal: test.total}}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), test.want) {
			t.Errorf("of %d errors the table says\n%s\nand not %q", test.total, out.String(), test.want)
		}
	}
}

// Messages of filters have ages, which move each second, and a time that a replica
// reckons from another's ages moves a little: they are no change of the status.
func TestAgesOfFiltersAreNoChange(t *testing.T) {
	status := func(age string, state api.FilterState) api.Status {
		return api.Status{Filters: api.FiltersStatus{Message: "asked " + age + " ago",
			Items: []api.FilterStatus{{State: state, Message: "1 of 3 VMs stopped asking " + age + " ago"}}}}
	}
	before := status("12 s", api.FilterSilent)
	if !sameStatus(before, status("13 s", api.FilterSilent)) {
		t.Error("statuses that differ in ages alone are not the same")
	}
	later := status("12 s", api.FilterSilent)
	later.Filters.Items[0].Since = later.Filters.Items[0].Since.Add(time.Millisecond)
	if !sameStatus(before, later) {
		t.Error("statuses that differ in the time of a state alone are not the same")
	}
	if sameStatus(before, status("12 s", api.FilterBehind)) {
		t.Error("statuses with other states of a filter are the same")
	}
	if got := before.Filters.Items[0].Message; got != "1 of 3 VMs stopped asking 12 s ago" {
		t.Errorf("comparing changes a status: its message is %q", got)
	}
}
