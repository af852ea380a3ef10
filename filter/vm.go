package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/boifi/hfi/filter/fault"
	"github.com/boifi/hfi/schema"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// vm is the filter in one of Envoy's threads. It has one identity and one set of
// policies. Several plugin contexts share a VM while the listeners of a former
// configuration drain. The one that started last is active: its configuration is
// in force, and it fetches the policies.
type vm struct {
	// random returns random bits, now the time.
	random func() uint64
	now    func() time.Time

	identity *identity
	// plugins are the live plugin contexts. active is the active one, or 0.
	plugins map[uint32]config
	active  uint32
	// config is the configuration of the active plugin context.
	config config

	// policies are the policies in force. program is compiled from them with the
	// limits of config.
	policies []*schema.Policy
	program  *fault.Program
	draws    *fault.Random

	request request
	paused  pauses
	poll    poller
	metrics metrics
}

func newVM(random func() uint64, now func() time.Time) *vm {
	v := &vm{random: random, now: now, plugins: map[uint32]config{}, config: defaultConfig()}
	v.draws = fault.NewRandom(random())
	v.request = request{now: now}
	v.paused = newPauses()
	v.metrics = newMetrics()
	v.poll = poller{vm: v, id: fmt.Sprintf("%016x", random())}
	v.program, _ = fault.Compile(nil, fault.Limits{})
	return v
}

// startPlugin reads the configuration of a new plugin context and activates it.
func (v *vm) startPlugin(id uint32) {
	text, err := proxywasm.GetPluginConfiguration()
	if err != nil && !errors.Is(err, errNotFound) {
		proxywasm.LogErrorf("hfi: reading the configuration: %v", err)
	}
	config, problems := parseConfig(text)
	for _, problem := range problems {
		proxywasm.LogErrorf("hfi: %v", problem)
	}
	v.plugins[id] = config
	v.metrics.byPolicy = config.PolicyTag
	v.metrics.define()
	v.identify()
	if v.identity.TooOld {
		return
	}
	v.activate(id)
	v.arm()
}

// identify reads the identity once.
func (v *vm) identify() {
	if v.identity != nil {
		return
	}
	i := readIdentity()
	v.identity = &i
	proxywasm.LogInfof("hfi: started for %s, vm=%s", i, v.poll.id)
	if i.TooOld {
		proxywasm.LogErrorf("hfi: Envoy %s is not supported: no faults are injected; the filter needs Envoy %d.%d or newer",
			i.Envoy, MinimumEnvoy[0], MinimumEnvoy[1])
	}
	if missing, applies := i.missing(); missing != "" {
		proxywasm.LogWarnf("hfi: the node metadata has no %s: only policies for %s apply", missing, applies)
	}
}

// activate makes a plugin context the active one.
func (v *vm) activate(id uint32) {
	v.active, v.config = id, v.plugins[id]
	v.enforce(v.policies)
	v.poll.restart()
}

// stopPlugin removes a plugin context that Envoy is about to delete.
func (v *vm) stopPlugin(id uint32) {
	delete(v.plugins, id)
	if v.active != id {
		return
	}
	v.active = 0
	for other := range v.plugins {
		v.active = max(v.active, other)
	}
	if v.active == 0 || proxywasm.SetEffectiveContext(v.active) != nil {
		return
	}
	v.activate(v.active)
	v.arm()
	_ = proxywasm.SetEffectiveContext(id)
}

// enforce puts policies in force, and returns an error for each one that cannot be.
// If it panics, nothing has changed.
func (v *vm) enforce(policies []*schema.Policy) []error {
	program, bad := fault.Compile(policies, fault.Limits{MaxDelay: v.config.MaxDelay})
	v.policies, v.program = policies, program
	v.guard("counting policies", func() { v.metrics.set(metricPolicies, uint64(len(policies)-len(bad))) })
	return bad
}

// tick does the work that is due, in a plugin context.
func (v *vm) tick(id uint32) {
	// Even after a panic: the current period may be a millisecond.
	defer v.arm()
	if v.resume() {
		// Calls from here on must not depend on a stream.
		_ = proxywasm.SetEffectiveContext(id)
	}
	if id == v.active {
		v.poll.tick()
	}
}

// arm sets Envoy's tick to the next deadline, or disables it if there is none, so
// that an idle filter costs nothing. The timer is that of the current plugin
// context, or of the current stream's plugin context.
func (v *vm) arm() {
	deadline := v.paused.deadline()
	if at := v.poll.deadline(); deadline.IsZero() || !at.IsZero() && at.Before(deadline) {
		deadline = at
	}
	var period uint32
	if !deadline.IsZero() {
		// Rounded up: an early tick would have to be repeated.
		left := (deadline.Sub(v.now()) + time.Millisecond - 1) / time.Millisecond
		period = uint32(min(max(left, 1), longestTick/time.Millisecond))
	}
	if err := proxywasm.SetTickPeriodMilliSeconds(period); err != nil {
		proxywasm.LogErrorf("hfi: setting the tick period to %d ms: %v", period, err)
	}
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
	proxywasm.LogErrorf("hfi: panic %s: %v", doing, fault)
	v.metrics.add(metricPanics, 1)
}
