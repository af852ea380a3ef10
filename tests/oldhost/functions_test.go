package oldhost

import (
	"crypto/rand"
	"encoding/binary"
	"strings"
	"time"
)

// function is one of the host. One that the filter does not call has no call.
type function struct {
	// name is that of WASI, or begins with "env.".
	name string
	// parameters and results are i for i32 and l for i64.
	parameters, results string
	call                func(h *host, a []uint64) uint32
}

// The results of functions in env.
const (
	statusOK = iota
	statusNotFound
	statusBadArgument
	statusEmpty       = 7
	statusCasMismatch = 8
)

// wasiInvalid and wasiNotSupported are results of functions of WASI.
const (
	wasiInvalid      = 28
	wasiNotSupported = 58
)

// maxRandom is the most bytes of one random_get.
const maxRandom = 64 << 10

// began is the beginning of the monotonic clock.
var began = time.Now()

// functions are all that a module for proxy-wasm 0.2.0 can import in Envoy 1.32.
// (It has those of WASI as wasi_unstable too.)
var functions = []function{
	{"env.pthread_equal", "ii", "i", nil},
	{"env.emscripten_notify_memory_growth", "i", "", nil},
	{"env.proxy_log", "iii", "i", func(h *host, a []uint64) uint32 {
		h.log = append(h.log, string(h.bytes(a[1], a[2])))
		return statusOK
	}},
	{"env.proxy_get_status", "iii", "i", nil},
	{"env.proxy_set_property", "iiii", "i", func(h *host, a []uint64) uint32 {
		c := h.effectiveContext()
		if c == nil || c.parent == 0 {
			return statusNotFound
		}
		c.marks[string(h.bytes(a[0], a[1]))] = string(h.bytes(a[2], a[3]))
		return statusOK
	}},
	{"env.proxy_get_property", "iiii", "i", func(h *host, a []uint64) uint32 {
		path := strings.ReplaceAll(strings.TrimSuffix(string(h.bytes(a[0], a[1])), "\x00"), "\x00", ".")
		value, ok := h.properties[path]
		if name, ofRequest := strings.CutPrefix(path, "request.headers."); ofRequest && h.effectiveContext() != nil {
			value = header(h.effectiveContext().headers, name)
			ok = value != ""
		}
		if !ok {
			return statusNotFound
		}
		return h.give([]byte(value), a[2], a[3])
	}},
	{"env.proxy_send_local_response", "iiiiiiii", "i", func(h *host, a []uint64) uint32 {
		c := h.effectiveContext()
		c.response = &response{status: uint32(a[0]), body: string(h.bytes(a[3], a[4])), headers: pairs(h.bytes(a[5], a[6])), at: time.Now()}
		return statusOK
	}},
	{"env.proxy_get_shared_data", "iiiii", "i", func(h *host, a []uint64) uint32 {
		value, ok := h.shared[string(h.bytes(a[0], a[1]))]
		if !ok {
			return statusNotFound
		}
		h.set32(a[4], value.version)
		return h.give(value.data, a[2], a[3])
	}},
	{"env.proxy_set_shared_data", "iiiii", "i", func(h *host, a []uint64) uint32 {
		name := string(h.bytes(a[0], a[1]))
		value := h.shared[name]
		if value.version != 0 && a[4] != 0 && uint32(a[4]) != value.version {
			return statusCasMismatch
		}
		h.shared[name] = sharedValue{h.bytes(a[2], a[3]), value.version + 1}
		return statusOK
	}},
	{"env.proxy_register_shared_queue", "iii", "i", func(h *host, a []uint64) uint32 {
		const token = 1 // There is one VM, and so one queue, in which nobody puts anything.
		h.set32(a[2], token)
		return statusOK
	}},
	{"env.proxy_resolve_shared_queue", "iiiii", "i", nil},
	{"env.proxy_dequeue_shared_queue", "iii", "i", func(*host, []uint64) uint32 { return statusEmpty }},
	{"env.proxy_enqueue_shared_queue", "iii", "i", nil},
	{"env.proxy_get_header_map_value", "iiiii", "i", func(h *host, a []uint64) uint32 {
		const ofRequest = 0
		c := h.effectiveContext()
		if a[0] != ofRequest || c == nil || c.headers == nil {
			return statusBadArgument
		}
		name := strings.ToLower(string(h.bytes(a[1], a[2])))
		for _, pair := range c.headers {
			if pair[0] == name {
				return h.give([]byte(pair[1]), a[3], a[4])
			}
		}
		return statusNotFound
	}},
	{"env.proxy_add_header_map_value", "iiiii", "i", nil},
	{"env.proxy_replace_header_map_value", "iiiii", "i", nil},
	{"env.proxy_remove_header_map_value", "iii", "i", nil},
	{"env.proxy_get_header_map_pairs", "iii", "i", func(h *host, a []uint64) uint32 {
		const ofCall = 6
		if a[0] != ofCall || h.answer == nil {
			return h.give(encode(nil), a[1], a[2])
		}
		return h.give(encode(h.answer.headers), a[1], a[2])
	}},
	{"env.proxy_set_header_map_pairs", "iii", "i", nil},
	{"env.proxy_get_header_map_size", "ii", "i", nil},
	{"env.proxy_get_buffer_status", "iii", "i", nil},
	{"env.proxy_get_buffer_bytes", "iiiii", "i", func(h *host, a []uint64) uint32 {
		const ofCall, ofVM, ofPlugin = 4, 6, 7
		var data []byte
		switch {
		case a[0] == ofCall && h.answer != nil:
			data = h.answer.body
		case a[0] == ofVM:
		case a[0] == ofPlugin:
			data = []byte(h.configuration)
		default:
			return statusNotFound
		}
		if a[1] > uint64(len(data)) {
			return statusBadArgument
		}
		data = data[a[1]:]
		return h.give(data[:min(a[2], uint64(len(data)))], a[3], a[4])
	}},
	{"env.proxy_set_buffer_bytes", "iiiii", "i", nil},
	{"env.proxy_http_call", "iiiiiiiiii", "i", func(h *host, a []uint64) uint32 {
		base, ok := h.clusters[string(h.bytes(a[0], a[1]))]
		headers := pairs(h.bytes(a[2], a[3]))
		if !ok || header(headers, ":method") == "" || header(headers, ":path") == "" || header(headers, ":authority") == "" {
			return statusBadArgument
		}
		h.set32(a[9], h.ask(h.root(h.effectiveContext()).id, base, headers, time.Duration(a[8])*time.Millisecond))
		return statusOK
	}},
	{"env.proxy_grpc_call", "iiiiiiiiiiii", "i", nil},
	{"env.proxy_grpc_stream", "iiiiiiiii", "i", nil},
	{"env.proxy_grpc_close", "i", "i", nil},
	{"env.proxy_grpc_cancel", "i", "i", nil},
	{"env.proxy_grpc_send", "iiii", "i", nil},
	{"env.proxy_set_tick_period_milliseconds", "i", "i", func(h *host, a []uint64) uint32 {
		root := h.root(h.effectiveContext())
		root.period, root.tick = time.Duration(a[0])*time.Millisecond, time.Time{}
		if root.period > 0 {
			root.tick = time.Now().Add(root.period)
		}
		return statusOK
	}},
	{"env.proxy_get_current_time_nanoseconds", "i", "i", nil},
	{"env.proxy_define_metric", "iiii", "i", func(h *host, a []uint64) uint32 {
		name := string(h.bytes(a[1], a[2]))
		id, ok := h.metricNames[name]
		if !ok {
			id = uint32(len(h.metricNames))<<2 | uint32(a[0]) + 4
			h.metricNames[name], h.metrics[id] = id, &metric{name: name}
		}
		h.set32(a[3], id)
		return statusOK
	}},
	{"env.proxy_increment_metric", "il", "i", func(h *host, a []uint64) uint32 {
		const kind, counter = 3, 0
		m := h.metrics[uint32(a[0])]
		if m == nil {
			return statusNotFound
		}
		if a[0]&kind == counter && int64(a[1]) <= 0 {
			return statusBadArgument
		}
		m.value += int64(a[1])
		return statusOK
	}},
	{"env.proxy_record_metric", "il", "i", func(h *host, a []uint64) uint32 {
		m := h.metrics[uint32(a[0])]
		if m == nil {
			return statusNotFound
		}
		m.value = int64(a[1])
		return statusOK
	}},
	{"env.proxy_get_metric", "ii", "i", nil},
	{"env.proxy_set_effective_context", "i", "i", func(h *host, a []uint64) uint32 {
		if h.contexts[uint32(a[0])] == nil {
			return statusBadArgument
		}
		h.effective = uint32(a[0])
		return statusOK
	}},
	{"env.proxy_done", "", "i", nil},
	{"env.proxy_call_foreign_function", "iiiiii", "i", nil},
	{"env.proxy_continue_stream", "i", "i", func(h *host, a []uint64) uint32 {
		const ofRequest = 0
		c := h.effectiveContext()
		if a[0] != ofRequest {
			return statusBadArgument
		}
		h.after = append(h.after, func() { c.paused, c.resumed = false, time.Now() })
		return statusOK
	}},
	{"env.proxy_close_stream", "i", "i", nil},

	{"fd_write", "iiii", "i", func(h *host, a []uint64) uint32 {
		var text strings.Builder
		for i := range a[2] {
			part := h.bytes(a[1]+8*i, 8)
			text.Write(h.bytes(uint64(binary.LittleEndian.Uint32(part)), uint64(binary.LittleEndian.Uint32(part[4:]))))
		}
		h.log = append(h.log, strings.TrimSuffix(text.String(), "\n"))
		h.set32(a[3], uint32(text.Len()))
		return statusOK
	}},
	{"fd_read", "iiii", "i", nil},
	{"fd_seek", "ilii", "i", nil},
	{"fd_close", "i", "i", nil},
	{"fd_fdstat_get", "ii", "i", nil},
	{"environ_get", "ii", "i", nil},
	{"environ_sizes_get", "ii", "i", func(h *host, a []uint64) uint32 {
		h.set32(a[0], 0)
		h.set32(a[1], 0)
		return statusOK
	}},
	{"args_get", "ii", "i", nil},
	{"args_sizes_get", "ii", "i", func(h *host, a []uint64) uint32 {
		h.set32(a[0], 0)
		h.set32(a[1], 0)
		return statusOK
	}},
	{"clock_time_get", "ili", "i", func(h *host, a []uint64) uint32 {
		now := time.Now().UnixNano()
		switch a[0] {
		case 0:
		case 1:
			now = int64(time.Since(began)) + 1
		default:
			return wasiNotSupported
		}
		h.memory.WriteUint64Le(uint32(a[2]), uint64(now))
		return statusOK
	}},
	{"random_get", "ii", "i", func(h *host, a []uint64) uint32 {
		if a[1] > maxRandom {
			return wasiInvalid
		}
		data := make([]byte, a[1])
		_, _ = rand.Read(data)
		h.memory.Write(uint32(a[0]), data)
		return statusOK
	}},
	{"proc_exit", "i", "", nil},
	{"path_open", "iiiiillii", "i", nil},
	{"fd_prestat_get", "ii", "i", nil},
	{"fd_prestat_dir_name", "iii", "i", nil},
}
