package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/boifi/hfi/filter/fault"
	"github.com/boifi/hfi/schema"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// vm is the filter in one of Envoy's threads: one identity, one set of
// policies. Several plugin contexts can share a VM, and do so for as long as
// the listeners of a former configuration drain; the one that started last
// has its configuration in force and asks the daemon for all of them.
type vm struct {
	// random gives random bits; now the time. Both are the VM's own.
	random func() uint64
	now    func() time.Time

	identity *identity
	// plugins are the live plugin contexts; active is the one in charge, 0 if there is none.
	plugins map[uint32]config
	active  uint32
	// config is the active plugin's.
	config config

	// policies are this workload's; they are in force, compiled as program with
	// config's limits.
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

// startPlugin takes up a plugin context's configuration.
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

// identify reads who this is, once.
func (v *vm) identify() {
	if v.identity != nil {
		return
	}
	i := readIdentity()
	v.identity = &i
	proxywasm.LogInfof("hfi: this filter is of %s, vm=%s", i, v.poll.id)
	if i.TooOld {
		proxywasm.LogErrorf("hfi: Envoy %s is older than %d.%d, which this filter needs: it injects nothing",
			i.Envoy, MinimumEnvoy[0], MinimumEnvoy[1])
	}
	if missing, applies := i.missing(); missing != "" {
		proxywasm.LogWarnf("hfi: the node's metadata has no %s: only policies for %s apply", missing, applies)
	}
}

// activate puts a plugin context in charge.
func (v *vm) activate(id uint32) {
	v.active, v.config = id, v.plugins[id]
	v.enforce(v.policies)
	v.poll.restart()
}

// stopPlugin forgets a plugin context that Envoy is about to delete.
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

// enforce puts policies in force, and gives those that cannot be. If it
// panics, nothing has changed.
func (v *vm) enforce(policies []*schema.Policy) []error {
	program, bad := fault.Compile(policies, fault.Limits{MaxDelay: v.config.MaxDelay})
	v.policies, v.program = policies, program
	v.guard("counting policies", func() { v.metrics.set(metricPolicies, uint64(len(policies)-len(bad))) })
	return bad
}

// tick does what is due, in a plugin context.
func (v *vm) tick(id uint32) {
	// Whatever breaks meanwhile: the last period may have been a millisecond.
	defer v.arm()
	if v.resume() {
		// What is called from here on must not hang on a stream.
		_ = proxywasm.SetEffectiveContext(id)
	}
	if id == v.active {
		v.poll.tick()
	}
}

// arm asks Envoy for a tick at the next deadline, for none if nothing is to
// come: an idle filter costs nothing. The timer is that of the plugin context
// at work, or of the stream's at work.
func (v *vm) arm() {
	deadline := v.paused.deadline()
	if at := v.poll.deadline(); deadline.IsZero() || !at.IsZero() && at.Before(deadline) {
		deadline = at
	}
	var period uint32
	if !deadline.IsZero() {
		// Rounded up: a tick before its time would have to be asked for again.
		left := (deadline.Sub(v.now()) + time.Millisecond - 1) / time.Millisecond
		period = uint32(min(max(left, 1), longestTick/time.Millisecond))
	}
	if err := proxywasm.SetTickPeriodMilliSeconds(period); err != nil {
		proxywasm.LogErrorf("hfi: setting the tick to %d ms: %v", period, err)
	}
}

// guard runs f, and counts and logs a panic: Envoy would answer a trap by
// failing the requests at hand and by leaving the filter out for good. It says
// whether f came to its end.
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
	// What panicked may be the logging or the counting itself.
	defer func() { _ = recover() }()
	proxywasm.LogErrorf("hfi: panic %s: %v", doing, fault)
	v.metrics.add(metricPanics, 1)
}
