package kube

import (
	"context"
	"errors"
	"net"
	"reflect"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

type (
	listFunc  = func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watchFunc = func(context.Context, metav1.ListOptions) (watch.Interface, error)
)

// running leaves out pods that have ended. Those of other phases may get a sidecar.
const running = "status.phase!=Succeeded,status.phase!=Failed"

// nothing is the type of the watch that client-go gives, with no error, when
// the API server did not answer in time.
var (
	nothing     = reflect.TypeOf(watch.NewEmptyWatch())
	errNoAnswer = errors.New("the API server does not answer")
)

// watchPods follows pods until ctx ends.
func (c *Cluster) watchPods(ctx context.Context) {
	client := c.Clients.Metadata.Resource(podResource)
	c.follow(ctx, "pods", c.Clients.Metadata, &metav1.PartialObjectMetadata{}, c.pods,
		func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = running
			return client.List(ctx, options)
		},
		func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = running
			return client.Watch(ctx, options)
		})
}

// watchPlugins follows WasmPlugins until ctx ends.
func (c *Cluster) watchPlugins(ctx context.Context) {
	client := c.Clients.Dynamic.Resource(pluginResource)
	c.follow(ctx, "wasmplugins", c.Clients.Dynamic, nil, c.plugins,
		func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return client.List(ctx, options)
		}, client.Watch)
}

// follow keeps a store like the cluster, whatever becomes of the connection:
// a reflector asks again, and anew where it has missed something.
func (c *Cluster) follow(ctx context.Context, what string, client, expected any, store cache.ReflectorStore, list listFunc, watches watchFunc) {
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			limit, cancel := context.WithTimeout(ctx, c.ListTimeout)
			defer cancel()
			objects, err := list(limit, options)
			c.noted(ctx, "list "+what, err)
			return objects, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			stream, err := c.begin(ctx, options, watches)
			c.noted(ctx, "watch "+what, err)
			if err == nil && options.SendInitialEvents != nil {
				c.noted(ctx, "list "+what, nil) // it gives what a list would, which is not asked for then
			}
			return stream, err
		},
	}
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(source, client), expected, store, cache.ReflectorOptions{
		Name: "hfid", TypeDescription: what,
		// Sooner than by default: a permission that was granted is to be seen soon.
		Backoff: &wait.Backoff{Duration: c.RetryMin, Cap: c.RetryMax, Steps: 20, Factor: 2, Jitter: 0.5},
	})
	reflector.RunWithContext(ctx)
}

// begin begins a watch within CallTimeout, which the watch itself outlives:
// client-go would try for minutes.
func (c *Cluster) begin(ctx context.Context, options metav1.ListOptions, watches watchFunc) (watch.Interface, error) {
	ctx, cancel := context.WithCancel(ctx)
	limit := time.AfterFunc(c.CallTimeout, cancel)
	stream, err := watches(ctx, options)
	late := !limit.Stop()
	if err == nil && !late && reflect.TypeOf(stream) != nothing {
		return &stoppable{stream, cancel}, nil
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

// stoppable ends a watch's context with it.
type stoppable struct {
	watch.Interface
	cancel context.CancelFunc
}

func (s *stoppable) Stop() {
	s.Interface.Stop()
	s.cancel()
}

// noted takes down how something went, and logs what is news.
func (c *Cluster) noted(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return // we are being stopped, which says nothing of the cluster
	}
	if c.problems.note(what, err) {
		switch {
		case err == nil:
			c.Logger.Info("the cluster answers again", "asked", what)
		case forbidden(err):
			c.Logger.Warn("a permission in the cluster is missing; the rest goes on", "permission", what)
		default:
			c.Logger.Warn("the cluster does not do what it was asked", "asked", what, "error", reasonOf(err))
		}
	}
}

func dialer(limit time.Duration) func(context.Context, string, string) (net.Conn, error) {
	return (&net.Dialer{Timeout: limit, KeepAlive: 15 * time.Second}).DialContext
}
