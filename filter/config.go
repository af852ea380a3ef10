package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The settings' defaults.
const (
	defaultStaleAfter = 10 * time.Minute
	defaultMaxDelay   = 5 * time.Minute
)

// config is the filter's configuration: the JSON object in the WasmPlugin's
// pluginConfig, or in the string value of Envoy's own Wasm filter.
type config struct {
	// Address is the daemon's HOST:PORT. It names the cluster, by Istio's rule,
	// if Cluster is empty.
	Address string
	// Cluster is the Envoy cluster of the daemon.
	Cluster string
	// StaleAfter is how long policies stay in force that the daemon has not
	// confirmed; positive.
	StaleAfter time.Duration
	// MaxDelay cuts longer delays down; positive. A paused request holds
	// memory, and would hang for good should the VM fail.
	MaxDelay time.Duration
	// FaultHeader: aborts carry the header x-hfi-fault.
	FaultHeader bool
	// FaultProbes: health probes are faulted like other requests.
	FaultProbes bool
	// PolicyTag: fault metrics are by policy. The bootstrap has to extract the
	// tag, else the metrics' names are unreadable.
	PolicyTag bool
}

func defaultConfig() config {
	return config{StaleAfter: defaultStaleAfter, MaxDelay: defaultMaxDelay, FaultHeader: true}
}

// parseConfig reads a configuration. A setting that cannot be read keeps its
// default and is among the problems; so is a name that no setting has. Only
// without a cluster to ask is a configuration of no use.
func parseConfig(text []byte) (config, []error) {
	c := defaultConfig()
	var settings map[string]json.RawMessage
	if err := json.Unmarshal(text, &settings); err != nil {
		return c, []error{fmt.Errorf("the configuration is no JSON object: %w", err)}
	}
	var problems []error
	for name, value := range settings {
		if err := c.set(name, value); err != nil {
			problems = append(problems, fmt.Errorf("setting %s: %w", name, err))
		}
	}
	if !c.asks() {
		problems = append(problems, fmt.Errorf("neither control_plane_address nor control_plane_cluster is set: there is nobody to ask for policies"))
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
		err = fmt.Errorf("there is no such setting")
	}
	return err
}

// setDuration reads a duration as Go writes it, or a number of seconds.
func setDuration(to *time.Duration, value json.RawMessage) error {
	var text string
	var seconds float64
	var duration time.Duration
	if err := json.Unmarshal(value, &text); err == nil {
		if duration, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("%q is no duration such as 10m", text)
		}
	} else if err := json.Unmarshal(value, &seconds); err == nil {
		duration = time.Duration(seconds * float64(time.Second))
	} else {
		return fmt.Errorf("%s is no duration such as \"10m\" or 600", value)
	}
	if duration < time.Millisecond {
		return fmt.Errorf("%s is too short", value)
	}
	*to = duration
	return nil
}

// asks says whether there is anybody to ask for policies.
func (c *config) asks() bool { return c.Address != "" || c.Cluster != "" }

const defaultPort = 8080

// clusters are the names under which this Envoy may know the daemon, the
// likeliest first.
func (c *config) clusters() []string {
	if c.Cluster != "" {
		return []string{c.Cluster}
	}
	host, port := c.Address, strconv.Itoa(defaultPort)
	if h, p, given := strings.Cut(c.Address, ":"); given {
		host, port = h, p
	}
	name := host
	// Istio names clusters by the whole DNS name; SERVICE.NAMESPACE is what people write.
	if strings.Count(name, ".") == 1 {
		name += ".svc"
	}
	if strings.HasSuffix(name, ".svc") {
		name += ".cluster.local"
	}
	return []string{"outbound|" + port + "||" + name, c.Address, host}
}

// authority is the Host header of the filter's requests.
func (c *config) authority() string {
	if c.Address != "" {
		return c.Address
	}
	return "hfi-control-plane"
}
