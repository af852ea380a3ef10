package envoy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
)

// A delay of 100 ms is never too short, and as precise as that of Envoy's own fault
// filter in the same Envoy at the same time.
func TestDelaysAreAsPreciseAsTheNativeFilters(t *testing.T) {
	w := mesh(t)
	w.push(t, faulting("ok", `{delay_ms: 100}`))
	e := w.envoys["frontend-1"]
	reports := map[string]*envoytest.Report{}
	var group sync.WaitGroup
	var mu sync.Mutex
	for _, listener := range []string{"main", "native"} {
		group.Go(func() {
			report, err := envoytest.Load{
				Request: envoytest.Request{URL: e.ListenerURL(listener) + "/ok"}, Requests: 240, Connections: 20,
			}.Run(context.Background())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			reports[listener] = report
		})
	}
	group.Wait()
	ours, native := reports["main"], reports["native"]
	t.Logf("delay %s; ours: %s; native: %s", nativeDelay, ours, native)
	if early := ours.Answers() - ours.Slower(nativeDelay); early != 0 || ours.Statuses[200] != 240 {
		t.Errorf("%d delays ended early: %s", early, ours)
	}
	if median, theirs := ours.Quantile(0.5), native.Quantile(0.5); median > 2*theirs || median > 5*time.Second {
		t.Errorf("the median is %s, and the native filter's %s", median, theirs)
	}
}

