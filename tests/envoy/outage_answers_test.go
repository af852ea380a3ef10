package envoy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// outage is one kind of failure of a control plane.
type outage struct {
	what string
	// answer handles each request; nil means that connections are refused.
	answer func(http.ResponseWriter, *http.Request)
	// silent means that filters get no response, so they count no error before their timeout.
	silent bool
}

// emptySet would end every fault if a filter applied it.
var emptySet = envoytest.MustProgram(`{"policies":[]}`)

// outageType is the header of a response with a program.
var outageType = "Content-Type: " + program.MediaType + "\r\n"

var outages = []outage{
	{what: "refuses connections"},
	{what: "responds with 500", answer: outageStatus(500, "no")},
	{what: "responds with 503 as hfid does", answer: outageStatus(503, `{"error":{"code":"not_ready","message":"there is no verified set of policies yet"}}`)},
	{what: "responds with 404", answer: outageStatus(404, "not here")},
	{what: "responds with 200 without an ETag", answer: outageBody(http.Header{"Content-Type": {program.MediaType}}, emptySet)},
	{what: "responds with a web page", answer: outageBody(http.Header{"Etag": {`"v1:bad"`}}, "<html>Welcome!</html>")},
	{what: "responds with JSON, as an older one", answer: outageBody(http.Header{"Etag": {`"v1:bad"`}, "Content-Type": {"application/json"}}, `{"policies":[]}`)},
	{what: "responds with something other than a program", answer: outageBody(outageTagged(), "hfi")},
	{what: "responds with a damaged program", answer: outageBody(outageTagged(), emptySet+"\x03\xff")},
	{what: "does not speak HTTP", answer: outageRaw("220 mail.example.com ESMTP ready\r\n")},
	{what: "closes the connection in the body", answer: outageRaw("HTTP/1.1 200 OK\r\nETag: \"half\"\r\nContent-Length: 1000\r\n" + outageType + "\r\n" + emptySet)},
	{what: "closes the connection in a chunk", answer: outageRaw("HTTP/1.1 200 OK\r\nETag: \"half\"\r\nTransfer-Encoding: chunked\r\n" + outageType + "\r\n" + fmt.Sprintf("%x\r\n", len(emptySet)) + emptySet + "\r\n")},
	{what: "closes the connection in the headers", answer: outageRaw("HTTP/1.1 200 OK\r\nETag: \"half\"\r\nContent-")},
	{what: "announces less than it sends", answer: outageRaw("HTTP/1.1 200 OK\r\nETag: \"less\"\r\nContent-Length: 10\r\n" + outageType + "\r\n" + emptySet)},
	{what: "responds with 500 and a long body", answer: outageStatus(500, strings.Repeat("x", 1<<20))},
	{what: "responds with 6 MB", answer: outageLong(6_000_000, true)},
	{what: "responds with 50 MB", answer: outageLong(50_000_000, true)},
	{what: "responds with 50 MB without announcing it", answer: outageLong(50_000_000, false)},
	{what: "never responds", answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, silent: true},
	{what: "responds byte by byte", answer: outageDrip, silent: true},
}

