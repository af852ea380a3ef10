package main

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/boifi/hfi/filter/settings"
)

// The defaults of the settings.
const (
	defaultStaleAfter = 10 * time.Minute
	defaultMaxDelay   = 5 * time.Minute
)

// maxName is the longest name that the daemon accepts, in bytes.
const maxName = 253

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
	// Outbound reports that the requests are those that the workload sends. Policies
	// are for one of the directions.
	Outbound bool
	// OfGateway reports that the requests are those that pass through a gateway. An Envoy
	// that is none would take those that its workload sends for received ones.
	OfGateway bool
}

// source has the settings on which it depends what policies are in force. Plugin
// contexts with equal sources share a poller.
type source struct {
	// Address is the daemon's HOST:PORT. If Cluster is empty, the name of the
	// cluster is derived from it by Istio's rule.
	Address string
	// Cluster is the Envoy cluster of the daemon.
	Cluster string
	// Gateway, if not empty, is the name of the gateway that this Envoy is. Namespace is
	// its namespace, if the node's metadata has none.
	Gateway, Namespace string
	// StaleAfter is how long policies stay in force without a confirmation by the
	// daemon. It is positive.
	StaleAfter time.Duration
	// Refused is why the policies are not put in force, or empty. Then the daemon is
	// asked all the same, and told why.
	Refused string
}

func defaultConfig() config {
	return config{source: source{StaleAfter: defaultStaleAfter}, MaxDelay: defaultMaxDelay, FaultHeader: true}
}

// parseConfig parses a configuration. It returns a problem for each setting that
// is invalid, which keeps its default, and for each unknown setting.
func parseConfig(text []byte) (config, []error) {
	c := defaultConfig()
	list, err := settings.Parse(text)
	if err != nil {
		problem := errors.New("the configuration is not a JSON object: " + err.Error())
		c.refuse(problem.Error())
		return c, []error{problem}
	}
	var problems []error
	for _, setting := range list {
		if err := c.set(setting.Name, setting.Value); err != nil {
			problems = append(problems, errors.New("setting "+shortened(setting.Name)+": "+err.Error()))
		}
	}
	if c.Namespace != "" && c.Gateway == "" {
		problems = append(problems, errors.New("setting namespace: it is only for a gateway, and gateway is not set"))
		c.Namespace = ""
	}
	if c.Address == "" && c.Cluster == "" {
		problems = append(problems, errors.New("neither control_plane_address nor control_plane_cluster is set: the filter gets no policies"))
		c.refuse(problems[0].Error())
	}
	return c, problems
}

func (c *config) set(name string, value settings.Value) (err error) {
	switch name {
	case "control_plane_address":
		err = setText(&c.Address, value)
		c.Address = strings.TrimRight(strings.TrimPrefix(c.Address, "http://"), "/")
		if strings.Contains(c.Address, "/") {
			err = wrong(value, "is not HOST:PORT")
			c.Address = ""
		}
	case "control_plane_cluster":
		err = setText(&c.Cluster, value)
	case "gateway":
		err = c.setName(name, &c.Gateway, value)
	case "namespace":
		err = c.setName(name, &c.Namespace, value)
	case "stale_after":
		err = setDuration(&c.StaleAfter, value)
	case "max_delay":
		err = setDuration(&c.MaxDelay, value)
	case "fault_header":
		err = setBool(&c.FaultHeader, value)
	case "fault_health_probes":
		err = setBool(&c.FaultProbes, value)
	case "policy_tag":
		err = setBool(&c.PolicyTag, value)
	case "direction":
		if err = c.setDirection(value); err != nil {
			// The default could fault the requests of the other direction.
			c.refuse("setting " + name + ": " + err.Error())
		}
	default:
		err = errors.New("unknown setting")
	}
	return err
}

func (c *config) setDirection(value settings.Value) error {
	switch {
	case value.Kind == settings.Null:
	case value.Kind == settings.String && value.Text == "inbound":
		c.Outbound, c.OfGateway = false, false
	case value.Kind == settings.String && value.Text == "outbound":
		c.Outbound, c.OfGateway = true, false
	case value.Kind == settings.String && value.Text == "gateway":
		c.Outbound, c.OfGateway = false, true
	default:
		return wrong(value, "is not \"inbound\", \"outbound\" or \"gateway\": no faults are injected")
	}
	return nil
}

// setText sets a string. Like a missing setting, null changes nothing.
func setText(to *string, value settings.Value) error {
	switch value.Kind {
	case settings.Null:
	case settings.String:
		*to = value.Text
	default:
		return wrong(value, "is not a string")
	}
	return nil
}

// setName sets the name of a gateway or a namespace, as a selector may have it. With another value
// the policies for workloads could apply to the gateway, or those for any namespace.
func (c *config) setName(setting string, to *string, value settings.Value) error {
	switch {
	case value.Kind == settings.Null:
		return nil
	case value.Kind == settings.String && len(value.Text) <= maxName && !strings.ContainsAny(value.Text, "* \t\r\n"):
		*to = value.Text
		return nil
	}
	err := wrong(value, "is not a name: no faults are injected")
	c.refuse("setting " + setting + ": " + err.Error())
	return err
}

func setBool(to *bool, value settings.Value) error {
	switch value.Kind {
	case settings.Null:
	case settings.Bool:
		*to = value.JSON == "true"
	default:
		return wrong(value, "is neither true nor false")
	}
	return nil
}

// setDuration parses a duration in Go's format, or a number of seconds.
func setDuration(to *time.Duration, value settings.Value) error {
	duration, err := value.Duration()
	if err != nil {
		return wrong(value, err.Error())
	}
	if duration < time.Millisecond {
		return wrong(value, "is too short")
	}
	*to = duration
	return nil
}

// wrong returns an error about a setting's value.
func wrong(value settings.Value, is string) error {
	return errors.New(shortened(value.JSON) + " " + is)
}

// shortened returns the beginning of a text from the configuration, for a message.
func shortened(text string) string {
	const limit = 100
	if len(text) <= limit {
		return text
	}
	return text[:limit] + "…"
}

// defaultControlPlane is where the daemon is in a cluster on which it was installed as
// deploy/README.md says.
const defaultControlPlane = "hfi-control-plane.boifi:8080"

// refuse sets why no policies are put in force.
func (s *source) refuse(why string) {
	s.Refused = why
	if s.Address == "" && s.Cluster == "" {
		s.Address = defaultControlPlane
	}
}

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
