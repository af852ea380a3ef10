package main

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

var errNotFound = types.ErrorStatusNotFound

const (
	// askWait is how long the daemon may hold a request while nothing changes.
	// With the daemon's patience for a filter between two requests it bounds how long
	// a dead filter passes for a live one. See poller.wait.
	askWait = 20 * time.Second
	// leastWait bounds it from below, for the sake of the daemon.
	leastWait = 100 * time.Millisecond
	// answerPatience is how long after that a request counts as never answered.
	answerPatience = 10 * time.Second
	// The first pause after a failure, and the longest. The longest must stay
	// below the daemon's patience too.
	firstBackoff, maxBackoff = 250 * time.Millisecond, 5 * time.Second
	// behindPatience is how long replicas may say that they are behind before the
	// filter believes them that what it had is gone.
	behindPatience = 30 * time.Second
	// minPace is the least time between two requests on average, and burst how
	// many may come faster, so that no answer can make the filter spin.
	minPace, burst = 50 * time.Millisecond, 20
)

// poller asks the daemon for policies, always in the context of the VM's
// active plugin. At most one request of it is under way.
type poller struct {
	vm *vm
	// id is this VM's name to the daemon.
	id string

	// tag and revision are of what is in force; tag is empty if nothing is.
	tag, revision string
	// generation tells the answers to a former plugin context's requests apart.
	generation int
	asking     bool
	askedAt    time.Time
	// next is when to ask again, while not asking; zero means never.
	next time.Time
	// contact is when the daemon last confirmed what is in force.
	contact time.Time
	stale   bool
	// failures counts those since the last good answer.
	failures    int
	behindSince time.Time
	// pace is when the bucket of requests was last full.
	pace time.Time
}

// restart begins anew in another plugin context.
func (p *poller) restart() {
	p.generation++
	p.asking = false
	now := p.vm.now()
	p.next = now
	if !p.vm.config.asks() {
		p.next = time.Time{}
	}
	if p.contact.IsZero() {
		p.contact = now
	}
}

// deadline is when tick has something to do.
func (p *poller) deadline() time.Time {
	var at time.Time
	if !p.asking {
		at = p.next
	}
	if p.tag != "" {
		if stale := p.contact.Add(p.vm.config.StaleAfter); at.IsZero() || stale.Before(at) {
			at = stale
		}
	}
	return at
}

func (p *poller) tick() {
	now := p.vm.now()
	if p.tag != "" && now.Sub(p.contact) >= p.vm.config.StaleAfter {
		proxywasm.LogWarnf("hfi: the control plane has not answered for %s: injection stops", p.vm.config.StaleAfter)
		p.tag, p.stale = "", true
		p.vm.enforce(nil)
		p.vm.metrics.set(metricStale, 1)
	}
	if !p.asking && !p.next.IsZero() && !now.Before(p.next) {
		p.try("asking the control plane", func() { p.ask(now) })
	}
}

// try runs f. A panic counts as one more failure, so that the next try comes
// later: the time set for the last one is past, and the daemon may answer at once.
func (p *poller) try(doing string, f func()) {
	if !p.vm.guard(doing, f) {
		p.failed(fmt.Errorf("the filter's own mistake while %s", doing))
	}
}

// wait is how long the daemon may hold a request: little enough that what is
// in force is confirmed long before it counts as stale.
func (p *poller) wait() time.Duration {
	return max(min(askWait, (p.vm.config.StaleAfter/2).Truncate(time.Millisecond)), leastWait)
}

// ask sends a request to the first of the daemon's clusters that there is.
func (p *poller) ask(now time.Time) {
	config, who, wait := &p.vm.config, p.vm.identity, p.wait()
	headers := [][2]string{
		{":method", "GET"},
		{":path", fmt.Sprintf(api.RoutePolicies+"?%s&wait=%s", who.query(), wait)},
		{":authority", headerValue(config.authority())},
		{"accept", "application/json"},
		{api.HeaderNode, headerValue(who.Node)},
		{api.HeaderPod, headerValue(who.Pod)},
		{api.HeaderVM, p.id},
	}
	if p.tag != "" {
		headers = append(headers, [2]string{"if-none-match", p.tag})
	}
	if p.revision != "" {
		headers = append(headers, [2]string{api.HeaderRevision, p.revision})
	}
	p.askedAt = now
	generation := p.generation
	for _, cluster := range config.clusters() {
		if cluster == "" {
			continue
		}
		_, err := proxywasm.DispatchHttpCall(cluster, headers, nil, nil, uint32((wait+answerPatience)/time.Millisecond),
			func(numHeaders, bodySize, _ int) {
				p.vm.guard("after an answer of the control plane", func() { p.answered(generation, numHeaders, bodySize) })
			})
		if err == nil {
			p.asking = true
			return
		}
		if !errors.Is(err, types.ErrorStatusBadArgument) {
			p.failed(fmt.Errorf("asking cluster %q: %w", cluster, err))
			return
		}
	}
	p.failed(fmt.Errorf("this Envoy has no cluster %s: in Istio, a Sidecar resource must let this workload see the control plane's service",
		strings.Join(config.clusters(), " or ")))
}

