package kube

import (
	"context"
	"errors"
	"net"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubeschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

type (
	listFunc  = func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watchFunc = func(context.Context, metav1.ListOptions) (watch.Interface, error)
)

// notEnded is a field selector for pods that run or will run.
const notEnded = "status.phase!=Succeeded,status.phase!=Failed"

// emptyWatch is the type of the watch that client-go returns, without an
// error, when the API server did not answer in time.
var (
	emptyWatch  = reflect.TypeOf(watch.NewEmptyWatch())
	errNoAnswer = errors.New("the API server does not answer")
)

// watchPods updates the pods until ctx ends.
func (c *Cluster) watchPods(ctx context.Context) {
	c.watchMetadata(ctx, podResource, notEnded, c.pods)
}

// watchServices updates, until ctx ends, the waypoints that Services use. It begins once the
// cluster has one, so that others need no right to read Services.
func (c *Cluster) watchServices(ctx context.Context) {
	select {
	case <-c.ambient:
	case <-ctx.Done():
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.watchMetadata(ctx, serviceResource, "", c.bindings.ofServices()) })
	both.Go(func() { c.watchMetadata(ctx, namespaceResource, "", c.bindings.ofNamespaces()) })
	both.Wait()
}

// watchMetadata updates a store with the metadata of the objects that a field selector selects, until ctx ends.
func (c *Cluster) watchMetadata(ctx context.Context, resource kubeschema.GroupVersionResource, fields string, store cache.ReflectorStore) {
	client := c.Clients.Metadata.Resource(resource)
	c.reflect(ctx, func() string { return resource.Resource }, c.Clients.Metadata, &metav1.PartialObjectMetadata{}, store,
		func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = fields
			return client.List(ctx, options)
		},
		func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = fields
			return client.Watch(ctx, options)
		})
}

// watchPlugins updates the plugins until ctx ends.
func (c *Cluster) watchPlugins(ctx context.Context) {
	c.reflect(ctx, func() string { return c.delivery().resource.Resource }, c.Clients.Dynamic, nil, c.plugins,
		c.listPlugins,
		func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return c.Clients.Dynamic.Resource(c.delivery().resource).Watch(ctx, options)
		})
}

// listPlugins lists the plugins. If the cluster does not have their kind, it
// lists those of the first that it has, which is the kind from then on.
func (c *Cluster) listPlugins(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	list, err := c.Clients.Dynamic.Resource(c.delivery().resource).List(ctx, options)
	if !apierrors.IsNotFound(err) {
		return list, err
	}
	for _, by := range deliveries(c.Delivery) {
		if by == c.delivery() {
			continue
		}
		others, failed := c.Clients.Dynamic.Resource(by.resource).List(ctx, options)
		if failed != nil {
			continue
		}
		c.Logger.Info("the cluster has no "+c.delivery().kind+": the filter is delivered otherwise", "kind", by.kind)
		c.problems.clear(" " + c.delivery().resource.Resource)
		c.by.Store(by)
		return others, nil
	}
	return list, err
}

// reflect updates a store from the cluster until ctx ends. It runs a reflector
// and not an informer, whose waits between attempts cannot be set.
func (c *Cluster) reflect(ctx context.Context, what func() string, client, expected any, store cache.ReflectorStore, list listFunc, watches watchFunc) {
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			limit, cancel := context.WithTimeout(ctx, c.ListTimeout)
			defer cancel()
			objects, err := list(limit, options)
			c.recordResult(ctx, "list "+what(), err)
			return objects, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			stream, err := c.startWatch(ctx, options, watches)
			c.recordResult(ctx, "watch "+what(), err)
			if err == nil && options.SendInitialEvents != nil {
				c.recordResult(ctx, "list "+what(), nil) // The watch begins with a list; no other is requested.
			}
			return stream, err
		},
	}
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(source, client), expected, store, cache.ReflectorOptions{
		Name: "hfid", TypeDescription: what(),
		// Shorter than the default, so that a granted permission takes effect soon.
		Backoff: &wait.Backoff{Duration: c.RetryMin, Cap: c.RetryMax, Steps: 20, Factor: 2, Jitter: 0.5},
	})
	reflector.RunWithContext(ctx)
}

// startWatch starts a watch, and fails if that takes longer than CallTimeout:
// client-go would try for minutes. The watch itself may last longer.
func (c *Cluster) startWatch(ctx context.Context, options metav1.ListOptions, watches watchFunc) (watch.Interface, error) {
	ctx, cancel := context.WithCancel(ctx)
	limit := time.AfterFunc(c.CallTimeout, cancel)
	stream, err := watches(ctx, options)
	late := !limit.Stop()
	if err == nil && !late && reflect.TypeOf(stream) != emptyWatch {
		return &cancelOnStop{stream, cancel}, nil
	}
	cancel()
	if stream != nil {
		stream.Stop()
	}
	if err == nil || late {
		err = errNoAnswer
	}
	return nil, err
}

// cancelOnStop is a watch that cancels its context when it is stopped.
type cancelOnStop struct {
	watch.Interface
	cancel context.CancelFunc
}

func (s *cancelOnStop) Stop() {
	s.Interface.Stop()
	s.cancel()
}

// recordResult records the result of a request, and logs a change.
func (c *Cluster) recordResult(ctx context.Context, tried string, err error) {
	if ctx.Err() != nil {
		return // The daemon stops, which is not the cluster's failure.
	}
	if !c.problems.record(tried, err) {
		return
	}
	switch {
	case err == nil:
		c.Logger.Info("a request to the cluster succeeds again", "request", tried)
	case forbidden(err):
		c.Logger.Warn("a permission in the cluster is missing; everything else continues", "permission", tried)
	default:
		c.Logger.Warn("a request to the cluster failed", "request", tried, "error", reasonOf(err))
	}
}

func dialer(limit time.Duration) func(context.Context, string, string) (net.Conn, error) {
	return (&net.Dialer{Timeout: limit, KeepAlive: 15 * time.Second}).DialContext
}
