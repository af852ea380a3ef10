package envoy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// world is a complete installation: a git repository, the daemon with embedded
// etcd, real Envoys with the filter, and an upstream behind them.
type world struct {
	repo     *gittest.Repo
	daemon   *hfidtest.Daemon
	upstream *envoytest.Upstream
	// envoys has the Envoys by name. Only the test's own goroutine changes it.
	envoys map[string]*sidecar
}

// sidecar is an Envoy of a world, which a test may restart.
type sidecar struct {
	*envoytest.Envoy
	name   string
	config envoytest.Config
	// query selects the policies that this Envoy should have in force.
	query string
	// vms is the number of the filter's VMs: one for each worker and one for the main thread.
	vms int
}

// keep lets git keep the folder when no policy is in it.
const keep = "policies/.keep"

// newWorld starts a daemon on a repository without policies. The world lasts until the owner's cleanups run.
func newWorld(owner testing.TB, arguments ...string) *world {
	owner.Helper()
	w := &world{repo: gittest.New(owner), envoys: map[string]*sidecar{}}
	w.repo.Commit("Begin", map[string]string{keep: ""})
	w.repo.Push()
	upstream, err := envoytest.StartUpstream()
	if err != nil {
		owner.Fatal(err)
	}
	w.upstream = upstream
	owner.Cleanup(func() {
		if err := upstream.Stop(); err != nil {
			owner.Error(err)
		}
	})
	w.daemon = hfidtest.New(owner, w.repo.Bare(), append([]string{"--filter", hfidtest.Module(owner)}, arguments...)...)
	w.daemon.Start()
	w.daemon.WaitReady()
	return w
}

// clusters are the upstream clusters of every Envoy of a world.
func (w *world) clusters() []envoytest.Cluster {
	return []envoytest.Cluster{
		{Name: "upstream", Address: w.upstream.Address},
		{Name: "daemon", Address: strings.TrimPrefix(w.daemon.URL(), "http://")},
	}
}

// settings returns the filter's configuration: the daemon's cluster, and more
// settings as pairs of name and value.
func settings(more ...any) map[string]any {
	all := map[string]any{"control_plane_cluster": "daemon"}
	for i := 0; i < len(more); i += 2 {
		all[more[i].(string)] = more[i+1]
	}
	return all
}

// filter returns the filter, loaded from a file.
func filter(t testing.TB, configuration any) envoytest.Filter {
	return envoytest.Wasm{File: hfidtest.Module(t), Configuration: configuration}.Filter()
}

// start starts Envoys, two at a time: each takes seconds of CPU time, and all at
// once could exceed the limit for one start.
func (w *world) start(t testing.TB, configs map[string]envoytest.Config) {
	t.Helper()
	binary := testtool.Path(t, "envoy")
	started := make(map[string]*sidecar)
	folders := make(map[string]string)
	for name := range configs {
		folders[name] = t.TempDir()
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	var failures []error
	places := make(chan struct{}, 2)
	for name, config := range configs {
		group.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			config.Binary = cmp.Or(config.Binary, binary)
			e, err := envoytest.Start(config, folders[name])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures = append(failures, fmt.Errorf("starting Envoy %s: %w", name, err))
				return
			}
			text := func(key string) string { value, _ := config.Node.Metadata[key].(string); return value }
			started[name] = &sidecar{
				Envoy: e, name: name, config: config, vms: max(config.Concurrency, 1) + 1,
				query: "?service=" + text("WORKLOAD_NAME") + "&namespace=" + text("NAMESPACE"),
			}
		})
	}
	group.Wait()
	for name, one := range started {
		w.envoys[name] = one
		t.Cleanup(func() {
			if err := one.Stop(); err != nil {
				t.Errorf("Envoy %s: %v", name, err)
			}
		})
	}
	if err := errors.Join(failures...); err != nil {
		t.Fatal(err)
	}
}

// restart stops Envoys and starts new ones with the same configuration, as when a pod is restarted.
func (w *world) restart(t testing.TB, owner testing.TB, names ...string) {
	t.Helper()
	configs := make(map[string]envoytest.Config)
	for _, name := range names {
		old := w.envoys[name]
		delete(w.envoys, name)
		if err := old.Stop(); err != nil {
			t.Fatal(err)
		}
		configs[name] = old.config
	}
	w.start(owner, configs)
}

// push commits exactly these policies, each a YAML or JSON text, pushes, and waits
// until every VM of every Envoy has them in force. It returns the commit and the
// time at which git push returned.
func (w *world) push(t testing.TB, policies ...string) (commit string, pushed time.Time) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(w.repo.Work(), "policies")); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{keep: ""}
	for _, policy := range policies {
		files["policies/"+nameOf(t, policy)+".yaml"] = policy
	}
	if len(files) != len(policies)+1 {
		t.Fatal("two policies have the same name")
	}
	// The trailer allows the commit to delete most policies.
	commit = w.repo.Commit("Change the policies for "+t.Name()+"\n\nhfi-allow-prune: true\n", files)
	w.repo.Push()
	pushed = time.Now()
	w.daemon.WaitSynced(commit)
	w.waitInForce(t)
	return commit, pushed
}

var policyName = regexp.MustCompile(`"?name"?:\s*"?([-a-z0-9]+)`)

func nameOf(t testing.TB, policy string) string {
	t.Helper()
	match := policyName.FindStringSubmatch(policy)
	if match == nil {
		t.Fatalf("a policy without a name: %s", policy)
	}
	return match[1]
}

// waitInForce waits until every VM of the named Envoys, or of all, has the policies
// in force that the daemon serves to it.
func (w *world) waitInForce(t testing.TB, names ...string) {
	t.Helper()
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(w.envoys))
	}
	for _, name := range names {
		sidecar := w.envoys[name]
		etag := w.daemon.Policies(sidecar.query).ETag
		await(t, fmt.Sprintf("%s in force in each of the %d VMs of Envoy %s", etag, sidecar.vms, name), func() bool {
			return sidecar.has("hfi", etag)
		})
	}
}

// await waits, for a limited time, until a condition holds.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	testtool.Eventually(t, what, condition)
}

// has reports whether each VM of a Wasm filter, by its name in Envoy ("hfi" by default), last logged that ETag.
func (s *sidecar) has(filter, etag string) bool {
	last := make(map[string]string)
	for _, update := range s.updates(filter) {
		last[update.thread] = update.etag
	}
	for _, tag := range last {
		if tag != etag {
			return false
		}
	}
	return len(last) == s.vms
}

// update is a log line of a VM that applied policies.
type update struct {
	at                   time.Time
	thread, commit, etag string
}

// received matches the log line of an update, as Envoy writes it.
var received = regexp.MustCompile(`(?m)^\[([^]]+)\]\[(\d+)\]\[info\]\[wasm\] .*wasm log (\S+) .*Received config update from control plane: commit (\w+), \d+ policies in force, ETag (\S+)$`)

func (s *sidecar) updates(filter string) []update {
	var all []update
	for _, match := range received.FindAllStringSubmatch(s.Log(), -1) {
		if match[3] != filter {
			continue
		}
		at, err := time.ParseInLocation("2006-01-02 15:04:05.000", match[1], time.Local)
		if err != nil {
			panic(err)
		}
		all = append(all, update{at: at, thread: match[2], commit: match[4], etag: match[5]})
	}
	return all
}
