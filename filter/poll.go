package main

import (
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

var errNotFound = types.ErrorStatusNotFound

const (
	// maxWait is how long the daemon may hold a request while nothing changes. A
	// filter that has stopped is reported as silent after maxWait and the daemon's
	// grace period between two requests. See poller.wait.
	maxWait = 20 * time.Second
	// minWait limits the rate of requests to the daemon.
	minWait = 100 * time.Millisecond
	// responseTimeout is how long after the wait a request fails.
	responseTimeout = 10 * time.Second
	// The first and the longest backoff after a failure. The longest must be
	// shorter than the daemon's grace period.
	firstBackoff, maxBackoff = 250 * time.Millisecond, 5 * time.Second
	// maxBehind is how long replicas may respond that they are behind before the
	// filter assumes that its revision does not exist any more.
	maxBehind = 30 * time.Second
	// minPace is the minimum average time between two requests, and burst the
	// number of requests that may be faster. No response can cause a busy loop.
	minPace, burst = 50 * time.Millisecond, 20
)

// poller fetches policies for the plugin contexts with one source: from the daemon, or
// from the VM of this Envoy that asks the daemon for all. It has at most one request in
// flight.
type poller struct {
	vm     *vm
	source source
	// in is the plugin context in which it fetches them.
	in uint32
	// share is how it does so for the other VMs of this Envoy too.
	share share

	// program has the policies in force, of both directions. It is never nil.
	program *program.Program
	// tag and revision are those of the policies in force. tag is empty if there
	// are none.
	tag, revision string
	// generation identifies responses to requests of a former plugin context.
	generation int
	asking     bool
	askedAt    time.Time
	// askedWith is the ETag in the request, or empty.
	askedWith string
	// asked is how long the daemon was asked to hold the request.
	asked time.Duration
	// next is the time of the next request, if none is in flight. Zero means never.
	next time.Time
	// confirmedAt is when the daemon last confirmed the policies in force.
	confirmedAt time.Time
	stale       bool
	// failures counts the failures since the last success.
	failures    int
	behindSince time.Time
	// pace is the state of the token bucket: the time when it was last full.
	pace time.Time
}

func newPoller(v *vm, source source) *poller {
	p := &poller{vm: v, source: source, program: new(program.Program)}
	p.share.poll = p
	return p
}

// workload is what policies are selected for.
func (p *poller) workload() selection.Workload { return p.vm.identity.workload(&p.source) }

// enforce puts a program in force.
func (p *poller) enforce(next *program.Program) {
	p.program = next
	for _, plugin := range p.vm.plugins {
		if plugin.poll == p {
			plugin.enforce(next)
		}
	}
	p.vm.compareConfigs()
	p.vm.countPolicies()
}

// restart starts polling in another plugin context.
func (p *poller) restart(in uint32) {
	p.in = in
	p.generation++
	p.asking = false
	now := p.vm.now()
	p.next = now
	if p.confirmedAt.IsZero() {
		p.confirmedAt = now
	}
	p.share.restart(now)
}

// deadline returns when tick has to be called, or zero.
func (p *poller) deadline() time.Time {
	var at time.Time
	if !p.asking && p.share.asks() {
		at = p.next
	}
	if !p.share.alone {
		at = earlier(at, p.share.next)
	}
	if p.tag != "" && p.source.Refused == "" {
		if stale := p.confirmedAt.Add(p.source.StaleAfter); at.IsZero() || stale.Before(at) {
			at = stale
		}
	}
	return at
}

func (p *poller) tick() {
	now := p.vm.now()
	if p.tag != "" && p.source.Refused == "" && now.Sub(p.confirmedAt) >= p.source.StaleAfter {
		proxywasm.LogWarn("hfi: no response from the control plane for " + p.source.StaleAfter.String() + ": fault injection stops")
		p.tag, p.stale = "", true
		p.enforce(new(program.Program))
		p.vm.countStale()
	}
	p.vm.guard("sharing policies", func() { p.share.tick(now) })
	if p.share.asks() && !p.asking && !p.next.IsZero() && !now.Before(p.next) {
		p.try("asking the control plane", func() { p.ask(now) })
	}
}

// try runs f. A panic counts as a failure, so that the next request is delayed by
// the backoff.
func (p *poller) try(doing string, f func()) {
	if !p.vm.guard(doing, f) {
		p.failed(failure("internal error while " + doing))
	}
}

// wait returns how long the daemon may hold a request: short enough that policies
// are confirmed long before they are stale, and that changes of the VMs are reported.
func (p *poller) wait(now time.Time) time.Duration {
	most := maxWait
	if now.Before(p.share.unsettled) {
		most = unsettledWait
	}
	return max(min(most, (p.source.StaleAfter/2).Truncate(time.Millisecond)), minWait)
}

// ask sends a request to the first of the daemon's clusters that exists.
func (p *poller) ask(now time.Time) {
	conditional := p.tag != "" && !p.share.renew
	who, others := p.vm.identity, p.share.report(now, conditional)
	wait := p.wait(now)
	headers := [][2]string{
		{":method", "GET"},
		{":path", api.RoutePolicies + "?" + who.query(p.workload()) + "&wait=" + wait.String()},
		{":authority", headerValue(p.source.authority())},
		{"accept", program.MediaType},
		{api.HeaderNode, headerValue(who.Node)},
		{api.HeaderPod, headerValue(who.Pod)},
		{api.HeaderVM, p.vm.id},
	}
	if who.Envoy != "" {
		headers = append(headers, [2]string{api.HeaderEnvoy, who.Envoy})
	}
	if directions := p.vm.directions(); directions != "" {
		headers = append(headers, [2]string{api.HeaderDirections, directions})
	}
	if why := p.vm.refused(); why != "" {
		headers = append(headers, [2]string{api.HeaderError, headerText(why)})
	}
	p.askedWith = ""
	if conditional {
		p.askedWith = p.tag
		headers = append(headers, [2]string{"if-none-match", p.tag})
	}
	if others != "" {
		headers = append(headers, [2]string{api.HeaderVMs, others})
	}
	if p.revision != "" {
		headers = append(headers, [2]string{api.HeaderRevision, p.revision})
	}
	p.askedAt, p.asked, p.share.gathering = now, wait, false
	generation := p.generation
	for _, cluster := range p.source.clusters() {
		if cluster == "" {
			continue
		}
		_, err := proxywasm.DispatchHttpCall(cluster, headers, nil, nil, uint32((wait+responseTimeout)/time.Millisecond),
			func(numHeaders, bodySize, _ int) {
				p.vm.guard("handling a response of the control plane", func() { p.answered(generation, numHeaders, bodySize) })
			})
		if err == nil {
			p.asking = true
			return
		}
		if err != types.ErrorStatusBadArgument { //nolint:errorlint // the SDK returns it as it is, and errors.Is adds to the module
			p.failed(failure("sending a request to cluster " + quoted(cluster) + ": " + err.Error()))
			return
		}
	}
	if p.source.Refused != "" { // It may not be there at all.
		p.next = time.Time{}
		return
	}
	p.failed(failure("this Envoy has no cluster " + strings.Join(p.source.clusters(), " or ") +
		": in Istio, add the control plane's service to the egress hosts of the Sidecar resource"))
}

// answered handles a response and schedules the next request.
func (p *poller) answered(generation, numHeaders, bodySize int) {
	if generation != p.generation {
		return
	}
	p.asking = false
	defer p.vm.arm()
	if !p.share.asks() {
		return // Another VM has taken over.
	}
	p.try("reading a response of the control plane", func() { p.read(numHeaders, bodySize) })
}

func (p *poller) read(numHeaders, bodySize int) {
	p.vm.trap(onAnswer)
	a, err := readAnswer(numHeaders, bodySize, p.workload())
	if err == nil && a.unchanged && p.askedWith == "" {
		err = failure("status 304 in response to an unconditional request")
	}
	if err != nil {
		p.failed(err)
		return
	}
	if a.unchanged && p.askedWith != p.tag {
		// It confirms policies that are no longer in force: they are stale, or another
		// VM has led meanwhile.
		p.scheduleNext(false)
		return
	}
	early := false
	switch {
	case a.unchanged, a.tag == p.tag:
		early = p.vm.now().Sub(p.askedAt) < p.asked/2
	case p.source.Refused != "":
		// With the tag, the daemon holds the next request until there is a change.
		p.tag, p.revision = a.tag, a.revision
	default:
		p.put(a)
	}
	p.confirmed(p.vm.now())
	if p.failures > 0 {
		proxywasm.LogInfo("hfi: the control plane responds again after " + strconv.Itoa(p.failures) + " failures")
	}
	awaited := p.share.publish(&a)
	// Not before, because a panic above counts as one more failure.
	p.failures, p.behindSince = 0, time.Time{}
	if awaited {
		// The next request reports what they have in force.
		p.share.gathering = true
		p.next = p.vm.now().Add(gatherLimit)
		return
	}
	p.scheduleNext(early)
}

// confirmed records when the daemon confirmed the policies in force.
func (p *poller) confirmed(at time.Time) {
	p.confirmedAt = at
	if p.stale {
		p.stale = false
		p.vm.countStale()
	}
	p.vm.metrics.add(metricHeartbeats, 1)
}

// put puts the policies of an answer in force.
func (p *poller) put(a answer) {
	p.enforce(a.program)
	p.tag, p.revision = a.tag, a.revision
	p.vm.metrics.add(metricUpdates, 1)
	var others, unsupported []string
	for _, part := range []*program.Program{a.program, a.program.Outbound} {
		if part != nil {
			others, unsupported = append(others, part.Others...), append(unsupported, part.Unsupported...)
		}
	}
	p.vm.metrics.add(metricBadPolicies, uint64(len(unsupported)))
	proxywasm.LogInfo("hfi: Received config update from control plane: commit " + a.commit + ", " +
		strconv.Itoa(a.program.InForce()) + " policies in force, ETag " + a.tag)
	warnAbout("hfi: policies that need a newer filter are skipped: ", unsupported)
	warnAbout("hfi: ignoring policies that do not select this workload: ", others)
	for _, plugin := range p.vm.plugins {
		if limit := plugin.config.MaxDelay; plugin.poll == p {
			warnAbout("hfi: delays are limited to max_delay ("+limit.String()+") in policies: ", longDelays(plugin.program, limit))
		}
	}
}

// warnAbout logs a line if there are names.
func warnAbout(what string, names []string) {
	if len(names) > 0 {
		proxywasm.LogWarn(what + strings.Join(names, ", "))
	}
}

// longDelays returns the names of the policies with delays longer than most.
func longDelays(p *program.Program, most time.Duration) (names []string) {
	last := -1
	if p == nil {
		return nil
	}
	for i := range p.Rules {
		if rule := &p.Rules[i]; rule.Share > 0 && rule.Delay > most && rule.Policy != last {
			last = rule.Policy
			names = append(names, p.Policies[last].Name)
		}
	}
	return names
}

// scheduleNext schedules the next request for the next tick, unless the daemon has
// responded early without a change, or the rate of requests is too high. Envoy would open
// another connection for a request that is sent in the callback for a response.
func (p *poller) scheduleNext(early bool) {
	now := p.vm.now()
	if early {
		p.next = now.Add(p.jitter(time.Second))
		return
	}
	if full := now.Add(-burst * minPace); p.pace.Before(full) {
		p.pace = full
	}
	p.pace = p.pace.Add(minPace)
	p.next = p.pace
}

// failed schedules the next request with exponential backoff and jitter.
func (p *poller) failed(err *pollError) {
	now := p.vm.now()
	p.failures++
	backoff := min(firstBackoff<<min(p.failures-1, 10), maxBackoff)
	p.next = now.Add(p.jitter(backoff))
	p.vm.metrics.add(metricPollErrors, 1)
	// Log the first failure of an outage, then the second, fourth, eighth and so on.
	if bits.OnesCount(uint(p.failures)) == 1 {
		proxywasm.LogWarn("hfi: fetching policies from the control plane failed (attempt " + strconv.Itoa(p.failures) + "): " + err.text)
	}
	switch {
	case !err.behind:
		p.behindSince = time.Time{}
	case p.behindSince.IsZero():
		p.behindSince = now
	case now.Sub(p.behindSince) > maxBehind:
		proxywasm.LogWarn("hfi: no replica has had revision " + p.revision + " for " + maxBehind.String() + ": the filter accepts older ones")
		p.revision, p.behindSince = "", time.Time{}
	}
}

// jitter returns a random time between d/2 and d.
func (p *poller) jitter(d time.Duration) time.Duration {
	half := uint64(d / 2)
	return time.Duration(half + p.vm.random()%half)
}
