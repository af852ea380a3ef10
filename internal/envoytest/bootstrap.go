package envoytest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"
)

// object is a JSON object of Envoy's configuration: its v3 API in the JSON
// mapping of protocol buffers.
type object = map[string]any

// manyRequests is a limit that no test reaches.
const manyRequests = 1_000_000

// Bootstrap returns the configuration file of an Envoy that writes its logs into folder.
func (c *Config) Bootstrap(folder string) ([]byte, error) {
	if len(c.Listeners) == 0 {
		return nil, errors.New("an Envoy without listeners would do nothing")
	}
	var clusters, listeners []object
	for _, cluster := range c.Clusters {
		built, err := cluster.build()
		if err != nil {
			return nil, fmt.Errorf("cluster %q: %w", cluster.Name, err)
		}
		clusters = append(clusters, built)
	}
	for _, listener := range c.Listeners {
		built, err := listener.build(c, folder)
		if err != nil {
			return nil, fmt.Errorf("listener %q: %w", listener.name(), err)
		}
		listeners = append(listeners, built)
	}
	var tags []object
	for _, tag := range append([]StatsTag{PolicyTag}, c.StatsTags...) {
		tags = append(tags, object{"tag_name": tag.Name, "regex": tag.Regex})
	}
	node := object{"id": cmp.Or(c.Node.ID, "test"), "cluster": cmp.Or(c.Node.Cluster, "test")}
	if c.Node.Metadata != nil {
		node["metadata"] = c.Node.Metadata
	}
	bootstrap := object{
		"node":             node,
		"admin":            object{"address": socket("127.0.0.1", 0)},
		"static_resources": object{"listeners": listeners, "clusters": clusters},
		"stats_config":     object{"stats_tags": tags},
	}
	if c.Dynamic != nil {
		bootstrap["dynamic_resources"] = object{"lds_config": object{
			"resource_api_version": "V3", "path_config_source": object{"path": dynamicFile(folder)},
		}}
	}
	return json.Marshal(bootstrap)
}

func (l *Listener) name() string { return cmp.Or(l.Name, "main") }

func (l *Listener) build(c *Config, folder string) (object, error) {
	routes := l.Routes
	if len(routes) == 0 {
		routes = []Route{{}}
	}
	var builtRoutes []object
	for _, route := range routes {
		built, err := route.build(c)
		if err != nil {
			return nil, err
		}
		builtRoutes = append(builtRoutes, built)
	}
	var filters []object
	for _, filter := range append(l.Filters[:len(l.Filters):len(l.Filters)], router) {
		filters = append(filters, object{"name": filter.Name, "typed_config": filter.Config})
	}
	manager := object{
		"@type":       "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": l.name(),
		"codec_type":  "AUTO",
		"route_config": object{
			"name":          l.name(),
			"virtual_hosts": []object{{"name": "all", "domains": []string{"*"}, "routes": builtRoutes}},
		},
		"http_filters": filters,
		// The default depends on the version, and Envoy warns if it is not set.
		"internal_address_config": object{},
	}
	if l.StreamIdleTimeout != 0 {
		manager["stream_idle_timeout"] = seconds(l.StreamIdleTimeout)
	}
	if l.AccessLog != "" {
		manager["access_log"] = []object{{
			"name": "envoy.access_loggers.file",
			"typed_config": object{
				"@type":      "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
				"path":       accessLogFile(folder, l.name()),
				"log_format": object{"text_format_source": object{"inline_string": l.AccessLog + "\n"}},
			},
		}}
	}
	chain := object{"filters": []object{{
		"name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
	}}}
	if l.Chain != "" {
		chain["name"] = l.Chain
	}
	return object{
		"name":          l.name(),
		"address":       socket("127.0.0.1", 0),
		"filter_chains": []object{chain},
	}, nil
}

func accessLogFile(folder, listener string) string {
	return filepath.Join(folder, "access-"+listener+".log")
}

func (r *Route) build(c *Config) (object, error) {
	built := object{"match": object{"prefix": cmp.Or(r.Prefix, "/")}}
	if r.Status != 0 {
		built["direct_response"] = object{"status": r.Status}
	} else {
		name := r.Cluster
		if name == "" {
			if len(c.Clusters) == 0 {
				return nil, errors.New("a route needs a cluster or a status")
			}
			name = c.Clusters[0].Name
		}
		action := object{"cluster": name}
		if r.Timeout != 0 {
			action["timeout"] = seconds(max(r.Timeout, 0))
		}
		built["route"] = action
	}
	if len(r.PerFilter) > 0 {
		built["typed_per_filter_config"] = r.PerFilter
	}
	return built, nil
}

func (c *Cluster) build() (object, error) {
	var endpoints []object
	for _, address := range append([]string{c.Address}, c.Others...) {
		server, err := endpoint(address)
		if err != nil {
			return nil, err
		}
		endpoints = append(endpoints, server)
	}
	built := object{
		"name":            c.Name,
		"type":            "STATIC",
		"connect_timeout": seconds(cmp.Or(c.ConnectTimeout, 5*time.Second)),
		"circuit_breakers": object{"thresholds": []object{{
			"max_connections": manyRequests, "max_pending_requests": manyRequests, "max_requests": manyRequests,
		}}},
		"load_assignment": object{
			"cluster_name": c.Name,
			"endpoints":    []object{{"lb_endpoints": endpoints}},
		},
	}
	if c.HTTP2 {
		built["typed_extension_protocol_options"] = object{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
				"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				"explicit_http_config": object{"http2_protocol_options": object{}},
			},
		}
	}
	return built, nil
}

// endpoint returns the endpoint of a server, given as HOST:PORT.
func endpoint(address string) (object, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("the port of %s: %w", address, err)
	}
	if net.ParseIP(host) == nil {
		return nil, fmt.Errorf("the host of %s is not an IP address", address)
	}
	return object{"endpoint": object{"address": socket(host, port)}}, nil
}

func socket(host string, port uint64) object {
	return object{"socket_address": object{"address": host, "port_value": port}}
}

// seconds formats a duration for the JSON of protocol buffers, such as "0.250000000s".
func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', 9, 64) + "s"
}
