//go:build linux

package http

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler/fleet"
	"github.com/boifi/hfi/schema"
)

// A change of one service's policy with 10,000 clients waiting, until the 100
// clients of that service have their answers.
func BenchmarkWake(b *testing.B) {
	const count, services = 10_000, 100
	d := start(b, nil)
	set := oneEach(services)
	d.serve(stateOf(1, set))
	c := gather(b, d, count, services)
	defer c.leave()
	number := int64(1)
	for b.Loop() {
		number++
		set = set.With([]*schema.Entry{entry("p42", "s42", "n", number)}, nil)
		d.serve(stateOf(number, set))
		for i := 42; i < count; i += services {
			<-c.answers[i]
		}
		b.StopTimer()
		for i := 42; i < count; i += services {
			c.wait(i, 42, "*")
		}
		d.waiting(count)
		b.StartTimer()
	}
	b.ReportMetric(d.wakeups()/float64(number-1), "woken/op")
}

// Concurrent requests that are answered at once, with 30,000 VMs remembered: of
// a client, and of a filter's VM.
func BenchmarkRequest(b *testing.B) {
	d := start(b, nil)
	d.serve(stateOf(1, oneEach(100)))
	const count = 30_000
	nodes, vms := make([][]string, count), make([][]string, count)
	for i := range count {
		nodes[i], vms[i] = []string{fmt.Sprint("node-", i/3)}, []string{fmt.Sprint(i)}
		d.fleet.Ask(api.FilterID{Node: nodes[i][0], Service: "s1", Namespace: "n"}, vms[i][0], "x", fleet.Caller{})
	}
	for _, filter := range []bool{false, true} {
		b.Run(map[bool]string{false: "client", true: "vm"}[filter], func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				request := httptest.NewRequest("GET", "/v1/policies?service=s1&namespace=n", nil)
				request.Header.Set("If-None-Match", `"x"`)
				for i := rand.IntN(count); pb.Next(); i++ {
					if filter {
						request.Header["X-Hfi-Node"], request.Header["X-Hfi-Vm"] = nodes[i%count], vms[i%count]
					}
					recorder := httptest.NewRecorder()
					d.Handler().ServeHTTP(recorder, request)
					if recorder.Code != 200 {
						b.Error(recorder.Body)
					}
				}
			})
		})
	}
}

// A status request while 30,000 VMs of 10,000 filters are remembered.
func BenchmarkStatus(b *testing.B) {
	d := start(b, nil)
	d.serve(stateOf(1, oneEach(100)))
	for i := range 30_000 {
		d.fleet.Ask(api.FilterID{Node: fmt.Sprint("node-", i/3), Service: fmt.Sprint("s", i/3%100), Namespace: "n"}, fmt.Sprint(i), "x", fleet.Caller{})
	}
	request := httptest.NewRequest("GET", "/v1/status", nil)
	b.ReportAllocs()
	for b.Loop() {
		recorder := httptest.NewRecorder()
		d.Handler().ServeHTTP(recorder, request)
	}
}

// Memory of the server for each waiting client, compared with a net/http
// server whose handler only blocks. The clients are plain sockets, which take
// almost no memory of this process.
func BenchmarkWaitingMemory(b *testing.B) {
	const count = 4_000
	for b.Loop() {
		var bareWaiting atomic.Int64
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		bareServer := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			bareWaiting.Add(1)
			<-r.Context().Done()
		})}
		go func() { _ = bareServer.Serve(listener) }()
		bare := perClient(b, listener.Addr().(*net.TCPAddr), count, bareWaiting.Load)
		bareServer.Close()

		d := start(b, func(s *Server) { s.MaxFilterWait = time.Hour })
		d.serve(stateOf(1, oneEach(100)))
		address, _ := net.ResolveTCPAddr("tcp", strings.TrimPrefix(d.url, "http://"))
		ours := perClient(b, address, count, d.Metrics.waiting.Load)
		d.empty()
		d.shutdown()
		b.ReportMetric(bare, "bare-B/client")
		b.ReportMetric(ours, "hfi-B/client")
		b.ReportMetric(ours/bare, "hfi/bare")
	}
}

// perClient is the growth of heap and stacks for each of count waiting clients.
func perClient(b *testing.B, to *net.TCPAddr, count int, waiting func() int64) float64 {
	b.Helper()
	inUse := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse + m.StackInuse)
	}
	eventually(b, "the goroutines of the last round have ended", func() bool { return runtime.NumGoroutine() < 50 })
	before := inUse()
	sockets := make([]int, 0, count)
	defer func() {
		for _, socket := range sockets {
			syscall.Close(socket)
		}
	}()
	for i := range count {
		socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		sockets = append(sockets, socket)
		if err := syscall.Connect(socket, &syscall.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil {
			b.Fatal(err)
		}
		// The request of a filter with three VMs, with the tag "*" for a digest.
		request := fmt.Sprintf("GET /v1/policies?service=s%d&namespace=n&wait=600s HTTP/1.1\r\nHost: h\r\nIf-None-Match: *\r\n"+
			"X-Hfi-Node: sidecar~10.0.0.1~pod-%d.n~n.svc.cluster.local\r\nX-Hfi-Pod: pod-%d\r\nX-Hfi-Vm: %016x\r\n\r\n", i/3%100, i/3, i/3, i)
		if _, err := syscall.Write(socket, []byte(request)); err != nil {
			b.Fatal(err)
		}
		if i%200 == 199 {
			eventually(b, "the clients wait", func() bool { return waiting() == int64(i+1) })
		}
	}
	time.Sleep(50 * time.Millisecond) // what served the last requests ends
	return (inUse() - before) / float64(count)
}
