package oldhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/boifi/hfi/internal/testtool"
)

func (h *host) newContext(parent uint32) *contextOf {
	h.lastContext++
	c := &contextOf{id: h.lastContext, parent: parent, marks: map[string]string{}}
	h.contexts[c.id] = c
	h.callback(c.id, "proxy_on_context_create", uint64(c.id), uint64(parent))
	return c
}

// startPlugin starts a plugin context with a configuration, and returns its ID.
func (h *host) startPlugin(configuration string) uint32 {
	h.t.Helper()
	h.configuration = configuration
	c := h.newContext(0)
	if h.callback(c.id, "proxy_on_vm_start", uint64(c.id), 0) != 1 {
		h.t.Fatal("the VM does not start")
	}
	if h.callback(c.id, "proxy_on_configure", uint64(c.id), uint64(len(configuration))) != 1 {
		h.t.Fatal("the plugin is not configured")
	}
	return c.id
}

// request begins a stream with these headers of a GET request.
func (h *host) request(plugin uint32, path string, more ...[2]string) *contextOf {
	h.t.Helper()
	c := h.newContext(plugin)
	c.headers = append([][2]string{{":method", "GET"}, {":path", path}, {":authority", "example.com"}}, more...)
	c.paused = h.callback(c.id, "proxy_on_request_headers", uint64(c.id), uint64(len(c.headers)), 1) != 0
	if c.response != nil && !c.paused {
		h.t.Fatal("a request continues after its response")
	}
	return c
}

// end ends a stream.
func (h *host) end(c *contextOf) {
	h.t.Helper()
	h.callback(c.id, "proxy_on_done", uint64(c.id))
	h.callback(c.id, "proxy_on_log", uint64(c.id))
	h.callback(c.id, "proxy_on_delete", uint64(c.id))
	delete(h.contexts, c.id)
}

// handle handles what is due: responses of clusters, and ticks.
func (h *host) handle() {
	h.t.Helper()
	for {
		select {
		case a := <-h.answers:
			if h.contexts[a.in] == nil {
				continue
			}
			h.answer = a
			h.callback(a.in, "proxy_on_http_call_response", uint64(a.in), uint64(a.token), uint64(len(a.headers)), uint64(len(a.body)), 0)
			h.answer = nil
		default:
			now := time.Now()
			for _, c := range h.contexts {
				if !c.tick.IsZero() && !c.tick.After(now) {
					c.tick = now.Add(c.period)
					h.callback(c.id, "proxy_on_tick", uint64(c.id))
				}
			}
			return
		}
	}
}

// until handles what is due until a condition holds.
func (h *host) until(what string, condition func() bool) {
	h.t.Helper()
	testtool.Within(h.t, testtool.WaitLimit, what, func() error {
		h.handle()
		if !condition() {
			return errors.New("not yet")
		}
		return nil
	})
}

// ask sends a request to a cluster.
func (h *host) ask(in uint32, base string, headers [][2]string, limit time.Duration) (token uint32) {
	h.lastCall++
	token = h.lastCall
	go func() {
		a := &answer{in: in, token: token, headers: [][2]string{{":status", "503"}}}
		defer func() {
			select {
			case h.answers <- a:
			case <-h.ctx.Done():
			}
		}()
		ctx, cancel := context.WithTimeout(h.ctx, limit)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, header(headers, ":method"), base+header(headers, ":path"), http.NoBody)
		if err != nil {
			return
		}
		for _, pair := range headers {
			if !strings.HasPrefix(pair[0], ":") {
				request.Header.Add(pair[0], pair[1])
			}
		}
		got, err := http.DefaultClient.Do(request)
		if err != nil {
			return
		}
		defer got.Body.Close()
		body, err := io.ReadAll(got.Body)
		if err != nil {
			return
		}
		a.headers, a.body = [][2]string{{":status", fmt.Sprint(got.StatusCode)}}, body
		for name, values := range got.Header {
			for _, value := range values {
				a.headers = append(a.headers, [2]string{strings.ToLower(name), value})
			}
		}
	}()
	return token
}

func header(headers [][2]string, name string) string {
	for _, pair := range headers {
		if pair[0] == name {
			return pair[1]
		}
	}
	return ""
}

// said reports whether a line of the log contains a text.
func (h *host) said(text string) bool {
	return slices.ContainsFunc(h.log, func(line string) bool { return strings.Contains(line, text) })
}

// value returns the value of a metric.
func (h *host) value(name string) int64 {
	if m := h.metrics[h.metricNames[name]]; m != nil {
		return m.value
	}
	return 0
}
