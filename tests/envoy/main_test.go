// Package envoy tests hfi with a real, stock Envoy.
package envoy

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/hfidtest"
)

func TestMain(m *testing.M) { os.Exit(endShared(hfidtest.Main(m))) }

// client returns a client that is closed at the end of the test.
func client(t *testing.T, http2 bool) *envoytest.Client {
	t.Helper()
	c := envoytest.NewClient(http2)
	t.Cleanup(c.Close)
	return c
}

// get sends a GET request and fails the test unless there is a response, of any status.
func get(t *testing.T, c *envoytest.Client, url string) *envoytest.Response {
	t.Helper()
	answer, err := c.Get(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// load runs a load to its end, and fails the test if a request got no response.
func load(t *testing.T, l envoytest.Load) *envoytest.Report {
	t.Helper()
	report, err := l.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if report.Errors > 0 {
		t.Fatalf("requests without a response: %s", report)
	}
	return report
}

// emptyModule returns the path of a module that does nothing.
func emptyModule(t *testing.T, more ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "empty.wasm")
	if err := os.WriteFile(file, envoytest.EmptyModule(more...), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
