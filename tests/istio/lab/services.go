//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// services has the cluster's Services and their endpoints. It translates their
// addresses, as kube-proxy does, and resolves their names.
type services struct {
	mu     sync.Mutex
	known  map[string]corev1.Service
	slices map[string]discoveryv1.EndpointSlice
	// changed has room for one signal.
	changed chan struct{}
	rules   string
}

func (l *Lab) startServices(ctx context.Context) error {
	s := &services{known: map[string]corev1.Service{}, slices: map[string]discoveryv1.EndpointSlice{}, changed: make(chan struct{}, 1)}
	go l.api.follow(ctx, "/api/v1/services", func(kind string, objects []json.RawMessage) { take(s, s.known, kind, objects) })
	go l.api.follow(ctx, "/apis/discovery.k8s.io/v1/endpointslices", func(kind string, objects []json.RawMessage) { take(s, s.slices, kind, objects) })
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.changed:
				// A failed rule is retried with the next change. A wait for the service
				// reports that it does not respond.
				_ = s.translate(ctx)
			}
		}
	}()
	return s.serveNames(ctx)
}

// take applies changes to one of the maps of s, by namespace and name.
func take[T any](s *services, into map[string]T, kind string, objects []json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if kind == "" {
		clear(into)
	}
	for _, text := range objects {
		var named struct {
			Metadata struct{ Namespace, Name string } `json:"metadata"`
		}
		var object T
		if json.Unmarshal(text, &named) != nil || json.Unmarshal(text, &object) != nil {
			continue
		}
		key := named.Metadata.Namespace + "/" + named.Metadata.Name
		if kind == "DELETED" {
			delete(into, key)
		} else {
			into[key] = object
		}
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// translate installs kernel rules that send connections to a Service to one of its
// ready endpoints, each with the same probability.
func (s *services) translate(ctx context.Context) error {
	var rules strings.Builder
	rules.WriteString("*nat\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n:SERVICES -\n-A PREROUTING -j SERVICES\n-A OUTPUT -j SERVICES\n")
	s.mu.Lock()
	for _, service := range s.known {
		if address, err := netip.ParseAddr(service.Spec.ClusterIP); err != nil || !address.Is4() {
			continue
		}
		for _, port := range service.Spec.Ports {
			protocol := strings.ToLower(string(port.Protocol))
			targets := s.endpoints(service.Namespace, service.Name, port.Name)
			for i, target := range targets {
				fmt.Fprintf(&rules, "-A SERVICES -d %s/32 -p %s --dport %d -m statistic --mode random --probability %.6f -j DNAT --to-destination %s\n",
					service.Spec.ClusterIP, protocol, port.Port, 1/float64(len(targets)-i), target)
				// Without this, a pod that connects to itself through its Service would not get the response.
				self, _, _ := strings.Cut(target, ":")
				fmt.Fprintf(&rules, "-A POSTROUTING -s %[1]s/32 -d %[1]s/32 -p %[2]s -j SNAT --to-source %[3]s\n", self, protocol, host)
			}
		}
	}
	s.mu.Unlock()
	rules.WriteString("COMMIT\n")
	text := rules.String()
	if text == s.rules {
		return nil
	}
	command := exec.Command("iptables-restore")
	command.Stdin = strings.NewReader(text)
	if _, err := run(ctx, command); err != nil {
		return err
	}
	s.rules = text
	return nil
}

// endpoints returns the ready addresses, with the port of that name.
func (s *services) endpoints(namespace, service, port string) []string {
	var found []string
	for _, slice := range s.slices {
		if slice.Namespace != namespace || slice.Labels[discoveryv1.LabelServiceName] != service {
			continue
		}
		for _, p := range slice.Ports {
			if p.Port == nil || (p.Name != nil && *p.Name != port) {
				continue
			}
			for _, endpoint := range slice.Endpoints {
				if ready := endpoint.Conditions.Ready; ready == nil || *ready {
					found = append(found, fmt.Sprintf("%s:%d", endpoint.Addresses[0], *p.Port))
				}
			}
		}
	}
	return found
}

// lookup finds the addresses of SERVICE.NAMESPACE, or of POD.SERVICE.NAMESPACE for
// a headless service.
func (s *services) lookup(name string) []netip.Addr {
	parts := strings.Split(name, ".")
	if len(parts) < 2 || len(parts) > 3 {
		return nil
	}
	pod, at := "", parts
	if len(parts) == 3 {
		pod, at = parts[0], parts[1:]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	service, ok := s.known[at[1]+"/"+at[0]]
	if !ok {
		return nil
	}
	if address, err := netip.ParseAddr(service.Spec.ClusterIP); err == nil {
		return []netip.Addr{address}
	}
	var found []netip.Addr
	for _, slice := range s.slices {
		if slice.Namespace != at[1] || slice.Labels[discoveryv1.LabelServiceName] != at[0] {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			if pod != "" && (endpoint.Hostname == nil || *endpoint.Hostname != pod) {
				continue
			}
			if address, err := netip.ParseAddr(endpoint.Addresses[0]); err == nil {
				found = append(found, address)
			}
		}
	}
	return found
}
