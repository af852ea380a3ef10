package main

import (
	"strconv"
	"time"

	"github.com/boifi/hfi/filter/fault"
	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/internal/api"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// vm is the filter in one of Envoy's threads. It has one identity. Several plugin
// contexts share a VM if listeners have different configurations of the filter, or
// while those of a former configuration drain.
type vm struct {
	// random returns random bits, now the time.
	random func() uint64
	now    func() time.Time
	// marked reports whether a filter has faulted the current request.
	marked func() bool

	// id identifies this VM to the daemon.
	id       string
	identity *identity
	// plugins are the live plugin contexts, in the order of their start.
	plugins []*plugin

	// records reports that the plugins have different configurations, and that some
	// policy may apply. Then the plugin context of each stream that begins is in owners.
	records bool
	owners  map[uint32]*plugin
	// common is the plugin context of all streams that are not in owners. It is nil if they
	// may have different ones: then they get no faults. These are few, because usually a
	// request is decided on as soon as its stream begins.
	common *plugin

	draws   *fault.Random
	request request
	// hits has no items. It is the memory for those of a decision.
	hits    []fault.Hit
	paused  pauses
	metrics metrics
	// writeAt is when the faults counted in metrics are written, or zero.
	writeAt time.Time
	// stale reports that the policies of some plugin are stale.
	stale bool
}

// plugin is a plugin context: the filter with one configuration.
type plugin struct {
	id     uint32
	config config
	// poll fetches the policies of this and of all other plugins with the same source.
	poll *poller
	// program is the part of the poller's that is for this plugin's requests, or nil if
	// it has no such policies.
	program *program.Program
}

// enforce puts the part of a program that is for this plugin's requests in force.
func (p *plugin) enforce(next *program.Program) {
	p.program = next
	if p.config.Outbound {
		p.program = next.Outbound
	}
}

func newVM(random func() uint64, now func() time.Time) *vm {
	return &vm{
		random:  random,
		now:     now,
		marked:  marked,
		draws:   fault.NewRandom(random()),
		id:      hex(random()),
		owners:  map[uint32]*plugin{},
		request: request{now: now},
		hits:    make([]fault.Hit, 0, 8),
		paused:  newPauses(),
		metrics: newMetrics(),
	}
}

// hex returns 16 digits.
func hex(n uint64) string {
	var text [16]byte
	for i := range text {
		text[i] = "0123456789abcdef"[n>>(60-4*i)&0xf]
	}
	return string(text[:])
}

// startPlugin reads the configuration of a new plugin context and adds it.
func (v *vm) startPlugin(id uint32) {
	text, err := proxywasm.GetPluginConfiguration()
	if err != nil && err != errNotFound { //nolint:errorlint // the SDK returns it as it is, and errors.Is adds to the module
		proxywasm.LogError("hfi: reading the configuration: " + err.Error())
	}
	config, problems := parseConfig(text)
	for _, problem := range problems {
		proxywasm.LogError("hfi: " + problem.Error())
	}
	v.metrics.define(config.PolicyTag)
	v.identify()
	if v.identity.TooOld {
		config.refuse(v.identity.tooOld())
	}
	if config.OfGateway && config.Refused == "" && v.identity.workload(&config.source).Gateway == "" {
		const why = "setting direction: \"gateway\" and this Envoy is no gateway: no faults are injected"
		proxywasm.LogError("hfi: " + why)
		config.refuse(why)
	}
	v.stopPlugin(id) // if Envoy configures it once more
	v.addPlugin(id, config)
}

// addPlugin adds a plugin context, and has its policies fetched.
func (v *vm) addPlugin(id uint32, config config) {
	var poll *poller
	for _, p := range v.plugins {
		if p.config.source == config.source {
			poll = p.poll
		}
	}
	if poll == nil {
		poll = newPoller(v, config.source)
		if missing, applies := missing(poll.workload()); missing != "" {
			proxywasm.LogWarn("hfi: the node metadata has no " + missing + ": only policies for " + applies + " apply")
		}
	}
	added := &plugin{id: id, config: config, poll: poll}
	added.enforce(poll.program)
	v.plugins = append(v.plugins, added)
	v.compareConfigs()
	v.countPolicies()
	poll.restart(id)
	v.arm()
}

// compareConfigs sets records and common, after any change of the plugins or of the policies in force.
func (v *vm) compareConfigs() {
	mixed := false
	for _, p := range v.plugins {
		mixed = mixed || p.config != v.plugins[0].config
	}
	v.records = mixed && v.active()
	switch {
	case mixed && !v.records:
		v.common = nil
	case !mixed && len(v.plugins) > 0:
		v.common = v.plugins[0]
	}
}

// active reports whether some policy may apply.
func (v *vm) active() bool {
	for _, p := range v.plugins {
		if !p.program.Idle() {
			return true
		}
	}
	return false
}

// startStream records the plugin context of a new stream, if it matters.
func (v *vm) startStream(id, plugin uint32) {
	for _, p := range v.plugins {
		if v.records && p.id == plugin {
			v.owners[id] = p
		}
	}
}

// owner returns the plugin context of a stream, or nil if it is not known.
func (v *vm) owner(stream uint32) *plugin {
	if p, ok := v.owners[stream]; ok {
		return p
	}
	return v.common
}

// identify reads the identity once.
func (v *vm) identify() {
	if v.identity != nil {
		return
	}
	i := readIdentity()
	v.identity = &i
	v.request.domain = i.domain()
	proxywasm.LogInfo("hfi: started for " + i.String() + ", vm=" + v.id)
	if i.TooOld {
		proxywasm.LogError("hfi: " + i.tooOld())
	}
}

// stopPlugin removes a plugin context that Envoy is about to delete. If it was the one
// that fetched the policies of others too, another one continues.
func (v *vm) stopPlugin(id uint32) {
	var stopped *plugin
	rest := v.plugins[:0]
	for _, p := range v.plugins {
		if p.id == id {
			stopped = p
		} else {
			rest = append(rest, p)
		}
	}
	v.plugins = rest
	if stopped == nil {
		return
	}
	v.writeFaults() // the tick that would do it may be that of the plugin context
	v.compareConfigs()
	v.countPolicies()
	v.countStale()
	poll := stopped.poll
	if poll.in != id {
		return
	}
	poll.generation++ // no response to its request counts
	for _, p := range rest {
		if p.poll == poll && proxywasm.SetEffectiveContext(p.id) == nil {
			poll.restart(p.id)
			v.arm()
			_ = proxywasm.SetEffectiveContext(id)
			return
		}
	}
	v.guard("leaving the other VMs", poll.share.leave)
}

// queueReady handles a note in a queue of this VM.
func (v *vm) queueReady(queue uint32) {
	defer v.arm()
	for _, p := range v.plugins {
		if share := &p.poll.share; share.joined && share.queue == queue {
			share.woken()
			return
		}
	}
}

// directions returns the directions of the plugin contexts that inject faults, for
// api.HeaderDirections, or "" if there is inbound alone.
func (v *vm) directions() string {
	var inbound, outbound bool
	for _, p := range v.plugins {
		switch {
		case p.config.Refused != "":
		case p.config.Outbound:
			outbound = true
		default:
			inbound = true
		}
	}
	switch {
	case inbound && outbound:
		return api.DirectionInbound + "," + api.DirectionOutbound
	case outbound:
		return api.DirectionOutbound
	}
	return ""
}

// refused returns why the first plugin context that injects no faults does so, or "". To the daemon
// the VM is one, so each of its requests says this.
func (v *vm) refused() string {
	for _, p := range v.plugins {
		if p.config.Refused != "" {
			return p.config.Refused
		}
	}
	return ""
}

// countPolicies sets the metric to the number of policies in force: the most that are
// in any plugin context.
func (v *vm) countPolicies() {
	most := 0
	for _, p := range v.plugins {
		most = max(most, p.poll.program.InForce())
	}
	v.guard("counting policies", func() { v.metrics.set(metricPolicies, uint64(most)) })
}

// countStale sets the metric if it has changed: all VMs share it, and one without stale
// policies must not overwrite another's.
func (v *vm) countStale() {
	var stale bool
	var value uint64
	for _, p := range v.plugins {
		if p.poll.stale {
			stale, value = true, 1
		}
	}
	if stale != v.stale {
		v.stale = stale
		v.metrics.set(metricStale, value)
	}
}

// tick does the work that is due, in a plugin context.
func (v *vm) tick(id uint32) {
	// Even after a panic: the current period may be a millisecond.
	defer v.arm()
	if v.resume() {
		// Calls from here on must not depend on a stream.
		_ = proxywasm.SetEffectiveContext(id)
	}
	if !v.writeAt.IsZero() && !v.now().Before(v.writeAt) {
		v.writeFaults()
	}
	for _, p := range v.plugins {
		if p.id == id && p.poll.in == id {
			p.poll.tick()
		}
	}
}

// arm sets Envoy's tick to the next deadline, or disables it if there is none, so
// that an idle filter costs nothing. The timer is that of the current plugin
// context, or of the current stream's plugin context.
func (v *vm) arm() {
	deadline := earlier(v.paused.deadline(), v.writeAt)
	for _, p := range v.plugins {
		deadline = earlier(deadline, p.poll.deadline())
	}
	var period uint32
	if !deadline.IsZero() {
		// Rounded up: an early tick would have to be repeated.
		left := (deadline.Sub(v.now()) + time.Millisecond - 1) / time.Millisecond
		period = uint32(min(max(left, 1), longestTick/time.Millisecond))
	}
	if err := proxywasm.SetTickPeriodMilliSeconds(period); err != nil {
		proxywasm.LogError("hfi: setting the tick period to " + strconv.Itoa(int(period)) + " ms: " + err.Error())
	}
}

// earlier returns the earlier of two times, of which either may be zero.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// guard runs f, and counts and logs a panic. Without it Envoy would fail the
// current requests and disable the filter for good. It reports whether f returned
// without a panic.
func (v *vm) guard(doing string, f func()) (ended bool) {
	defer func() {
		if fault := recover(); fault != nil {
			v.panicked(doing, fault)
		}
	}()
	f()
	return true
}

func (v *vm) panicked(doing string, fault any) {
	// Logging or counting may itself have panicked.
	defer func() { _ = recover() }()
	proxywasm.LogError("hfi: panic " + doing + ": " + textOf(fault))
	v.metrics.add(metricPanics, 1)
}

// textOf describes the value of a panic, usually a runtime.Error or a string.
func textOf(fault any) string {
	switch fault := fault.(type) {
	case error:
		return fault.Error()
	case string:
		return fault
	}
	return "a value of another type"
}
