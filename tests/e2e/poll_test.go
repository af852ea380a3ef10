package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/testtool"
)

// pollURL sends requests until the response contains a text, and returns the response.
func pollURL(t *testing.T, url, text string) string {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	last := ""
	testtool.Within(t, testtool.WaitLimit, "GET "+url, func() error {
		response, err := client.Get(url)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if last = string(body); err != nil || !strings.Contains(last, text) {
			return fmt.Errorf("it does not contain %s (%v): %s", text, err, last)
		}
		return nil
	})
	return last
}

// ctl runs etcdctl on an endpoint.
func ctl(t *testing.T, endpoint string, arguments ...string) (string, error) {
	t.Helper()
	return etcdtest.Ctl(t, append([]string{"--endpoints", endpoint}, arguments...)...)
}
