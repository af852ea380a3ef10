package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubeschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	kubetesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

const filterDigest = "5f2c7e9a0b1d3c4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6"

// fixture is a Cluster with a fake API server.
type fixture struct {
	*Cluster
	t       *testing.T
	objects *dynamicfake.FakeDynamicClient
	pods    *metadatafake.FakeMetadataClient

	mu     sync.Mutex
	leads  bool
	fleet  api.FiltersStatus
	report *api.ClusterReport
	denied map[string]bool
	failed map[string]error
	// elapsed is added to the current time.
	elapsed time.Duration
	version int
}

// newFixture starts a Cluster that leads, makes a pass every 20 ms, and keeps namespace demo.
func newFixture(t *testing.T, tune func(*fixture), objects ...runtime.Object) *fixture {
	t.Helper()
	kinds := map[kubeschema.GroupVersionResource]string{eventResource: "EventList"}
	for _, by := range []*delivery{wasmPlugins, trafficExtensions, envoyFilters} {
		kinds[by.resource] = by.kind + "List"
	}
	s := &fixture{
		t: t, leads: true, fleet: api.FiltersStatus{Complete: true}, denied: map[string]bool{}, failed: map[string]error{},
		objects: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, objects...),
	}
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	s.pods = metadatafake.NewSimpleMetadataClient(scheme)
	s.objects.PrependReactor("*", "*", s.deniedOrFailed)
	s.pods.PrependReactor("*", "*", s.deniedOrFailed)
	watching := func(action kubetesting.Action) (bool, error) {
		denied, _, err := s.deniedOrFailed(action)
		return denied, err
	}
	for _, fake := range []*kubetesting.Fake{&s.objects.Fake, &s.pods.Fake} {
		chain := fake.WatchReactionChain[0]
		fake.PrependWatchReactor("*", watchReactor{watching, chain}.react())
	}
	c := New(Clients{Metadata: s.pods, Dynamic: s.objects})
	s.Cluster = c
	c.Interval, c.Settle, c.RetryMin, c.RetryMax, c.RepairMin = 20*time.Millisecond, time.Millisecond, 5*time.Millisecond, 20*time.Millisecond, time.Millisecond
	c.Idle = c.Interval
	c.Linger = 0
	c.SHA256, c.Keep = filterDigest, []string{"demo"}
	c.Leads = func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.leads }
	c.Filters = func(context.Context) (api.FiltersStatus, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.fleet, nil
	}
	c.Now = func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return time.Now().Add(s.elapsed) }
	c.HTTP = &http.Client{Transport: privateRegistry{c.HTTP.Transport}}
	if os.Getenv("HFI_KUBE_LOG") != "" {
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if tune != nil {
		tune(s)
	}
	if err := c.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// privateRegistry answers for registry.example.com, which requires credentials. Other hosts are the network's.
type privateRegistry struct{ http.RoundTripper }

func (p privateRegistry) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Hostname() != "registry.example.com" {
		return p.RoundTripper.RoundTrip(request)
	}
	answer := httptest.NewRecorder()
	answer.Header().Set("WWW-Authenticate", `Basic realm="users"`)
	answer.WriteHeader(http.StatusUnauthorized)
	response := answer.Result()
	response.Request = request
	return response, nil
}

// CloseIdleConnections passes the call on to the embedded transport.
func (p privateRegistry) CloseIdleConnections() {
	p.RoundTripper.(*http.Transport).CloseIdleConnections()
}

// deniedOrFailed is a reactor that returns the errors that the test set.
func (s *fixture) deniedOrFailed(action kubetesting.Action) (bool, runtime.Object, error) {
	resource := action.GetResource().Resource
	if sub := action.GetSubresource(); sub != "" {
		resource += "/" + sub
	}
	what := action.GetVerb() + " " + resource
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.denied[what] {
		return true, nil, apierrors.NewForbidden(action.GetResource().GroupResource(), "", fmt.Errorf("%s is not allowed", what))
	}
	if err := s.failed[what]; err != nil {
		return true, nil, err
	}
	return false, nil, nil
}

