package served

import (
	"bytes"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// entry is a policy that delays a service's requests in namespace n.
func entry(name, service string) *schema.Entry {
	policy, err := schema.Parse(fmt.Appendf(nil, `{"metadata":{"name":%q},"spec":{"selector":{"service":%q,"namespace":"n"},"rules":[{"fault":{"delay_ms":1}}]}}`, name, service))
	if err != nil {
		panic(err)
	}
	return schema.NewEntry(policy, schema.Origin{})
}

func stateOf(number int64, entries ...*schema.Entry) *reconciler.State {
	set := schema.NewSet(entries...)
	return &reconciler.State{
		Head:     reconciler.Head{Digest: set.Digest(), Count: set.Len()},
		Set:      set,
		Revision: reconciler.Revision{Epoch: reconciler.Epoch{Number: 1, ID: "one"}, Number: number},
	}
}

func workload(service string) Subject {
	return Subject{Workload: selection.Workload{Service: service, Namespace: "n"}}
}

// An observer sees each change in order, with the keys that it touched, and
// never an older state.
func TestObserve(t *testing.T) {
	var log bytes.Buffer
	p := New()
	p.Logger = slog.New(slog.NewTextHandler(&log, nil))
	var seen []string
	p.Observe(func(next *Snapshot, touched []selection.Key) {
		if p.Current() != next {
			t.Error("the observer gets another snapshot than the current one")
		}
		for _, key := range touched {
			seen = append(seen, fmt.Sprint(next.State.Revision.Number, key.Service))
		}
	})
	p.Serve(nil)
	if p.Current() != nil {
		t.Fatal("no state is served")
	}
	p.Serve(stateOf(2, entry("a", "s1")))
	p.Serve(stateOf(3, entry("a", "s1"), entry("b", "s2")))
	p.Serve(stateOf(2, entry("a", "s1")))
	if got := strings.Join(seen, " "); got != "2 2s1 3 3s2" { // with those of waypoints
		t.Errorf("the observer saw %s", got)
	}
	if !strings.Contains(log.String(), "older state") || p.Current().State.Revision.Number != 3 {
		t.Errorf("revision %d is served after an older one: %s", p.Current().State.Revision.Number, log.String())
	}
}

// The size of a selection is the length of its JSON, and one that a filter
// does not accept has a problem.
func TestSelection(t *testing.T) {
	p := New()
	p.Serve(stateOf(1, entry("a", "s1"), entry("b", "s1"), entry("c", "s2")))
	for subject, count := range map[Subject]int{{All: true}: 3, workload("s1"): 2, workload("s2"): 1, workload("other"): 0} {
		var text bytes.Buffer
		if err := p.Current().WriteJSON(&text, subject); err != nil {
			t.Fatal(err)
		}
		if got := p.Current().Selection(subject); got.Count != count || got.Size != text.Len() || strings.Count(text.String(), `"metadata"`) != count {
			t.Errorf("%+v: got %+v for %s", subject, got, text.String())
		}
	}
}

// TestProgram checks that a workload gets a program of its policies, that workloads with the same
// policies share it, and that one that filters do not accept is an error with the workload.
func TestProgram(t *testing.T) {
	p := New()
	policies := []*schema.Entry{entry("a", "s1"), entry("b", "s1"), entry("c", "*")}
	p.Serve(stateOf(1, policies...))
	for subject, names := range map[Subject]string{workload("s1"): "a b c", workload("s2"): "c"} {
		encoded, err := p.Current().Program(subject)
		if err != nil {
			t.Fatal(err)
		}
		read, err := program.Read(encoded, subject.Workload)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, policy := range read.Policies {
			got = append(got, policy.Name)
		}
		if strings.Join(got, " ") != names || read.Idle() {
			t.Errorf("%+v: the program has the policies %v, want %s", subject, got, names)
		}
	}
	two, _ := p.Current().Program(workload("s2"))
	if three, _ := p.Current().Program(workload("s3")); &two[0] != &three[0] {
		t.Error("workloads with the same policies do not share a program")
	}
	p.Serve(stateOf(2, policies[1:]...))
	if again, _ := p.Current().Program(workload("s2")); &two[0] != &again[0] {
		t.Error("a change of other policies compiles a program again")
	}
	large := func(name string) *schema.Entry {
		policy := entry(name, "s1").Policy
		policy.Spec.Rules[0].Fault.Abort = &schema.Abort{Status: 503, Body: strings.Repeat("x", 1_500_000)}
		return schema.NewEntry(policy, schema.Origin{})
	}
	p.Serve(stateOf(3, large("x"), large("y"), large("z"), policies[2]))
	if _, err := p.Current().Program(workload("s2")); err != nil || p.Current().Refusal(workload("s1")) != "" {
		t.Errorf("before a client asks for a program that is too large: %v, %q", err, p.Current().Refusal(workload("s1")))
	}
	_, err := p.Current().Program(workload("s1"))
	if err == nil || !strings.Contains(err.Error(), `the 4 policies of service "s1" in namespace "n" cannot be served: they take `) {
		t.Errorf("the error is %v", err)
	}
	if got := p.Current().Refusal(workload("s1")); got != err.Error() || p.Current().Refusal(workload("s2")) != "" {
		t.Errorf("the refusal is %q", got)
	}
}

// TestATooLargePolicyIsLeftOut checks that a policy which no filter accepts takes no other policy's
// faults.
func TestATooLargePolicyIsLeftOut(t *testing.T) {
	policy := entry("big", "s1").Policy
	policy.Spec.Rules[0].Fault.Abort = &schema.Abort{Status: 503, Body: strings.Repeat("x", 5_000_000)}
	p := New()
	p.Serve(stateOf(1, schema.NewEntry(policy, schema.Origin{}), entry("small", "s1")))
	encoded, err := p.Current().Program(workload("s1"))
	if err != nil {
		t.Fatal(err)
	}
	if read, err := program.Read(encoded, workload("s1").Workload); err != nil || len(read.Policies) != 1 || read.Policies[0].Name != "small" {
		t.Errorf("%v, %+v", err, read)
	}
}

// TestProgramsAreSharedByClients asks for programs from many goroutines, while the policies change:
// the race detector must find nothing, and the status must not wait.
func TestProgramsAreSharedByClients(t *testing.T) {
	p := New()
	p.Serve(stateOf(1, entry("a", "s1")))
	var clients sync.WaitGroup
	for client := range 8 {
		clients.Go(func() {
			for i := range 50 {
				subject := workload(fmt.Sprint("s", (client+i)%3))
				encoded, err := p.Current().Program(subject)
				if err != nil || p.Current().Refusal(subject) != "" {
					t.Error(err)
				}
				if _, err := program.Read(encoded, subject.Workload); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 50 {
		p.Serve(stateOf(int64(2+i), entry("a", "s1"), entry(fmt.Sprint("b", i), fmt.Sprint("s", i%3))))
	}
	clients.Wait()
}

// TestAPanicIsARefusal checks that a defect in compiling affects only the policies concerned, and is
// reported.
func TestAPanicIsARefusal(t *testing.T) {
	p := newPrograms()
	for range 2 {
		if _, err := p.of(programKey{digest: "digest"}, func() []*schema.Entry { panic("a defect") }); err == nil || !strings.Contains(err.Error(), "a defect") {
			t.Errorf("the error is %v", err)
		}
	}
	if p.refusal(programKey{digest: "digest"}) == nil || len(p.order) != 1 {
		t.Error("the refusal is not kept")
	}
}

// TestRefusalDoesNotWait checks that a status does not wait until a program is compiled.
func TestRefusalDoesNotWait(t *testing.T) {
	p := newPrograms()
	began, end := make(chan struct{}), make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		_, _ = p.of(programKey{digest: "digest"}, func() []*schema.Entry {
			close(began)
			<-end
			return nil
		})
	})
	<-began
	if err := p.refusal(programKey{digest: "digest"}); err != nil {
		t.Error(err)
	}
	close(end)
	work.Wait()
}

// TestProgramsAreBounded checks that old programs and removed policies do not stay in memory.
func TestProgramsAreBounded(t *testing.T) {
	p := New()
	for i := range 3 * maxCached {
		p.programs.keep(programKey{digest: schema.Digest(fmt.Sprint(i))}, 100)
	}
	if got := len(p.programs.order); got > maxCached {
		t.Errorf("%d programs are kept", got)
	}
	p.programs.keep(programKey{digest: "large"}, maxPrograms)
	if got := p.programs.size; got != maxPrograms || len(p.programs.order) != 1 {
		t.Errorf("%d bytes of %d programs are kept", got, len(p.programs.order))
	}
	for i := range 100 {
		p.programs.compile(entry(fmt.Sprint("p", i), "s"))
	}
	testtool.Eventually(t, "removed policies are forgotten", func() bool {
		runtime.GC()
		p.programs.mu.Lock()
		defer p.programs.mu.Unlock()
		return len(p.programs.compiled) == 0
	})
}

// Workloads that clients make up share one selection, and take no room for others.
func TestInventedWorkloadsShareASelection(t *testing.T) {
	p := New()
	p.Serve(stateOf(1, entry("a", "s1")))
	for i := range 10_000 {
		if got := p.Current().Selection(workload(fmt.Sprint("made-up-", i))); got.Count != 0 {
			t.Fatalf("a made-up workload has %+v", got)
		}
	}
	if got := p.Current().Selection(workload("s1")); got.Count != 1 || len(p.Current().selections) != 2 {
		t.Errorf("got %+v, and %d selections are kept", got, len(p.Current().selections))
	}
}

// A workload's selection of 5 policies out of so many, with its digest.
func BenchmarkSelect(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			var entries []*schema.Entry
			for i := range count {
				entries = append(entries, entry(fmt.Sprint("p", i), fmt.Sprint("s", i/5)))
			}
			p := New()
			p.Serve(stateOf(1, entries...))
			for b.Loop() {
				p.Current().compute(workload("s7"))
			}
		})
	}
}
