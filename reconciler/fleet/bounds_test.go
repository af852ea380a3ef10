package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/testtool"
)

// heapInUse is what is in use, in bytes.
func heapInUse() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse + stats.StackInuse
}

// Names that somebody makes up, long ones and very many, while the status is
// asked for all the time: memory is bounded, and real filters stay visible,
// whether each name asks once or, as a filter does, again on its connection.
func TestInventedNamesTakeBoundedMemory(t *testing.T) {
	count := 100_000
	if testtool.Slow() {
		count = 1_000_000
	}
	for _, requests := range []int{1, 2} {
		t.Run(fmt.Sprint(requests, " requests each"), func(t *testing.T) {
			f := newFleet()
			defer f.Close()
			f.Pods = func() (func(namespace, name string) bool, bool) {
				return func(_, name string) bool { return strings.HasPrefix(name, "real-") }, true
			}
			// From the same address as those that are made up.
			from := netip.MustParseAddr("10.0.0.1")
			open := map[string]Request{}
			for i := range 100 {
				name := fmt.Sprint("real-", i)
				f.Ask(podID(name), "1", "", Caller{1, from}).Answered("new", 0)
				open[name] = f.Ask(podID(name), "1", "new", Caller{1, from})
			}
			runtime.GC()
			before, most, slowest := heapInUse(), uint64(0), time.Duration(0)
			done := make(chan struct{})
			var flood, work sync.WaitGroup
			for range 2 {
				flood.Go(func() {
					long := strings.Repeat("x", 240)
					for i := range count / 2 {
						id := api.FilterID{Node: fmt.Sprint(long, i), Pod: fmt.Sprint(long, i), Service: "frontend", Namespace: long}
						for range requests {
							f.Ask(id, fmt.Sprint(long, i), long, Caller{uint64(i), from}).Answered("", 0)
						}
					}
				})
			}
			work.Go(func() {
				for {
					select {
					case <-done:
						return
					case <-time.After(20 * time.Millisecond):
					}
					began := time.Now()
					status, err := f.Status(context.Background())
					slowest = max(slowest, time.Since(began))
					real := 0
					for _, item := range status.Items {
						if strings.HasPrefix(item.Pod, "real-") {
							real++
						}
					}
					if err != nil || real != len(open) {
						t.Errorf("%d of %d real filters are visible, %v", real, len(open), err)
						return
					}
					most = max(most, heapInUse())
				}
			})
			flood.Wait()
			close(done)
			work.Wait()
			began := time.Now()
			if _, err := f.Status(context.Background()); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("afterwards a status takes %s", took)
			}
			runtime.GC()
			kept := heapInUse()
			if more := kept - min(before, kept); more > 256<<20 {
				t.Errorf("%d MiB stay in use", more>>20)
			}
			t.Logf("with %d names: %d MiB more, the slowest status took %s", count, (most-min(before, most))>>20, slowest)
			// With what the test itself leaves for the collector.
			if more := most - min(before, most); more > 500<<20 {
				t.Errorf("it took %d MiB", more>>20)
			}
		})
	}
}

// A report is the same after its way to a peer.
func TestReportsAreReadAsWritten(t *testing.T) {
	f := newFleet()
	ask(f, podID("p"), "1", "new").Answered("newer", time.Second)
	ask(f, podID("q"), "1", "new")
	gateway := podID("r")
	gateway.Service, gateway.Gateway, gateway.Waypoint = "", "ingress", "other"
	f.Ask(gateway, "1", "new", Caller{Address: netip.MustParseAddr("2001:db8::1")})
	now := f.Now()
	f.Now = func() time.Time { return now }
	for _, report := range []*api.ClusterReport{nil, {Error: "no route"}} {
		f.SetClusterReport(report)
		var text bytes.Buffer
		if err := f.WriteReport(&text); err != nil {
			t.Fatal(err)
		}
		var plain ReplicaReport
		if err := json.Unmarshal(text.Bytes(), &plain); err != nil {
			t.Fatalf("%v: %s", err, &text)
		}
		var limit answersLimit
		limit.entries.Store(6)
		read, err := readReport(&text, &limit.entries)
		if err != nil || !reflect.DeepEqual(*read, plain) || len(read.Filters) != 3 || read.Replica != "a" || !reflect.DeepEqual(read.Kubernetes, report) {
			t.Errorf("read %+v, %v", read, err)
		}
	}
	for _, text := range []string{"", "[]", `{"filters":{}}`, `{"filters":[{"pod":1}]}`, `{"filters":[{}`, `{"filters":[{"pod":"` + strings.Repeat("x", 254) + `"}]}`, `{"filters":[{"gateway":"` + strings.Repeat("x", 254) + `"}]}`, `{"filters":[{"waypoint":"` + strings.Repeat("x", 254) + `"}]}`} {
		var limit answersLimit
		limit.entries.Store(1000)
		if report, err := readReport(strings.NewReader(text), &limit.entries); err == nil {
			t.Errorf("%s is read as %+v", text, report)
		}
	}
}

