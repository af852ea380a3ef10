package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/hfidtest"
)

// pollURL asks until the answer holds a text, and gives the answer.
func pollURL(t *testing.T, url, text string) string {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	last := ""
	for deadline := time.Now().Add(hfidtest.Patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		response, err := client.Get(url)
		if err != nil {
			last = err.Error()
			continue
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if last = string(body); err == nil && strings.Contains(last, text) {
			return last
		}
	}
	t.Fatalf("GET %s never held %s: %s", url, text, last)
	return ""
}

// ctl runs etcdctl on an endpoint.
func ctl(t *testing.T, endpoint string, arguments ...string) (string, error) {
	t.Helper()
	return etcdtest.Ctl(t, append([]string{"--endpoints", endpoint}, arguments...)...)
}
