package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler/fleet"
)

// vm simulates a VM of a filter: it sends each request to the next of the daemons,
// and the next one immediately after each response. After an error it backs off.
type vm struct {
	pod, id, wait string
	to            []*hfidtest.Daemon
	client        *http.Client
	cancel        context.CancelFunc
	done          chan struct{}

	mu sync.Mutex
	// trapped means that it sends no more requests, but its connections stay open.
	trapped bool
	// tag and revision are those of its last response.
	tag, revision string
	// asked counts its requests.
	asked int
}

func runVM(t *testing.T, pod, id, wait string, to ...*hfidtest.Daemon) *vm {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	v := &vm{pod: pod, id: id, wait: wait, to: to, client: &http.Client{Transport: &http.Transport{}}, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(v.done)
		defer v.client.CloseIdleConnections()
		v.run(ctx)
	}()
	t.Cleanup(v.leave)
	return v
}

// leave cancels its request and closes its connections, as an Envoy does that exits.
func (v *vm) leave() {
	v.cancel()
	<-v.done
}

// trap makes it send no more requests after the current one.
func (v *vm) trap() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.trapped = true
}

func (v *vm) run(ctx context.Context) {
	for i, pause := 0, time.Duration(0); ctx.Err() == nil; i++ {
		v.mu.Lock()
		trapped := v.trapped
		v.asked++
		v.mu.Unlock()
		if trapped {
			<-ctx.Done()
			return
		}
		if err := v.ask(ctx, v.to[i%len(v.to)]); err == nil {
			pause = 0
			continue
		}
		pause = min(max(2*pause, 100*time.Millisecond), 2*time.Second)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (v *vm) ask(ctx context.Context, d *hfidtest.Daemon) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.Address()+"/v1/policies?service=frontend&namespace=demo&wait="+v.wait, nil)
	if err != nil {
		return err
	}
	v.mu.Lock()
	for name, value := range map[string]string{
		"X-Hfi-Node": "sidecar~" + v.pod, "X-Hfi-Pod": v.pod, "X-Hfi-Vm": v.id, "If-None-Match": v.tag, "X-Hfi-Revision": v.revision,
	} {
		if value != "" {
			request.Header.Set(name, value)
		}
	}
	v.mu.Unlock()
	response, err := v.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusNotModified {
		return fmt.Errorf("answered %s", response.Status)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tag, v.revision = response.Header.Get("ETag"), response.Header.Get("X-Hfi-Revision")
	return nil
}

// fleetOn are two daemons on one etcd, and the repository that they follow.
type fleetOn struct {
	t        *testing.T
	server   *etcdtest.Server
	repo     *gittest.Repo
	one, two *hfidtest.Daemon
}

func startFleet(t *testing.T) *fleetOn {
	f := &fleetOn{t: t, server: etcdtest.Start(t), repo: gittest.New(t)}
	first := commit(f.repo, "One", files(500, "frontend"))
	f.one = hfidtest.Run(t, f.repo.Bare(), "--etcd-endpoints", f.server.Endpoint, "--replica-id", "one")
	f.two = hfidtest.Run(t, f.repo.Bare(), "--etcd-endpoints", f.server.Endpoint, "--replica-id", "two")
	for _, d := range []*hfidtest.Daemon{f.one, f.two} {
		d.WaitSynced(first)
		see(t, d, "the replicas know each other", "/v1/status", fields{
			"filters.replicas.#": 2, "filters.replicas.0.id": "one", "filters.replicas.0.url": f.one.URL(), "filters.replicas.1.id": "two", "filters.replicas.1.url": f.two.URL(),
			"filters.complete": true,
		})
	}
	return f
}

// see waits until both replicas report the same about the filters.
func (f *fleetOn) see(what string, want fields) {
	f.t.Helper()
	for _, d := range []*hfidtest.Daemon{f.one, f.two} {
		see(f.t, d, what, "/v1/filters", want)
	}
}

// writes returns etcd's revision, which every write increases by one.
func (f *fleetOn) writes() int {
	f.t.Helper()
	found := regexp.MustCompile(`"revision":(\d+)`).FindStringSubmatch(f.server.Ctl("get", "/hfi/head", "--write-out=json"))
	if found == nil {
		f.t.Fatal("etcdctl prints no revision")
	}
	revision, err := strconv.Atoi(found[1])
	if err != nil {
		f.t.Fatal(err)
	}
	return revision
}

// neverSilent fails the test if a daemon reports a filter as silent within a time.
// It checks at least twice.
func (f *fleetOn) neverSilent(d *hfidtest.Daemon, what string, within time.Duration) {
	f.t.Helper()
	testtool.Throughout(f.t, within, what, func() error {
		if filters := d.Status().Filters; filters.Silent > 0 {
			return fmt.Errorf("wrongly reported as silent: %+v", filters)
		}
		return nil
	})
}

// A filter's VMs send their requests alternately to two replicas, and both report
// the same about it. hfi wait ends when all filters have the commit and, with the
// reason, as soon as one has stopped asking. A filter that disconnects is not
// reported as silent.
func TestFleetOfTwoReplicas(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	one, two, work := f.one, f.two, f.repo.Work()
	want(t, one, work, 0, []string{"is served", "no filter is connected"}, "wait", "HEAD")

	// Ten sidecars of three VMs, with requests balanced one by one.
	var vms []*vm
	for pod := range 10 {
		for id := range 3 {
			vms = append(vms, runVM(t, fmt.Sprint("frontend-", pod), fmt.Sprint("vm-", pod, "-", id), "1s", one, two))
		}
	}
	f.see("ten filters", fields{"connected": 10, "current": 10, "behind": 0, "silent": 0, "items.#": 10, "items.0.vms.total": 3, "items.0.pod": "frontend-0",
		"items.0.state": "Current", "items.0.digest": matches("^v1:"), "complete": true})
	before := f.server.Ctl("get", "/hfi/policies/", "--prefix", "--write-out=json")
	second := commit(f.repo, "Two", files(700, "frontend"))
	want(t, two, work, 0, []string{"is served", "10 filters are current"}, "wait", second)
	for _, v := range vms {
		v.mu.Lock()
		tag := v.tag
		v.mu.Unlock()
		if want := one.Policies("?service=frontend&namespace=demo").ETag; tag != want {
			t.Fatalf("hfi wait ended, but a VM of %s has %s in force, not %s", v.pod, tag, want)
		}
	}
	want(t, one, work, 0, []string{`demo +frontend +frontend-9 +Current +3/3 .* sidecar~frontend-9 `}, "get", "filters", "-o", "wide")
	want(t, one, work, 0, []string{"Filters +10 of 10 current"}, "status")
	if after := f.server.Ctl("get", "/hfi/policies/", "--prefix", "--write-out=json"); before == after {
		t.Error("the second commit is not in etcd")
	}
	// While requests alternate for longer than the grace period no filter is silent,
	// and nothing is written to etcd for them: the few writes are the leader's reports.
	written := f.writes()
	f.neverSilent(one, "while all ask", 10*time.Second)
	if more := f.writes() - written; more > 3 {
		t.Errorf("etcd was written to %d times while thirty VMs asked for ten seconds", more)
	}

	// Two sidecars disconnect.
	for _, v := range vms[24:] {
		v.leave()
	}
	f.see("two went", fields{"connected": 8, "current": 8, "silent": 0})

	// One VM traps: both replicas name its pod, and every wait fails.
	vms[4].trap()
	trapped := time.Now()
	f.see("one trapped", fields{"connected": 8, "current": 7, "behind": 0, "silent": 1, "items.0.pod": "frontend-1", "items.0.state": "Silent",
		"items.0.vms.total": 3, "items.0.vms.silent": 1, "items.0.vms.current": 2, "items.0.since": since(trapped.Add(-2 * time.Second)),
		"items.0.message": matches(`^1 of 3 VMs stopped asking \d+ s ago: it is not enforcing`)})
	if took := time.Since(trapped); took > 30*time.Second {
		t.Errorf("it took %s until a trapped VM was reported", took)
	}
	want(t, two, work, 9, []string{`is served, but pod demo/frontend-1 is not enforcing: 1 of 3 VMs stopped asking`}, "wait", second, "--timeout", "60s")
	want(t, two, work, 0, []string{"7 of 8 current, 1 silent: not enforcing", "pod demo/frontend-1: 1 of 3 VMs"}, "status")
	// The same holds for the next commit.
	third := commit(f.repo, "Three", files(900, "frontend"))
	want(t, one, work, 9, []string{`is served, but pod demo/frontend-1 is not enforcing`}, "wait", third, "--timeout", "60s")
}

// If a replica stops, is killed or freezes, its filters' VMs take a while to reach
// the other: they are not reported as silent.
func TestLostReplicaIsNoAlarm(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	one, two := f.one, f.two
	for pod := range 4 {
		for id := range 3 {
			runVM(t, fmt.Sprint("frontend-", pod), fmt.Sprint("vm-", pod, "-", id), "1s", one, two)
		}
	}
	all := fields{"replicas.#": 2, "complete": true, "connected": 4, "current": 4, "items.0.vms.total": 3}
	f.see("all there", all)

	two.Stop()
	see(t, one, "one alone", "/v1/filters", fields{"replicas.#": 1, "complete": true, "connected": 4, "current": 4})
	two.Start()
	two.WaitReady()
	f.see("back after a stop", all)
	two.Kill()
	see(t, one, "the loss is seen", "/v1/filters", fields{"complete": false, "silent": 0, "replicas.1.error": matches("does not answer")})
	f.neverSilent(one, "after a kill", 3*time.Second)
	two.Start()
	two.WaitReady()
	f.see("back after a kill", all)

	// While frozen it does not release the VMs' requests, for longer than the grace
	// period and its own lease together.
	two.Freeze()
	see(t, one, "frozen, it does not answer", "/v1/filters", fields{"complete": false, "silent": 0, "replicas.1.error": matches("did not answer within")})
	f.neverSilent(one, "while a replica is frozen", lease+fleet.DefaultGrace+3*time.Second)
	see(t, one, "held", "/v1/filters", fields{"replicas.#": 1, "complete": true, "connected": 4, "silent": 0, "items.0.state": "Behind",
		"items.0.message": matches(`last seen \d+ s ago, and may wait elsewhere: a replica left \d+ s ago`)})
	two.Thaw()
	f.see("thawed", all)
}

// hfi wait names the filter that has an older set in force, and the replica that
// does not answer.
func TestWaitNamesWhoIsBehind(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	runVM(t, "frontend-quick", "1", "20s", f.one)
	f.see("one filter", fields{"connected": 1, "current": 1})
	// This one always says that it has something else in force.
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		header := http.Header{"X-Hfi-Pod": {"frontend-stuck"}, "X-Hfi-Vm": {"1"}, "If-None-Match": {`"v1:old"`}}
		for {
			ctx, cancel := context.WithTimeout(context.Background(), hfidtest.WaitLimit)
			_, _ = f.two.Ask(ctx, http.MethodGet, "/v1/policies?service=frontend&namespace=demo&wait=20s", header)
			cancel()
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	f.see("one is behind", fields{"connected": 2, "current": 1, "behind": 1, "items.0.pod": "frontend-stuck", "items.0.digest": "v1:old"})
	want(t, f.one, f.repo.Work(), 4, []string{"timed out waiting for .*: 1 of 2 filters are current: pod demo/frontend-stuck: its only VM with other policies in force"},
		"wait", "HEAD", "--timeout", "2s")
	close(stop)
	work.Wait()

	// A replica that advertises another one's URL: the list may be incomplete.
	f.two.Stop()
	f.two.Start("--advertise", f.one.URL())
	f.two.WaitReady()
	see(t, f.one, "a wrong address", "/v1/filters", fields{"complete": false, "replicas.1.id": "two", "replicas.1.error": matches(`"one" responds at its address`), "replicas.0.error": absent})
	want(t, f.one, f.repo.Work(), 4, []string{`timed out waiting for .*: not all filters may be known: replica two: replica "one" responds at its address`}, "wait", "HEAD", "--timeout", "2s")
	want(t, f.one, f.repo.Work(), 0, []string{"there may be more: replica two:"}, "status")
}

// A VM that traps at the beginning of a wait of maximum length is counted as
// current for less than thirty seconds after the wait.
func TestTrappedVMAtFullLength(t *testing.T) {
	testtool.SlowOnly(t)
	t.Parallel()
	f := startFleet(t)
	v := runVM(t, "frontend-1", "1", "10m", f.one, f.two)
	runVM(t, "frontend-1", "2", "10m", f.two, f.one)
	f.see("both wait", fields{"connected": 1, "current": 1, "items.0.vms.current": 2})
	// It begins its next wait, and traps during it.
	v.mu.Lock()
	asked := v.asked
	v.mu.Unlock()
	testtool.Eventually(t, "it asks again", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.asked > asked
	})
	v.trap()
	trapped := time.Now()
	for _, d := range []*hfidtest.Daemon{f.one, f.two} {
		seeWithin(t, d, "the trapped VM is reported", "/v1/filters", fields{"current": 0, "silent": 1, "items.0.pod": "frontend-1", "items.0.vms.silent": 1, "items.0.vms.current": 1},
			time.Until(trapped.Add(30*time.Second)))
	}
	want(t, f.two, f.repo.Work(), 9, []string{"pod demo/frontend-1 is not enforcing"}, "wait", "HEAD", "--timeout", "10s")
}

// The module that --filter names is served. A file that is not a module, or does
// not exist, is an error at the start.
func TestFilterFlag(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	folder := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, message := range map[string]string{filepath.Join(folder, "nowhere.wasm"): "no such file", write("text.wasm", "text"): "not a Wasm module"} {
		d := hfidtest.New(t, repo.Bare(), "--filter", path)
		d.Start()
		if err := d.WaitExit(); err == nil || !strings.Contains(d.LogTail(3), "--filter") || !strings.Contains(d.LogTail(3), message) {
			t.Errorf("with %s it exited with %v: %s", path, err, d.LogTail(3))
		}
	}
	const module = "\x00asm\x01\x00\x00\x00"
	d := hfidtest.New(t, repo.Bare(), "--filter", write("filter.wasm", module))
	d.Start()
	if answer := d.Get("/v1/filter.wasm"); answer.Status != 200 || string(answer.Body) != module {
		t.Errorf("GET /v1/filter.wasm: %d %q", answer.Status, answer.Body)
	}
}