// Peers that send as much as they may, or as many VMs, take little memory.
func TestLargePeersTakeBoundedMemory(t *testing.T) {
	for name, item := range map[string]string{"names": `{"pod":"` + strings.Repeat("x", 250) + `","vms":[]},`, "filters": `{},`, "VMs": `{"vms":[` + strings.Repeat(`{},`, 999) + `{}]},`, "one filter": `{},`} {
		t.Run(name, func(t *testing.T) {
			peer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, `{"replica":"b","filters":[`)
				if name == "one filter" {
					_, _ = io.WriteString(w, `{"vms":[`)
				}
				block := strings.Repeat(item, 1+64<<10/len(item))
				for sent := 0; sent < 42<<20 && r.Context().Err() == nil; sent += len(block) {
					if _, err := io.WriteString(w, block); err != nil {
						return
					}
				}
				_, _ = io.WriteString(w, `{}]}`)
			}))
			defer peer.Close()
			f := newFleet()
			defer f.Close()
			f.PeerTimeout = waitLimit
			peers := 20
			if name == "one filter" {
				peers = 2 // Their answers end: they are no larger than all may be together.
			}
			f.Replicas = func() Replicas {
				list := []api.Replica{{ID: "a"}}
				for i := range peers {
					list = append(list, api.Replica{ID: fmt.Sprint("b", i), URL: peer.URL})
				}
				return Replicas{List: list}
			}
			runtime.GC()
			before := heapInUse()
			ended := make(chan Status, 1)
			go func() {
				status, _ := f.Status(context.Background())
				ended <- status
			}()
			most := before
			for {
				select {
				case status := <-ended:
					if status.Complete {
						t.Error("the status says that it is complete")
					}
					t.Logf("%d MiB more", (most-before)>>20)
					if more := most - before; more > 400<<20 {
						t.Errorf("it took %d MiB", more>>20)
					}
					return
				case <-time.After(5 * time.Millisecond):
					most = max(most, heapInUse())
				}
			}
		})
	}
}