// Envoy's stream_idle_timeout ends a delay that is longer, as a delay of its own fault filter: with
// 504, or with 408 if the request is not complete. Nothing of the request is left.
func TestTheStreamIdleTimeoutEndsADelay(t *testing.T) {
	w := mesh(t)
	w.push(t, faulting("long", `{delay_ms: 600000}`), faulting("long-abort", `{delay_ms: 600000, abort: {status: 503}}`))
	e := w.envoys["frontend-1"]
	w.upstream.Reset()
	for _, http2 := range []bool{false, true} {
		for _, path := range []string{"/long", "/long-abort"} {
			if answer := get(t, client(t, http2), e.ListenerURL("impatient")+path); answer.Status != 504 || answer.Body != "stream timeout" || answer.Elapsed < 900*time.Millisecond {
				t.Errorf("request %s: %d %q after %s", path, answer.Status, answer.Body, answer.Elapsed)
			}
		}
	}
	incomplete, err := net.Dial("tcp", strings.TrimPrefix(e.ListenerURL("impatient"), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer incomplete.Close()
	if err := incomplete.SetDeadline(time.Now().Add(envoytest.WaitLimit)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(incomplete, "POST /long HTTP/1.1\r\nHost: frontend\r\nContent-Length: 5\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(incomplete), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != 408 {
		t.Errorf("an incomplete request: %s", answer.Status)
	}
	for _, line := range []string{"stream_idle_timeout /long 504 [delay=long]", "stream_idle_timeout /long-abort 504 [delay=long-abort;abort=long-abort]", "stream_idle_timeout /long 408 [delay=long]"} {
		if err := e.WaitAccessLog("impatient", line, envoytest.WaitLimit); err != nil {
			t.Error(err)
		}
	}
	await(t, "no paused request", func() bool { return w.stats(t, "frontend-1").Value("hfi_paused_streams") == 0 })
	if seen := w.upstream.Count(); seen != 0 {
		t.Errorf("the upstream saw %d of the requests", seen)
	}
}

// A client that disconnects during a delay leaves nothing behind: no paused stream,
//
// no stream in Envoy, no request to the upstream. The same holds for an HTTP/2
// stream that is reset, and its connection stays usable.
func TestADisconnectDuringADelayLeavesNothing(t *testing.T) {
	w := mesh(t)
	w.push(t, faulting("hang", `{delay_ms: 600000}`), faulting("hang-abort", `{delay_ms: 600000, abort: {status: 503}}`))
	e := w.envoys["frontend-1"]
	active := func(stats envoytest.Stats) float64 {
		return stats.Value("envoy_http_downstream_rq_active", "envoy_http_conn_manager_prefix", "main")
	}
	const clients = 20
	for _, c := range []struct {
		name, path string
		http2      bool
	}{{"HTTP/1.1", "/hang", false}, {"HTTP/2", "/hang", true}, {"before an abort", "/hang-abort", true}} {
		t.Run(c.name, func(t *testing.T) {
			w.upstream.Reset()
			aborts := w.counted(t, "frontend-1").Value("hfi_faults_aborts_total")
			caller := client(t, c.http2)
			ctx, disconnect := context.WithCancel(context.Background())
			var group sync.WaitGroup
			defer group.Wait()
			defer disconnect()
			for range clients {
				group.Go(func() {
					if answer, err := caller.Get(ctx, e.URL()+c.path); err == nil {
						t.Errorf("a request that should be delayed got %d", answer.Status)
					}
				})
			}
			if _, err := e.WaitStats("all requests paused", envoytest.WaitLimit, func(s envoytest.Stats) bool {
				return s.Value("hfi_paused_streams") == clients && active(s) == clients
			}); err != nil {
				t.Fatal(err)
			}
			disconnect()
			group.Wait()
			if stats, err := e.WaitStats("nothing left", envoytest.WaitLimit, func(s envoytest.Stats) bool {
				return s.Value("hfi_paused_streams") == 0 && active(s) == 0
			}); err != nil {
				t.Fatalf("%v; %v paused, %v active", err, stats.Value("hfi_paused_streams"), active(stats))
			}
			if answer := get(t, caller, e.URL()+"/after"); answer.Status != 200 {
				t.Errorf("a request after them: %d", answer.Status)
			}
			if seen := w.upstream.CountOf(c.path); seen != 0 {
				t.Errorf("the upstream saw %d of the requests", seen)
			}
			if more := w.counted(t, "frontend-1").Value("hfi_faults_aborts_total") - aborts; more != 0 {
				t.Errorf("%v aborts without a client are counted", more)
			}
		})
	}
}

// A body that a client sends during the delay waits too, and then arrives complete,
// whether it is sent at once or piece by piece.
func TestABodyWaitsForTheEndOfTheDelay(t *testing.T) {
	w := mesh(t)
	const delay = 700 * time.Millisecond
	w.push(t, faulting("upload", `{delay_ms: 700}`))
	e := w.envoys["frontend-1"]
	// More than Envoy buffers for a request: it must make the client wait, and not reject the request.
	large := bytes.Repeat([]byte("0123456789abcdef"), 4<<20>>4)
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
		for _, c := range []struct {
			name  string
			body  func(ctx context.Context) io.Reader
			whole []byte
		}{
			{"at once", func(context.Context) io.Reader { return bytes.NewReader(large) }, large},
			{"in pieces", func(ctx context.Context) io.Reader { return pieces(ctx, "part of it, ", 20, 10*time.Millisecond) }, []byte(strings.Repeat("part of it, ", 20))},
			{"in pieces over its end", func(ctx context.Context) io.Reader { return pieces(ctx, "part of it, ", 20, 60*time.Millisecond) }, []byte(strings.Repeat("part of it, ", 20))},
		} {
			t.Run(protocol+" "+c.name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(context.Background(), envoytest.WaitLimit)
				defer cancel()
				protocols := new(http.Protocols)
				protocols.SetHTTP1(protocol == "HTTP/1.1")
				protocols.SetUnencryptedHTTP2(protocol == "HTTP/2")
				transport := &http.Transport{Protocols: protocols}
				defer transport.CloseIdleConnections()
				request, err := http.NewRequestWithContext(ctx, "POST", e.URL()+"/upload", c.body(ctx))
				if err != nil {
					t.Fatal(err)
				}
				w.upstream.Reset()
				started := time.Now()
				arrived := make(chan time.Duration, 1)
				go func() {
					for w.upstream.CountOf("/upload") == 0 && ctx.Err() == nil {
						time.Sleep(time.Millisecond) // as precise as the delay is measured
					}
					arrived <- time.Since(started)
				}()
				answer, err := transport.RoundTrip(request)
				if err != nil {
					t.Fatal(err)
				}
				defer answer.Body.Close()
				var echo envoytest.Echo
				if err := json.NewDecoder(answer.Body).Decode(&echo); err != nil {
					t.Fatalf("status %d: %v", answer.StatusCode, err)
				}
				if echo.Body != string(c.whole) {
					t.Errorf("%d of %d bytes arrived", len(echo.Body), len(c.whole))
				}
				if after := <-arrived; after < delay {
					t.Errorf("the upstream saw the request after %s, before its delay was over", after)
				}
			})
		}
	}
}

// pieces returns a text several times, with a gap after each.
func pieces(ctx context.Context, text string, count int, gap time.Duration) io.Reader {
	reader, writer := io.Pipe()
	go func() {
		for range count {
			if _, err := io.WriteString(writer, text); err != nil || ctx.Err() != nil {
				break
			}
			time.Sleep(gap) // the body is as slow as the case says
		}
		writer.Close()
	}()
	return reader
}

// The setting max_delay limits delays, and the log says so.
func TestMaxDelayCutsDelays(t *testing.T) {
	w := mesh(t)
	w.push(t, faulting("endless", `{delay_ms: 3600000}`))
	e := w.envoys["frontend-3"]
	if answer := get(t, client(t, false), e.URL()+"/endless"); answer.Status != 200 || answer.Elapsed < 700*time.Millisecond {
		t.Errorf("status %d after %s", answer.Status, answer.Elapsed)
	}
	if err := e.WaitLog("delays are limited to max_delay (700ms) in policies: endless", envoytest.WaitLimit); err != nil {
		t.Error(err)
	}
}