func (s *fixture) deny(what ...string)  { s.each(what, func(w string) { s.denied[w] = true }) }
func (s *fixture) grant(what ...string) { s.each(what, func(w string) { delete(s.denied, w) }) }

func (s *fixture) each(what []string, do func(string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, each := range what {
		do(each)
	}
}

func (s *fixture) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *fixture) advance(d time.Duration) { s.set(func() { s.elapsed += d }) }

// serve makes the Cluster serve policies, each written NAME=SERVICE/NAMESPACE, or
// NAME=gateway:NAME/NAMESPACE.
func (s *fixture) serve(policies ...string) *schema.Set {
	s.t.Helper()
	set := setOf(s.t, policies...)
	s.version++
	s.Cluster.Serve(&reconciler.State{Set: set, Revision: reconciler.Revision{Number: int64(s.version)}})
	return set
}

func setOf(t *testing.T, policies ...string) *schema.Set {
	t.Helper()
	var entries []*schema.Entry
	for _, text := range policies {
		name, selector, _ := strings.Cut(text, "=")
		direction := schema.Inbound
		if rest, outbound := strings.CutSuffix(selector, " outbound"); outbound {
			selector, direction = rest, schema.Outbound
		}
		service, namespace, _ := strings.Cut(selector, "/")
		gateway, isGateway := strings.CutPrefix(service, "gateway:")
		if isGateway {
			service = ""
		} else {
			gateway = ""
		}
		policy, err := schema.Parse(fmt.Appendf(nil, `{"metadata":{"name":%q},"spec":{"selector":{"service":%q,"namespace":%q,"gateway":%q},"direction":%q,"rules":[{"fault":{"delay_ms":5}}]}}`,
			name, service, namespace, gateway, direction))
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, schema.NewEntry(policy, schema.Origin{}))
	}
	return schema.NewSet(entries...)
}

// podOfDeployment returns a pod as a Deployment's ReplicaSet creates it and Istio injects it.
func podOfDeployment(namespace, deployment, suffix string, labels map[string]string) *metav1.PartialObjectMetadata {
	all := map[string]string{labelTemplateHash: "abc12", "app": deployment}
	for name, value := range labels {
		all[name] = value
	}
	controls := true
	return &metav1.PartialObjectMetadata{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: deployment + "-abc12-" + suffix, GenerateName: deployment + "-abc12-", Labels: all, UID: types.UID(suffix),
			Annotations:       map[string]string{annotationSidecar: "{}"},
			OwnerReferences:   []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: deployment + "-abc12", Controller: &controls}},
			CreationTimestamp: metav1.NewTime(time.Now().Add(-time.Hour)),
		},
	}
}

func (s *fixture) addPods(pods ...*metav1.PartialObjectMetadata) {
	s.t.Helper()
	for _, pod := range pods {
		if err := s.pods.Tracker().Create(podResource, pod, pod.Namespace); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *fixture) deletePod(pod *metav1.PartialObjectMetadata) {
	s.t.Helper()
	if err := s.pods.Tracker().Delete(podResource, pod.Namespace, pod.Name); err != nil {
		s.t.Fatal(err)
	}
}

// filters sets the fleet: a filter of the service for each pod, in the given state.
func (s *fixture) filters(namespace, service string, states map[string]api.FilterState) {
	var items []api.FilterStatus
	for name, state := range states {
		items = append(items, api.FilterStatus{FilterID: api.FilterID{Pod: name, Service: service, Namespace: namespace}, State: state})
	}
	s.set(func() { s.fleet.Items = items })
}

// errEmptyWatch makes a watch fail as client-go's does when the API server does
// not answer: with an empty watch and no error.
var errEmptyWatch = errors.New("an empty watch")

// watchReactor denies a watch, or passes it to the next reactor.
type watchReactor struct {
	denied func(kubetesting.Action) (bool, error)
	next   kubetesting.WatchReactor
}

func (r watchReactor) react() kubetesting.WatchReactionFunc {
	return func(action kubetesting.Action) (bool, watch.Interface, error) {
		if denied, err := r.denied(action); denied {
			if errors.Is(err, errEmptyWatch) {
				return true, watch.NewEmptyWatch(), nil
			}
			return true, nil, err
		}
		return r.next.React(action)
	}
}