// The cost of a report of 100,000 VMs: to write it, and to read it.
func BenchmarkReport(b *testing.B) {
	f := newFleet()
	for i := range 33_333 {
		for _, vm := range []string{"1f0e3dad99908345", "2f0e3dad99908345", "3f0e3dad99908345"} {
			ask(f, podID(fmt.Sprint("pod-", i)), vm, "v1:1671b4468130954d16febedbd76e4083d9988d1d3412329f325af76aedee7b6a")
		}
	}
	var text bytes.Buffer
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			text.Reset()
			if err := f.WriteReport(&text); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(text.Len()), "bytes")
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var limit answersLimit
			limit.entries.Store(1_000_000)
			if _, err := readReport(bytes.NewReader(text.Bytes()), &limit.entries); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("status", func(b *testing.B) {
		for b.Loop() {
			if _, err := f.Status(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A VM for which there is no room leaves the count and the size of the others as they are.
func TestRefusedVMsTakeNothing(t *testing.T) {
	f := newFleet()
	f.MaxVMs = 1
	ask(f, podID("p"), "1", "new")
	count, size := f.count.Load(), f.size.Load()
	for i := range 3 {
		ask(f, podID("q"), fmt.Sprint(i), "new")
	}
	if !f.full() || f.count.Load() != count || f.size.Load() != size {
		t.Errorf("full: %v, %d VMs of %d bytes, want %d of %d", f.full(), f.count.Load(), f.size.Load(), count, size)
	}
}

// A request that is not remembered, because too many are open of its address,
// is missing in the status: it says so.
func TestStatusWithoutRoomForUnconfirmedVMsIsIncomplete(t *testing.T) {
	f := newFleet()
	for i := range maxUnconfirmedPerSource + 1 {
		if f.full() {
			t.Fatalf("full after %d requests", i)
		}
		f.Ask(podID("p"), fmt.Sprint(i), "", Caller{Connection: uint64(i)})
	}
	if status, err := f.Status(context.Background()); err != nil || status.Complete {
		t.Errorf("the status is complete, %v", err)
	}
}

// A report, with whatever names and digests, is no larger than the size that is
// counted, which is bounded. Once all is forgotten, nothing is counted.
func TestReportsAreAsLargeAsCounted(t *testing.T) {
	for _, character := range []string{"x", "<", `"`, `\\`, "\u2028"} {
		t.Run(character, func(t *testing.T) {
			f := newFleet()
			now := time.Now()
			f.Now = func() time.Time { return now }
			address := netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666")
			text := strings.Repeat(character, maxText/len(character))
			for i := range 50 {
				id := api.FilterID{Node: text, Pod: fmt.Sprint(i), Service: text, Namespace: text, Gateway: text, Waypoint: text}
				for range 2 {
					f.Ask(id, text, "", Caller{Address: address}).Answered("", time.Minute)
				}
				f.Ask(id, text, text, Caller{Address: address}).Answered("", time.Minute)
				f.Ask(podID(text), fmt.Sprint(i), "", Caller{uint64(1 + i), address})
				f.Ask(podID(text), fmt.Sprint(i), text, Caller{uint64(1 + i), address}).Answered("", time.Minute)
			}
			now = now.Add(time.Second)
			var report bytes.Buffer
			if err := f.WriteReport(&report); err != nil {
				t.Fatal(err)
			}
			counted := f.size.Load() + f.unconfirmed.size
			if counted < int64(report.Len()) || counted > 2*int64(report.Len())+100*vmSize {
				t.Errorf("the report has %d bytes, and %d are counted", report.Len(), counted)
			}
			now = now.Add(2 * f.Remember)
			f.seen()
			if f.size.Load() != 0 || f.unconfirmed.size != 0 || len(f.unconfirmed.sources) != 0 {
				t.Errorf("nothing is known, and %d and %d bytes are counted", f.size.Load(), f.unconfirmed.size)
			}
		})
	}
	if all := int64(DefaultMaxBytes + maxUnconfirmedBytes); DefaultMaxPeerAnswer < all {
		t.Errorf("a peer's answer may have %d bytes, and a report as many as %d", DefaultMaxPeerAnswer, all)
	}
}

// Longer texts of VMs that are known take no more memory than the bounds allow. Those
// for which there is no room are missing, and the status says so.
func TestLongerTextsKeepTheBounds(t *testing.T) {
	const vms, connections = 1000, maxUnconfirmedBytesPerSource / 1000
	long := strings.Repeat("x", maxText)
	f := newFleet()
	f.MaxBytes = vms * 700
	for i := range vms {
		ask(f, podID(fmt.Sprint(i)), "1", "")
	}
	if f.full() {
		t.Fatalf("full with %d bytes", f.size.Load())
	}
	for i := range vms {
		request := ask(f, podID(fmt.Sprint(i)), "1", "current")
		request.Describe(Description{Envoy: "1.38.0"})
		request.Describe(Description{Envoy: long, Problem: long})
		if i == vms/2 {
			request = ask(f, podID(fmt.Sprint(i)), "1", long)
			request.Describe(Description{Envoy: long})
		}
		ask(f, podID(fmt.Sprint(i)), "1", long).Answered("", 0)
	}
	var report bytes.Buffer
	if err := f.WriteReport(&report); err != nil {
		t.Fatal(err)
	}
	if size := f.size.Load(); size > f.MaxBytes || int64(report.Len()) > f.MaxBytes || !f.full() {
		t.Errorf("%d bytes are counted, and a report has %d, of %d; full: %v", size, report.Len(), f.MaxBytes, f.full())
	}
	// A VM whose digest has no room has not got the one that it had.
	for _, filter := range f.seen() {
		if digest := filter.VMs[0].Digest; digest != "" && digest != long {
			t.Fatalf("a VM that has another digest now is said to have %q", digest)
		}
	}

	f = newFleet()
	for _, digest := range []string{"", long} {
		for i := range connections {
			f.Ask(podID(long[:200]), fmt.Sprint(i), digest, Caller{Connection: uint64(i), Address: netip.MustParseAddr(podsAddress)})
		}
	}
	if size := f.unconfirmed.size; size > maxUnconfirmedBytesPerSource || len(f.unconfirmed.known) == connections || !f.full() {
		t.Errorf("%d unconfirmed VMs of one address take %d bytes; full: %v", len(f.unconfirmed.known), size, f.full())
	}
}
