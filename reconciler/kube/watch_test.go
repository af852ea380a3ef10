package kube

import (
	"context"
	"errors"
	"net/url"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// client-go gets the first list from a watch if the API server supports that.
// A success of such a watch clears the failure of an earlier list.
func TestWatchListClearsFailedList(t *testing.T) {
	var up atomic.Bool
	c := New(Clients{})
	c.RetryMin, c.RetryMax = 1, 1
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	defer func() { cancel(); <-done }()
	list := func(context.Context, metav1.ListOptions) (runtime.Object, error) {
		return nil, errors.New("i/o timeout")
	}
	watches := func(_ context.Context, options metav1.ListOptions) (watch.Interface, error) {
		if !up.Load() {
			return watch.NewEmptyWatch(), nil // as client-go does if the API server does not answer
		}
		if options.SendInitialEvents == nil || !*options.SendInitialEvents {
			t.Error("the watch does not request the initial list")
		}
		stream := watch.NewFakeWithChanSize(1, false)
		stream.Action(watch.Bookmark, &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			ResourceVersion: "1", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}})
		return stream, nil
	}
	go func() {
		defer close(done)
		c.reflect(ctx, func() string { return "pods" }, nil, &metav1.PartialObjectMetadata{}, c.pods, list, watches)
	}()
	eventually(t, "both are a problem", func() bool { return c.problems.any("list pods") && c.problems.any("watch pods") })
	up.Store(true)
	eventually(t, "pods are known", func() bool { _, _, known := c.pods.size(); return known })
	eventually(t, "neither is a problem", func() bool { return !c.problems.any("list pods", "watch pods") })
}

// The answer to a write may arrive after a later event of the watch: then the
// event counts, because the watch sends it only once.
func TestLateAnswerToAWriteIsIgnored(t *testing.T) {
	object := pluginObject("demo", "by-hand", nil)
	home, err := parseControlPlane(DefaultControlPlane)
	if err != nil {
		t.Fatal(err)
	}
	known := func(s *pluginStore) int { list, _ := s.list(); return len(list) }
	s := newPluginStore(func() *url.URL { return home }, func() *delivery { return wasmPlugins }, func() {})
	events := s.eventCount()
	s.setWritten(object, events)
	if known(s) != 1 {
		t.Fatal("the written object is unknown before its event")
	}
	if err := s.Delete(object); err != nil {
		t.Fatal(err)
	}
	events = s.eventCount()
	if err := errors.Join(s.Add(object), s.Delete(object)); err != nil {
		t.Fatal(err)
	}
	s.setWritten(object, events)
	if known(s) != 0 {
		t.Error("the deleted object is stored")
	}
}
