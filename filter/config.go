package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The defaults of the settings.
const (
	defaultStaleAfter = 10 * time.Minute
	defaultMaxDelay   = 5 * time.Minute
)

// config is the filter's configuration: the JSON object in the WasmPlugin's
// pluginConfig, or in the string value of Envoy's own Wasm filter.
type config struct {
	source
	// MaxDelay limits delays. It is positive. A paused request takes memory, and
	// would never continue if the VM failed.
	MaxDelay time.Duration
	// FaultHeader adds the header x-hfi-fault to aborts.
	FaultHeader bool
	// FaultProbes injects faults into health probes too.
	FaultProbes bool
	// PolicyTag counts faults by policy. Envoy's bootstrap must extract the tag,
	// otherwise the names of the metrics are unreadable.
	PolicyTag bool
}

// source has the settings on which it depends what policies are in force. Plugin
// contexts with equal sources share a poller.
type source struct {
	// Address is the daemon's HOST:PORT. If Cluster is empty, the name of the
	// cluster is derived from it by Istio's rule.
	Address string
	// Cluster is the Envoy cluster of the daemon.
	Cluster string
	// StaleAfter is how long policies stay in force without a confirmation by the
	// daemon. It is positive.
	StaleAfter time.Duration
}

func defaultConfig() config {
	return config{source: source{StaleAfter: defaultStaleAfter}, MaxDelay: defaultMaxDelay, FaultHeader: true}
}

// parseConfig parses a configuration. It returns a problem for each setting that
// is invalid, which keeps its default, and for each unknown setting.
func parseConfig(text []byte) (config, []error) {
	c := defaultConfig()
	var settings map[string]json.RawMessage
	if err := json.Unmarshal(text, &settings); err != nil {
		return c, []error{fmt.Errorf("the configuration is not a JSON object: %w", err)}
	}
	var problems []error
	for name, value := range settings {
		if err := c.set(name, value); err != nil {
			problems = append(problems, fmt.Errorf("setting %s: %w", name, err))
		}
	}
	if !c.hasControlPlane() {
		problems = append(problems, fmt.Errorf("neither control_plane_address nor control_plane_cluster is set: the filter gets no policies"))
	}
	return c, problems
}

func (c *config) set(name string, value json.RawMessage) (err error) {
	switch name {
	case "control_plane_address":
		err = json.Unmarshal(value, &c.Address)
		c.Address = strings.TrimRight(strings.TrimPrefix(c.Address, "http://"), "/")
		if strings.Contains(c.Address, "/") {
			err = fmt.Errorf("%q is not HOST:PORT", c.Address)
			c.Address = ""
		}
	case "control_plane_cluster":
		err = json.Unmarshal(value, &c.Cluster)
	case "stale_after":
		err = setDuration(&c.StaleAfter, value)
	case "max_delay":
		err = setDuration(&c.MaxDelay, value)
	case "fault_header":
		err = json.Unmarshal(value, &c.FaultHeader)
	case "fault_health_probes":
		err = json.Unmarshal(value, &c.FaultProbes)
	case "policy_tag":
		err = json.Unmarshal(value, &c.PolicyTag)
	default:
		err = fmt.Errorf("unknown setting")
	}
	return err
}

// setDuration parses a duration in Go's format, or a number of seconds.
func setDuration(to *time.Duration, value json.RawMessage) error {
	var text string
	var seconds float64
	var duration time.Duration
	if err := json.Unmarshal(value, &text); err == nil {
		if duration, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("%q is not a duration such as 10m", text)
		}
	} else if err := json.Unmarshal(value, &seconds); err == nil {
		duration = time.Duration(seconds * float64(time.Second))
	} else {
		return fmt.Errorf("%s is not a duration such as \"10m\" or 600", value)
	}
	if duration < time.Millisecond {
		return fmt.Errorf("%s is too short", value)
	}
	*to = duration
	return nil
}

// hasControlPlane reports whether there is a control plane to fetch policies from.
func (s *source) hasControlPlane() bool { return s.Address != "" || s.Cluster != "" }

const defaultPort = 8080

// clusters returns the possible names of the daemon's cluster, the likeliest first.
func (s *source) clusters() []string {
	if s.Cluster != "" {
		return []string{s.Cluster}
	}
	host, port := s.Address, strconv.Itoa(defaultPort)
	if h, p, given := strings.Cut(s.Address, ":"); given {
		host, port = h, p
	}
	name := host
	// Istio uses the full DNS name in the names of clusters; users often write
	// SERVICE.NAMESPACE.
	if strings.Count(name, ".") == 1 {
		name += ".svc"
	}
	if strings.HasSuffix(name, ".svc") {
		name += ".cluster.local"
	}
	return []string{"outbound|" + port + "||" + name, s.Address, host}
}

// authority returns the Host header of requests to the daemon.
func (s *source) authority() string {
	if s.Address != "" {
		return s.Address
	}
	return "hfi-control-plane"
}
