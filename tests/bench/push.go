package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// pushed has the times of the events of one push.
type pushed struct {
	// moved is when the branch was updated in the bare repository, returned when git push returned.
	moved, returned time.Time
	// published is when etcd had the commit's head, answered when a client that waits
	// as a filter does got the changed policy.
	published, answered time.Time
	// faulted is when the first request was faulted by it.
	faulted time.Time
}

// pushes measures the time from git push's return to the first faulted request,
// with stock git, hfid and Envoy, and continuous requests.
func (b *filterBench) pushes(ctx context.Context) (rows []row, err error) {
	w, err := b.newPushWorld(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.end()) }()
	var total, git, daemon, serving, filter []float64
	for number := range b.samples {
		p, err := w.push(ctx, number)
		if err != nil {
			return nil, fmt.Errorf("push %d: %w", number, err)
		}
		milliseconds := func(from, to time.Time) float64 { return float64(to.Sub(from).Microseconds()) / 1000 }
		total = append(total, milliseconds(p.returned, p.faulted))
		git = append(git, milliseconds(p.moved, p.returned))
		daemon = append(daemon, milliseconds(p.moved, p.published))
		serving = append(serving, milliseconds(p.published, p.answered))
		filter = append(filter, milliseconds(p.answered, p.faulted))
	}
	write, err := w.writes(ctx, b.samples)
	if err != nil {
		return nil, err
	}
	share := func(figure string, values []float64) row {
		return row{figure, fmt.Sprintf("%.1f ms", median(values)), "", true, false}
	}
	first := share("from `git push` returning to the first faulted request, median", total)
	first.bound, first.met = "< 100 ms", median(total) < 100
	return []row{
		first,
		share("part of git: from the update of the branch to `git push` returning", git),
		share("part of hfid and etcd: from the update of the branch to the new head in etcd", daemon),
		share("of that, etcd's part for each write: a put of a policy's size into the same etcd", write),
		share("part of hfid: from there to the response to a waiting client", serving),
		share("part of the filter: from there to the first faulted request", filter),
	}, nil
}

// pushWorld is a repository, a daemon that follows it, and an Envoy with the filter.
type pushWorld struct {
	repo  *repo
	hfid  *daemon
	envoy *envoytest.Envoy
	etcd  *clientv3.Client
	end   func() error
}

func (b *filterBench) newPushWorld(ctx context.Context) (w *pushWorld, err error) {
	w = &pushWorld{}
	var end func() error
	if w.repo, w.hfid, end, err = serving(ctx, 100); err != nil {
		return nil, err
	}
	w.end = func() error {
		var failed error
		if w.etcd != nil {
			failed = w.etcd.Close()
		}
		if w.envoy != nil {
			failed = errors.Join(failed, w.envoy.Stop())
		}
		return errors.Join(failed, end())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.end())
		}
	}()
	endpoint, err := w.hfid.etcd()
	if err != nil {
		return nil, err
	}
	if w.etcd, err = clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: envoytest.WaitLimit}); err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp(b.folder, "envoy-")
	if err != nil {
		return nil, err
	}
	filter := envoytest.Wasm{File: b.module("hfi"), Configuration: map[string]any{"control_plane_cluster": "hfid"}}.Filter()
	w.envoy, err = envoytest.Start(envoytest.Config{
		Node: envoytest.Workload("shop", "demo", "shop-0"), LogLevel: "warning", Arguments: []string{"--component-log-level", "wasm:info"},
		Clusters:  []envoytest.Cluster{{Name: "hfid", Address: strings.TrimPrefix(w.hfid.url, "http://")}},
		Listeners: []envoytest.Listener{{Filters: []envoytest.Filter{filter}, Routes: []envoytest.Route{{Status: 200}}}},
	}, folder)
	if err != nil {
		return nil, err
	}
	// The main thread's VM and the worker's VM get a first response.
	return w, until(ctx, envoytest.WaitLimit, "the filter has its first policies", func() bool {
		return strings.Count(w.envoy.Log(), "Received config update") >= 2
	})
}

// policyFile is the policy that is pushed repeatedly, each time for another path.
const policyFile = "shop.yaml"

