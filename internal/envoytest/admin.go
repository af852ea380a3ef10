package envoytest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/boifi/hfi/internal/testtool"
)

// adminClient keeps no connections, because Envoy closes them when it stops.
var adminClient = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// Admin sends a request such as GET /clusters to the admin interface. A status other
// than 200 is an error.
func (e *Envoy) Admin(method, path string) (string, error) {
	request, err := http.NewRequest(method, e.admin+path, nil)
	if err != nil {
		return "", err
	}
	response, err := adminClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("asking Envoy's admin interface: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("%s %s of Envoy's admin interface: %w", method, path, err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s %s of Envoy's admin interface: %d: %s", method, path, response.StatusCode, body)
	}
	return string(body), nil
}

// askListeners returns the base URL of each listener that accepts connections.
func (e *Envoy) askListeners() (map[string]string, error) {
	text, err := e.Admin("GET", "/listeners?format=json")
	if err != nil {
		return nil, err
	}
	var answer struct {
		Statuses []struct {
			Name    string `json:"name"`
			Address struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return nil, fmt.Errorf("reading Envoy's listeners: %w", err)
	}
	found := make(map[string]string)
	for _, status := range answer.Statuses {
		if socket := status.Address.Socket; socket.Port != 0 {
			found[status.Name] = fmt.Sprintf("http://%s:%d", socket.Address, socket.Port)
		}
	}
	return found, nil
}

// SetLogLevel sets the level of a logger, such as "wasm" to "debug", or of all loggers
// if the logger is empty.
func (e *Envoy) SetLogLevel(logger, level string) error {
	if logger == "" {
		logger = "level"
	}
	_, err := e.Admin("POST", "/logging?"+url.Values{logger: {level}}.Encode())
	return err
}

// Stats is one scrape of Envoy's Prometheus endpoint.
type Stats map[string]*dto.MetricFamily

// Stats scrapes the Prometheus endpoint and parses the result.
func (e *Envoy) Stats() (Stats, error) {
	text, err := e.Admin("GET", "/stats/prometheus")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("reading Envoy's Prometheus endpoint: %w", err)
	}
	return families, nil
}

// Has reports whether there is a metric with that name.
func (s Stats) Has(name string) bool { return s[name] != nil }

// Value returns the sum of a counter or gauge over all series with the labels, given
// as pairs of name and value. Without a series it is 0; see Has.
func (s Stats) Value(name string, labels ...string) float64 {
	if len(labels)%2 != 0 {
		panic("a label without a value")
	}
	var sum float64
	for _, metric := range s[name].GetMetric() {
		if has(metric, labels) {
			sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + metric.GetUntyped().GetValue()
		}
	}
	return sum
}

func has(metric *dto.Metric, labels []string) bool {
	for i := 0; i < len(labels); i += 2 {
		found := false
		for _, pair := range metric.GetLabel() {
			found = found || pair.GetName() == labels[i] && pair.GetValue() == labels[i+1]
		}
		if !found {
			return false
		}
	}
	return true
}

// WaitStats scrapes until a condition holds, for a limited time, and returns the last
// scrape.
func (e *Envoy) WaitStats(what string, limit time.Duration, wanted func(Stats) bool) (Stats, error) {
	var stats Stats
	err := testtool.Poll(limit, func() (err error) {
		if stats, err = e.Stats(); err != nil || !wanted(stats) {
			return fmt.Errorf("%s is not in Envoy's stats (the last scrape's error: %v)", what, err)
		}
		return nil
	})
	return stats, err
}
