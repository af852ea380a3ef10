package oldhost

import (
	"errors"
	"strings"
	"testing"
)

// caller assembles a module that calls a function of WASI with two parameters when it
// starts, and when it allocates memory.
func caller(name string) []byte {
	sized := func(data string) string { return string(rune(len(data))) + data }
	section := func(id, items string) string { return id + sized(items) }
	const call = "\x41\x00\x41\x00\x10\x00\x1a"
	return []byte("\x00asm\x01\x00\x00\x00" +
		section("\x01", "\x03\x60\x00\x00\x60\x02\x7f\x7f\x01\x7f\x60\x01\x7f\x01\x7f") +
		section("\x02", "\x01"+sized("wasi_snapshot_preview1")+sized(name)+"\x00\x01") +
		section("\x03", "\x02\x00\x02") +
		section("\x05", "\x01\x00\x01") +
		section("\x07", "\x03"+sized("_initialize")+"\x00\x01"+sized("proxy_on_memory_allocate")+"\x00\x02"+sized("memory")+"\x02\x00") +
		section("\x0a", "\x02"+sized("\x00"+call+"\x0b")+sized("\x00"+call+"\x41\x20\x0b")))
}

// TestTheHostIsStrict checks that this host refuses what Envoy 1.32 refuses.
func TestTheHostIsStrict(t *testing.T) {
	if err := newHost(t).load(caller("fd_fdstat_set_flags")); err == nil || !strings.Contains(err.Error(), "fd_fdstat_set_flags") {
		t.Errorf("a function that Envoy 1.32 does not have: %v", err)
	}
	if err := newHost(t).load(caller("fd_fdstat_get")); !errors.Is(err, errRestricted) {
		t.Errorf("a function that is not allowed at the start: %v", err)
	}
	h := newHost(t)
	if err := h.load(caller("environ_sizes_get")); err != nil {
		t.Fatal(err)
	}
	h.allowed = duringAllocation
	h.call(0, "proxy_on_memory_allocate", 1)
	if !errors.Is(h.err, errRestricted) {
		t.Errorf("a function that is not allowed during an allocation: %v", h.err)
	}
}