// answered takes up an answer, and sees to the next request.
func (p *poller) answered(generation, numHeaders, bodySize int) {
	if generation != p.generation {
		return
	}
	p.asking = false
	defer p.vm.arm()
	p.try("reading an answer of the control plane", func() { p.read(numHeaders, bodySize) })
}

func (p *poller) read(numHeaders, bodySize int) {
	p.vm.trap(onAnswer)
	a, err := readAnswer(numHeaders, bodySize)
	if err == nil && a.unchanged && p.tag == "" {
		err = errors.New("status 304 to a request that named nothing to compare with")
	}
	if err != nil {
		p.failed(err)
		return
	}
	hasty := false
	if a.unchanged || a.tag == p.tag {
		hasty = p.vm.now().Sub(p.askedAt) < p.wait()/2
	} else {
		p.takeUp(a)
	}
	p.confirmed()
	p.again(hasty)
}

// confirmed notes that the daemon is there, and that what is in force is what it wants.
func (p *poller) confirmed() {
	p.contact = p.vm.now()
	if p.stale {
		p.stale = false
		p.vm.metrics.set(metricStale, 0)
	}
	p.vm.metrics.add(metricHeartbeats, 1)
	if p.failures > 0 {
		proxywasm.LogInfof("hfi: the control plane answers again, after %d failures", p.failures)
	}
	// Last: a panic above is a failure like those before it.
	p.failures, p.behindSince = 0, time.Time{}
}

func (p *poller) takeUp(a answer) {
	mine, others := p.ours(a.policies)
	bad := append(a.bad, p.vm.enforce(mine)...)
	p.tag, p.revision = a.tag, a.revision
	p.vm.metrics.add(metricUpdates, 1)
	p.vm.metrics.add(metricBadPolicies, uint64(len(bad)))
	proxywasm.LogInfof("hfi: Received config update from control plane: commit %s, %d policies in force, ETag %s",
		a.commit, len(p.vm.program.Policies()), a.tag)
	for _, err := range bad {
		proxywasm.LogWarnf("hfi: a policy is left out: %v", err)
	}
	if len(others) > 0 {
		proxywasm.LogWarnf("hfi: the control plane sent policies that are not for this workload: %s", strings.Join(others, ", "))
	}
	if names := cutDelays(mine, p.vm.config.MaxDelay); len(names) > 0 {
		proxywasm.LogWarnf("hfi: max_delay cuts delays to %s in: %s", p.vm.config.MaxDelay, strings.Join(names, ", "))
	}
}

// ours are the policies that apply to this workload, and the names of those that do not.
func (p *poller) ours(policies []*schema.Policy) (mine []*schema.Policy, others []string) {
	workload := p.vm.identity.workload()
	for _, policy := range policies {
		if selection.Matches(policy.Spec.Selector, workload) {
			mine = append(mine, policy)
		} else {
			others = append(others, policy.Metadata.Name)
		}
	}
	return mine, others
}

func cutDelays(policies []*schema.Policy, most time.Duration) (names []string) {
	for _, policy := range policies {
		for _, rule := range policy.Spec.Rules {
			if time.Duration(rule.Fault.DelayMS)*time.Millisecond > most {
				names = append(names, policy.Metadata.Name)
				break
			}
		}
	}
	return names
}

// again asks at once, unless the answer came for no reason (hasty), or
// requests have come too fast for a while.
func (p *poller) again(hasty bool) {
	now := p.vm.now()
	if hasty {
		p.next = now.Add(p.jitter(time.Second))
		return
	}
	if full := now.Add(-burst * minPace); p.pace.Before(full) {
		p.pace = full
	}
	p.pace = p.pace.Add(minPace)
	if p.next = p.pace; !p.next.After(now) {
		p.ask(now)
	}
}

// failed sets the time of the next try: later with each failure, and never
// at the same moment as others that failed with it.
func (p *poller) failed(err error) {
	now := p.vm.now()
	p.failures++
	backoff := min(firstBackoff<<min(p.failures-1, 10), maxBackoff)
	p.next = now.Add(p.jitter(backoff))
	p.vm.metrics.add(metricPollErrors, 1)
	// The first of an outage, and then ever fewer of them.
	if bits.OnesCount(uint(p.failures)) == 1 {
		proxywasm.LogWarnf("hfi: no policies from the control plane (failure %d): %v", p.failures, err)
	}
	switch {
	case !errors.Is(err, errBehind):
		p.behindSince = time.Time{}
	case p.behindSince.IsZero():
		p.behindSince = now
	case now.Sub(p.behindSince) > behindPatience:
		proxywasm.LogWarnf("hfi: for %s no replica has known revision %s: the filter forgets it", behindPatience, p.revision)
		p.revision, p.behindSince = "", time.Time{}
	}
}

// jitter is a time between half of d and d.
func (p *poller) jitter(d time.Duration) time.Duration {
	half := uint64(d / 2)
	return time.Duration(half + p.vm.random()%half)
}
