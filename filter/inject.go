package main

import (
	"strings"
	"time"

	"github.com/boifi/hfi/filter/fault"
	"github.com/boifi/hfi/filter/program"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// requestHeaders decides on a request. If anything fails, the request continues.
func (v *vm) requestHeaders(id uint32) (action types.Action) {
	defer func() {
		if fault := recover(); fault != nil {
			v.panicked("on a request", fault)
			v.streamDone(id)
			action = types.ActionContinue
		}
	}()
	v.request.path, v.request.to.read, v.request.in.read = "", false, false // those of the request before
	plugin := v.owner(id)
	if plugin == nil || plugin.program.Idle() {
		return types.ActionContinue
	}
	v.trap(onRequest)
	decision := fault.Decide(plugin.program, &v.request, v.draws, fault.Limits{MaxDelay: plugin.config.MaxDelay}, v.hits)
	if decision.Delay == 0 && decision.Abort == nil && len(decision.DryRun) == 0 || v.exempt(&plugin.config) {
		return types.ActionContinue
	}
	for _, hit := range decision.DryRun {
		kind := dryRunDelays
		if hit.Kind == fault.KindAbort {
			kind = dryRunAborts
		}
		v.count(kind, plugin.program.Policies[hit.Policy].Name, plugin)
	}
	switch {
	case (decision.Delay > 0 || decision.Abort != nil) && v.marked():
		// The chain has the filter twice, as for a moment while one plugin replaces another.
		return types.ActionContinue
	case decision.Delay > 0:
		v.pause(id, plugin, &decision)
		return types.ActionPause
	case decision.Abort != nil:
		mark("abort=" + decision.AbortPolicy)
		return v.abort(plugin, decision.Abort, decision.AbortPolicy)
	}
	return types.ActionContinue
}

// count counts a fault. It does not panic, so that the fault is injected in any case.
func (v *vm) count(kind faultKind, policy string, plugin *plugin) {
	v.guard("counting a fault", func() {
		first := v.metrics.fault(kind, policy, plugin.config.PolicyTag)
		switch {
		case len(v.metrics.faults) >= maxFaults:
			v.writeFaults()
		case first:
			v.writeAt = v.now().Add(writeFaultsAfter)
			v.arm()
		}
	})
}

// writeFaults writes what count has counted.
func (v *vm) writeFaults() {
	v.writeAt = time.Time{}
	v.guard("counting faults", func() {
		if text := v.metrics.writeFaults(); text != "" {
			proxywasm.LogDebug("hfi: faults since the last such line: " + text)
		}
	})
}

// pause pauses a request until its delay has passed.
func (v *vm) pause(id uint32, plugin *plugin, decision *fault.Decision) {
	what := "delay=" + decision.DelayPolicy
	if decision.Abort != nil {
		what += ";abort=" + decision.AbortPolicy
	}
	mark(what)
	v.count(delays, decision.DelayPolicy, plugin)
	v.paused.add(&pausedStream{
		id: id, plugin: plugin, due: v.now().Add(decision.Delay),
		// A part of the text of the whole program, which may be replaced during the delay.
		abort: decision.Abort, policy: strings.Clone(decision.AbortPolicy),
	})
	v.metrics.paused(1)
	v.arm()
}

// resume ends the delays that have passed, and reports whether there were any. If
// so, it leaves the effective context set to one of the streams.
func (v *vm) resume() (any bool) {
	for {
		stream := v.paused.next(v.now())
		if stream == nil {
			return any
		}
		any = true
		v.guard("at the end of a delay", func() { v.finish(stream) })
		v.guard("counting the end of a delay", func() { v.metrics.paused(-1) })
	}
}

// finish ends a stream's delay. The stream is not in v.paused any more, so nothing
// before its resumption may panic.
func (v *vm) finish(stream *pausedStream) {
	if err := proxywasm.SetEffectiveContext(stream.id); err != nil {
		return // The stream has ended without a callback.
	}
	action := types.ActionContinue
	v.guard("aborting a request after its delay", func() {
		v.trap(onDelayEnd)
		if stream.abort != nil {
			action = v.abort(stream.plugin, stream.abort, stream.policy)
		}
	})
	if action == types.ActionPause {
		return
	}
	if err := proxywasm.ResumeHttpRequest(); err != nil {
		proxywasm.LogError("hfi: resuming a request: " + err.Error())
	}
}

// abort sends a response in place of the upstream's. It does not panic after that,
// because the request must not continue.
func (v *vm) abort(plugin *plugin, abort *program.Abort, policy string) types.Action {
	headers := abort.Headers
	if plugin.config.FaultHeader {
		headers = append(headers[:len(headers):len(headers)], [2]string{"x-hfi-fault", policy})
	}
	status, body := httpStatus(abort), abort.Body
	if status == 204 || status == 304 {
		// These have no body (RFC 9110, 6.4.1). Envoy would send it, and the client
		// would read it as the next response.
		body = nil
	}
	if err := proxywasm.SendHttpResponse(uint32(status), headers, body, int32(abort.GRPCStatus)); err != nil {
		proxywasm.LogError("hfi: aborting a request by policy " + policy + ": " + err.Error())
		return types.ActionContinue
	}
	v.count(aborts, policy, plugin)
	return types.ActionPause
}

// streamDone is called when a stream ends.
func (v *vm) streamDone(id uint32) {
	delete(v.owners, id)
	if _, paused := v.paused.streams[id]; !paused {
		return
	}
	v.guard("at the end of a stream", func() {
		v.paused.forget(id)
		v.metrics.paused(-1)
	})
}

// marked reports whether a filter has recorded a fault in the stream's filter state.
func marked() bool {
	_, err := proxywasm.GetProperty([]string{faultProperty})
	return err == nil
}

// faultProperty is shared by all Wasm filters of a stream.
const faultProperty = "hfi_fault"

// mark records the fault in the stream's filter state, where access logs can read
// it as wasm.hfi_fault.
func mark(what string) {
	if err := proxywasm.SetProperty([]string{faultProperty}, []byte(what)); err != nil {
		proxywasm.LogError("hfi: setting the filter state of a request: " + err.Error())
	}
}

var _ fault.Request = (*request)(nil)

// writeFaultsAfter is how long after a fault it is in the metrics at the latest. Users of
// the metrics may rely on a second.
const writeFaultsAfter = 200 * time.Millisecond

// longestTick is the longest tick period, within the range of Envoy's timer.
const longestTick = time.Hour
