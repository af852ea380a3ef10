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

// Against a present API server client-go lists by a watch, and lists as such
// only where that fails: a list that failed is made up for by the next watch.
func TestAWatchThatListsEndsAListsProblem(t *testing.T) {
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
			return watch.NewEmptyWatch(), nil // what client-go gives where nobody answers
		}
		if options.SendInitialEvents == nil || !*options.SendInitialEvents {
			t.Error("the watch is none that lists")
		}
		stream := watch.NewFakeWithChanSize(1, false)
		stream.Action(watch.Bookmark, &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			ResourceVersion: "1", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}})
		return stream, nil
	}
	go func() {
		defer close(done)
		c.follow(ctx, "pods", nil, &metav1.PartialObjectMetadata{}, c.pods, list, watches)
	}()
	eventually(t, "both are a problem", func() bool { return c.problems.about("list pods") && c.problems.about("watch pods") })
	up.Store(true)
	eventually(t, "pods are known", func() bool { _, _, known := c.pods.size(); return known })
	eventually(t, "neither is a problem", func() bool { return !c.problems.about("list pods", "watch pods") })
}

// The answer to a write may come after the watch has told of what came later:
// then the watch is right, and tells it once only.
func TestAnAnswerToAWriteOverrulesNoWatch(t *testing.T) {
	object := pluginObject("demo", "by-hand", nil)
	home, err := parseHome(DefaultControlPlane)
	if err != nil {
		t.Fatal(err)
	}
	known := func(s *pluginStore) int { list, _ := s.list(); return len(list) }
	s := newPluginStore(func() *url.URL { return home }, func() {})
	told := s.told()
	s.wrote(object, told)
	if known(s) != 1 {
		t.Fatal("what was written is not known before the watch tells of it")
	}
	if err := s.Delete(object); err != nil {
		t.Fatal(err)
	}
	told = s.told()
	if err := errors.Join(s.Add(object), s.Delete(object)); err != nil {
		t.Fatal(err)
	}
	s.wrote(object, told)
	if known(s) != 0 {
		t.Error("what was made, and then deleted, is taken to be there")
	}
}
