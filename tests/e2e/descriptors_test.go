package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// With 1,024 descriptors, 1,400 clients that wait and 1,400 that only connect
// shut nobody out: health and status are answered, and a push is served.
func TestManyConnectionsShutNobodyOut(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	first := commit(repo, "One", files(500, "a"))
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	d := hfidtest.New(t, server.URL, "--interval", "1h")
	d.MaxFiles = 1024
	d.Start()
	d.WaitReady()
	d.WaitSynced(first)
	tag, address := d.Policies("").ETag, strings.TrimPrefix(d.URL(), "http://")

	connect := func(request string) net.Conn {
		t.Helper()
		connection, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { connection.Close() })
		// One that was refused cannot be written to any more.
		_, _ = fmt.Fprint(connection, request)
		return connection
	}
	wait := "GET /v1/policies?wait=10m HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: " + tag + "\r\n\r\n"
	works := func(what, subject string) {
		t.Helper()
		for range 20 {
			for _, path := range []string{"/health", "/v1/policies"} {
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: testtool.WaitLimit}
				answer, err := client.Get(d.URL() + path)
				if err != nil {
					t.Fatalf("%s: %s: %v", what, path, err)
				}
				answer.Body.Close()
				if answer.StatusCode != 200 {
					t.Fatalf("%s: %s: %s", what, path, answer.Status)
				}
			}
		}
		pushed := commit(repo, subject, files(len(subject)*10, "a"))
		want(t, d, repo.Work(), 0, []string{"is served"}, "wait", pushed)
		if log := d.LogTail(1000); strings.Contains(log, "too many open files") {
			t.Errorf("%s: the daemon ran out of descriptors", what)
		}
	}
	var waiting []net.Conn
	for range 1400 {
		waiting = append(waiting, connect(wait))
	}
	d.WaitStatus("as many wait as may", func(s *api.Status) bool {
		c := s.Replica.Connections
		return c.Limit > 512 && c.Limit < 1024-200 && c.Waiting > 512 && c.Waiting < c.Limit
	})
	// The last one learns why, and when to come again.
	last := waiting[len(waiting)-1]
	_ = last.SetReadDeadline(time.Now().Add(testtool.WaitLimit))
	answer, err := http.ReadResponse(bufio.NewReader(last), nil)
	if err != nil || answer.StatusCode != 503 || answer.Header.Get("Retry-After") == "" || !answer.Close {
		t.Errorf("one too many got %+v, %v", answer, err)
	}
	works("with 1,400 that wait", "Two and")
	for range 1400 {
		connect("")
	}
	works("with 1,400 more that only connect", "Three and more")
}
