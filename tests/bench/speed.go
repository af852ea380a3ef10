package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// coldStart measures the time from the daemon's start with an empty data folder
// until all policies are served, compared with stock cue vet of the same files.
func coldStart(ctx context.Context, c config) (rows []row, err error) {
	folder, err := os.MkdirTemp("", "hfi-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	r, err := newRepo(folder, c.policies)
	if err != nil {
		return nil, err
	}
	vetAll := vetArguments(r, c.policies)
	var ratios, ours, theirs []float64
	var resident, peak float64
	for try := range 3 {
		began := time.Now()
		if _, err := tool(".tools/bin/cue", vetAll...); err != nil {
			return nil, err
		}
		vet := time.Since(began)
		began = time.Now()
		d, err := start(ctx, r.bare, filepath.Join(folder, fmt.Sprint("data-", try)))
		if err != nil {
			return nil, err
		}
		err = d.served(ctx, c.policies)
		cold := time.Since(began)
		time.Sleep(time.Second)
		resident, _ = d.memory("VmRSS")
		peak, _ = d.memory("VmHWM")
		if err := errors.Join(err, d.stop()); err != nil {
			return nil, err
		}
		ours, theirs, ratios = append(ours, cold.Seconds()), append(theirs, vet.Seconds()), append(ratios, cold.Seconds()/vet.Seconds())
	}
	ratio := median(ratios)
	return []row{
		{fmt.Sprintf("cold start to %d policies served, relative to stock `cue vet` of the same files", c.policies),
			fmt.Sprintf("%.2f (%.1f s, %.1f s)", ratio, median(ours), median(theirs)), "≤ 0.6", ratio <= 0.6, false},
		{fmt.Sprintf("the daemon's memory with %d policies, including the embedded etcd", c.policies),
			fmt.Sprintf("%.0f MB (peak %.0f MB)", resident, peak), "< 300 MB", max(resident, peak) < 300, true},
	}, nil
}

// oneChange measures the time from the update of the branch to the response of a
// client that waits for the changed policy, in a small set and in a large one, and
// the time of a simple script for the same change.
func oneChange(ctx context.Context, c config) ([]row, error) {
	small, _, err := changes(ctx, c, 100)
	if err != nil {
		return nil, err
	}
	large, naive, err := changes(ctx, c, c.policies)
	if err != nil {
		return nil, err
	}
	ratio := large / small
	return []row{
		{"one changed policy of 100, from the ref update until it is served, median", fmt.Sprintf("%.1f ms", small), "< 50 ms", small < 50, false},
		{fmt.Sprintf("one changed policy of %d, the same", c.policies), fmt.Sprintf("%.1f ms", large), "< 50 ms", large < 50, false},
		{"ratio of these two", fmt.Sprintf("%.2f", ratio), "≤ 2", ratio <= 2, false},
		{"pull, `cue vet` of all files and one `etcdctl put` for the same change, relative to hfi", fmt.Sprintf("%.0f (%.1f s)", naive*1000/large, naive), "", true, false},
	}, nil
}

func changes(ctx context.Context, c config, policies int) (milliseconds, naiveSeconds float64, err error) {
	r, d, end, err := serving(ctx, policies)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, end()) }()
	var took []float64
	for sample := range c.samples {
		i := sample * 37 % policies
		hash, err := r.prepare(i, 1000+sample)
		if err != nil {
			return 0, 0, err
		}
		elapsed, err := d.wake(ctx, service(i), func() error { return r.move(hash) })
		if err != nil {
			return 0, 0, err
		}
		took = append(took, float64(elapsed.Microseconds())/1000)
	}
	naiveSeconds, err = naiveScript(filepath.Dir(r.work), r, d, policies)
	return median(took), naiveSeconds, err
}

// wake measures the time from a change to the response of a client that waits for it.
func (d *daemon) wake(ctx context.Context, service string, change func() error) (time.Duration, error) {
	url := d.url + "/v1/policies?service=" + service + "&namespace=demo"
	first, _, err := get(ctx, url, nil)
	if err != nil {
		return 0, err
	}
	tag := first.Header.Get("ETag")
	type answer struct {
		at  time.Time
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		response, _, err := get(ctx, url+"&wait=60s", http.Header{"If-None-Match": {tag}})
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("the waiting client got %s", response.Status)
		}
		answers <- answer{time.Now(), err}
	}()
	time.Sleep(30 * time.Millisecond)
	began := time.Now()
	if err := change(); err != nil {
		return 0, err
	}
	a := <-answers
	return a.at.Sub(began), a.err
}

// naiveScript is the simple alternative: pull, vet all files, put the changed one.
func naiveScript(folder string, r *repo, d *daemon, policies int) (seconds float64, err error) {
	clone := filepath.Join(folder, "clone")
	if _, err := git("clone", "-q", "-b", "main", r.bare, clone); err != nil {
		return 0, err
	}
	endpoint, err := d.etcd()
	if err != nil {
		return 0, err
	}
	vetAll := vetArguments(&repo{work: clone}, policies)
	began := time.Now()
	_, pulled := git("-C", clone, "pull", "-q")
	_, vetted := tool(".tools/bin/cue", vetAll...)
	_, put := tool(".tools/bin/etcdctl", "--endpoints", endpoint, "put", "/naive/policy", "{}")
	return time.Since(began).Seconds(), errors.Join(pulled, vetted, put)
}

// vetArguments are the arguments with which stock cue vets all policies of a repository.
func vetArguments(r *repo, policies int) []string {
	args := []string{"vet", "-c", "-d", "#Policy", "schema/policy.cue"}
	for i := range policies {
		args = append(args, r.file(i))
	}
	return args
}

// driftSeen measures the time from a foreign put until /v1/drift reports it.
func driftSeen(ctx context.Context, c config) (rows []row, err error) {
	_, d, end, err := serving(ctx, 100)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	endpoint, err := d.etcd()
	if err != nil {
		return nil, err
	}
	var took []float64
	for sample := range c.samples {
		name := fmt.Sprintf("stray-%d", sample)
		began := time.Now()
		if _, err := tool(".tools/bin/etcdctl", "--endpoints", endpoint, "put", "/hfi/policies/"+name, "{}"); err != nil {
			return nil, err
		}
		err := until(ctx, time.Minute, "drift seen", func() bool {
			_, body, err := get(ctx, d.url+"/v1/drift", nil)
			return err == nil && strings.Contains(string(body), name)
		})
		if err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(began).Microseconds())/1000)
	}
	seen := median(took)
	return []row{{"a foreign `etcdctl put`, from its start until /v1/drift reports it, median", fmt.Sprintf("%.1f ms", seen), "< 100 ms", seen < 100, false}}, nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