// Whatever the control plane responds, no request fails that a policy does not
// abort, and the policies in force stay in force. Once the control plane works
// again its policies arrive, without a burst of requests.
func TestOutagesOfTheControlPlaneFailNoRequest(t *testing.T) {
	t.Parallel()
	control := outageStart(t)
	upstream := envoytest.RunUpstream(t)
	const vms = 3
	e := &sidecar{name: "frontend-1", vms: vms, Envoy: envoytest.Run(t, envoytest.Config{
		Node: envoytest.Workload("frontend", "demo", "frontend-1"), Concurrency: vms - 1,
		Clusters:  []envoytest.Cluster{{Name: "upstream", Address: upstream.Address}, {Name: "daemon", Address: control.address}},
		Listeners: []envoytest.Listener{{Filters: []envoytest.Filter{filter(t, settings())}}},
	})}
	inForce := func(when, tag string) {
		t.Helper()
		await(t, when+", "+tag+" in force in each VM", func() bool { return e.has("hfi", tag) })
	}
	inForce("at the start", `"v1:1"`)
	initial, err := e.Memory()
	if err != nil {
		t.Fatal(err)
	}
	busy := outageBusy(t, e.URL())
	version := 1
	for _, o := range outages {
		before := e.memory(t)
		errors := e.value(t, "hfi_config_poll_errors_total")
		began, asked := time.Now(), control.count()
		if o.answer == nil {
			control.refuse(t)
		} else {
			control.behave(o.answer)
		}
		wanted := errors + float64(outageFailures(o))
		if _, err := e.WaitStats("errors of a control plane that "+o.what, envoytest.WaitLimit, func(s envoytest.Stats) bool {
			return s.Value("hfi_config_poll_errors_total") >= wanted && time.Since(began) > 300*time.Millisecond
		}); err != nil {
			t.Fatal(err)
		}
		lasted, during := time.Since(began), control.count()-asked
		if most := outageTries(lasted); during > most {
			t.Errorf("a control plane that %s got %d requests in %s; at most %d are allowed", o.what, during, lasted, most)
		}
		version++
		tag := control.renew()
		if o.answer == nil {
			control.listen(t)
		}
		inForce("after one that "+o.what, tag)
		if answer := get(t, client(t, false), fmt.Sprintf("%s/version-%d", e.URL(), version)); answer.Status != 410 {
			t.Errorf("after a control plane that %s, its new policies are not in force: %d", o.what, answer.Status)
		}
		after := e.memory(t)
		t.Logf("%s: %s, %d requests; Envoy's memory %d MiB before, %d after, peak so far %d", o.what, lasted.Round(time.Millisecond), during,
			before.Resident>>20, after.Resident>>20, after.Peak>>20)
	}
	// Afterwards the VMs have one waiting request, and send no others.
	asked := control.count()
	time.Sleep(2 * time.Second) // no further request may come
	if more := control.count() - asked; more > 1 {
		t.Errorf("%d requests in two seconds without a change", more)
	}
	busy.end()
	if panics := e.value(t, "hfi_panics_total"); panics != 0 {
		t.Errorf("%v panics", panics)
	}
	// Envoy itself may buffer 32 MiB for each VM before the filter sees how long a
	// response is; it must not keep it.
	last := e.memory(t)
	if grown := last.Peak - initial.Resident; grown > vms*64<<20 {
		t.Errorf("Envoy's memory grew by %d MiB at most", grown>>20)
	}
	if grown := last.Resident - initial.Resident; grown > 96<<20 {
		t.Errorf("Envoy kept %d MiB", grown>>20)
	}
}

// outageFailures returns how many errors the VM that asks must count before an outage
// ends. Without a response it counts one only after half a minute.
func outageFailures(o outage) int {
	switch slow := testtool.Slow(); {
	case o.silent && slow:
		return 1
	case o.silent:
		return 0
	case slow:
		return 5
	}
	return 2
}

// outageTries returns the maximum number of requests in an outage of that length: with the pauses at their minimum, half of 250 ms, 500 ms and so on.
func outageTries(lasted time.Duration) int {
	tries, pause := 2, 125*time.Millisecond
	for at := pause; at < lasted; at += pause {
		tries++
		pause = min(2*pause, 2500*time.Millisecond)
	}
	return tries
}

func (s *sidecar) memory(t *testing.T) envoytest.Memory {
	t.Helper()
	memory, err := s.Memory()
	if err != nil {
		t.Fatal(err)
	}
	return memory
}

// value returns a metric's value, summed over its labels.
func (s *sidecar) value(t *testing.T, metric string) float64 {
	t.Helper()
	stats, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return stats.Value(metric)
}

func outageTagged() http.Header {
	return http.Header{"Etag": {`"v1:bad"`}, "Content-Type": {program.MediaType}}
}

func outageStatus(status int, body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Etag", `"v1:bad"`)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func outageBody(header http.Header, body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		for name, values := range header {
			w.Header()[name] = values
		}
		_, _ = w.Write([]byte(body))
	}
}

// outageRaw writes some bytes to the connection and closes it.
func outageRaw(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		connection, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = connection.Write([]byte(text))
		if tcp, ok := connection.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
		_ = connection.Close()
	}
}

// outageLong is a response that would be valid, and end every fault, if it were not too long.
func outageLong(size int, announced bool) func(http.ResponseWriter, *http.Request) {
	// A section that filters skip pads the program.
	head := append(append([]byte(emptySet), 200), binary.AppendUvarint(nil, uint64(size-len(emptySet)-5))...)
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Etag", `"v1:long"`)
		w.Header().Set("Content-Type", program.MediaType)
		if announced {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		_, _ = w.Write(head)
		pad := bytes.Repeat([]byte("x"), 1<<16)
		for left := size - len(head); left > 0; left -= len(pad) {
			if _, err := w.Write(pad[:min(left, len(pad))]); err != nil {
				return
			}
		}
	}
}

// outageDrip writes a valid response so slowly that it never ends.
func outageDrip(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Etag", `"v1:drip"`)
	w.Header().Set("Content-Type", program.MediaType)
	w.Header().Set("Content-Length", "100000")
	for {
		if _, err := w.Write([]byte(" ")); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}