// push pushes a policy that aborts the requests for a new path.
func (w *pushWorld) push(ctx context.Context, number int) (p pushed, err error) {
	ctx, cancel := context.WithTimeout(ctx, envoytest.WaitLimit)
	defer cancel()
	path := fmt.Sprintf("/push-%d", number)
	text := fmt.Sprintf("metadata: {name: shop}\nspec:\n  selector: {service: shop, namespace: demo}\n  rules:\n    - match: {path: {exact: %s}}\n      fault: {abort: {status: 503}}\n", path)
	if err := os.WriteFile(filepath.Join(w.repo.work, "policies", policyFile), []byte(text), 0o644); err != nil {
		return p, err
	}
	for _, args := range [][]string{{"add", "-A"}, {"commit", "-q", "-m", "Abort " + path}} {
		if _, err := git(append([]string{"-C", w.repo.work}, args...)...); err != nil {
			return p, err
		}
	}
	// All observers run before the push, and each returns when it saw the change.
	published, stop := w.watchHead(ctx)
	defer stop()
	answered, err := w.waitAnswer(ctx)
	if err != nil {
		return p, err
	}
	faulted := w.probe(ctx, path)
	time.Sleep(30 * time.Millisecond)
	if _, err := git("-C", w.repo.work, "push", "-q", "origin", "main"); err != nil {
		return p, err
	}
	p.returned = time.Now()
	ref, err := os.Stat(filepath.Join(w.repo.bare, "refs", "heads", "main"))
	if err != nil {
		return p, err
	}
	p.moved = ref.ModTime()
	for _, wait := range []struct {
		from <-chan seen
		to   *time.Time
	}{{published, &p.published}, {answered, &p.answered}, {faulted, &p.faulted}} {
		s := <-wait.from
		if s.err != nil {
			err = errors.Join(err, s.err)
		}
		*wait.to = s.at
	}
	return p, err
}

// writes returns how long each of a number of puts of a policy's size takes, in
// milliseconds. A publication of one policy is one write, and etcd's part of it is
// to write it to disk.
func (w *pushWorld) writes(ctx context.Context, count int) (took []float64, err error) {
	for range count {
		began := time.Now()
		if _, err := w.etcd.Put(ctx, "/bench/write", strings.Repeat("x", 512)); err != nil {
			return nil, fmt.Errorf("writing into etcd: %w", err)
		}
		took = append(took, float64(time.Since(began).Microseconds())/1000)
	}
	return took, nil
}

// seen is when something was observed, or why it was not.
type seen struct {
	at  time.Time
	err error
}

// watchHead returns the time of the next write of etcd's head.
func (w *pushWorld) watchHead(ctx context.Context) (<-chan seen, func()) {
	ctx, stop := context.WithCancel(ctx)
	events := w.etcd.Watch(clientv3.WithRequireLeader(ctx), "/hfi/head")
	result := make(chan seen, 1)
	go func() {
		response, open := <-events
		if err := response.Err(); err != nil || !open {
			result <- seen{err: fmt.Errorf("watching etcd's head ended: %w", errors.Join(err, ctx.Err()))}
			return
		}
		result <- seen{at: time.Now()}
	}()
	return result, stop
}

// waitAnswer sends a waiting request to the daemon, as a filter does.
func (w *pushWorld) waitAnswer(ctx context.Context) (<-chan seen, error) {
	url := w.hfid.url + "/v1/policies?service=shop&namespace=demo"
	first, _, err := get(ctx, url, nil)
	if err != nil {
		return nil, err
	}
	result := make(chan seen, 1)
	go func() {
		response, _, err := get(ctx, url+"&wait=60s", http.Header{"If-None-Match": {first.Header.Get("ETag")}})
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("the waiting client got %s", response.Status)
		}
		result <- seen{time.Now(), err}
	}()
	return result, nil
}

// probe sends requests for a path to Envoy, at most a thousand a second, until one is faulted.
func (w *pushWorld) probe(ctx context.Context, path string) <-chan seen {
	result := make(chan seen, 1)
	var at atomic.Int64
	ctx, done := context.WithCancel(ctx)
	load := envoytest.Load{
		Request: envoytest.Request{URL: w.envoy.URL() + path}, Connections: 1, Rate: 1000, Duration: envoytest.WaitLimit,
		Check: func(status int, _ http.Header, _ []byte, _ time.Duration) error {
			if status == http.StatusServiceUnavailable && at.CompareAndSwap(0, time.Now().UnixNano()) {
				done()
			}
			return nil
		},
	}
	go func() {
		defer done()
		report, err := load.Run(ctx)
		if when := at.Load(); when != 0 {
			result <- seen{at: time.Unix(0, when)}
			return
		}
		result <- seen{err: fmt.Errorf("no request was faulted: %v, %w", report, err)}
	}()
	return result
}
