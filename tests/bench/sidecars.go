package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// sidecarVMs are the VMs of a simulated sidecar: those of an Envoy with two workers.
const sidecarVMs = 3

// sidecars simulates the filters of as many sidecars as there are clients, all of one
// service, on one replica. Each has one connection, on which one VM asks for the
// three of its Envoy, again after each answer. It measures the daemon's memory, and
// the time from a push until the last sidecar has the change, and until the status
// says that all have.
func sidecars(ctx context.Context, c config) (rows []row, err error) {
	r, d, end, err := serving(ctx, 100)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	before, err := d.memory("VmRSS")
	if err != nil {
		return nil, err
	}
	changed := 7
	var given atomic.Int64
	var tasks sync.WaitGroup
	var all []*asker
	defer tasks.Wait()
	defer func() {
		for _, one := range all {
			one.connection.Close()
		}
	}()
	for i := range c.clients {
		one := &asker{address: strings.TrimPrefix(d.url, "http://"), waits: "20s"}
		if err := one.dial(); err != nil {
			return nil, err
		}
		for vm := 1; vm < sidecarVMs; vm++ {
			one.others = join(one.others, fmt.Sprintf("%016x", sidecarVMs*i+vm))
		}
		all = append(all, one)
		tasks.Go(func() {
			for had := ""; ; {
				if err := one.ask(fmt.Sprint("pod-", i), service(changed), "demo"); err != nil {
					return // The connection was closed.
				}
				if one.tag != had {
					had = one.tag
					given.Add(1)
				}
			}
		})
	}
	first, err := d.allCurrent(ctx, c.clients)
	if err != nil {
		return nil, err
	}
	if vms := first.Items[0].VMs; vms.Total != sidecarVMs {
		return nil, fmt.Errorf("the status has %d VMs of a sidecar", vms.Total)
	}
	during, err := d.memory("VmRSS")
	if err != nil {
		return nil, err
	}
	given.Store(0)
	hash, err := r.prepare(changed, 4242)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := r.move(hash); err != nil {
		return nil, err
	}
	if err := until(ctx, time.Minute, "the sidecars got the change", func() bool { return given.Load() >= int64(c.clients) }); err != nil {
		return nil, err
	}
	last := time.Since(began)
	if _, err := d.allCurrent(ctx, c.clients); err != nil {
		return nil, err
	}
	settled := time.Since(began)
	after, err := d.memory("VmHWM")
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%d sidecars of %d VMs", c.clients, sidecarVMs)
	each := (during - before) * 1024 / float64(c.clients)
	return []row{
		{"memory of a replica with " + name + ", including the embedded etcd (without them, at most)", fmt.Sprintf("%.0f MB (%.0f, %.0f)", during, before, after), "< 600 MB", during < 600, true},
		{"memory of each of " + name, fmt.Sprintf("%.0f kB", each), "", true, false},
		{"from git push to the last of " + name + ", and until the status says so", fmt.Sprintf("%d ms, %d ms", last.Milliseconds(), settled.Milliseconds()), "", true, false},
	}, nil
}

func join(list, item string) string {
	if list == "" {
		return item
	}
	return list + "," + item
}

// allCurrent waits until the status has that number of filters, all current.
func (d *daemon) allCurrent(ctx context.Context, count int) (filters api.FiltersStatus, err error) {
	err = until(ctx, 2*time.Minute, "all filters are current", func() bool {
		_, body, err := get(ctx, d.url+"/v1/filters", nil)
		return err == nil && json.Unmarshal(body, &filters) == nil && filters.Current == count && filters.Connected == count
	})
	return filters, err
}
