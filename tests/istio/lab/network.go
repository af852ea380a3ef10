//go:build linux

package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

// Addresses, as in typical clusters. The host is the machine of the servers; it
// routes to each pod over a separate link.
const (
	host         = "10.244.0.1"
	serviceRange = "10.0.0.0/16"
	apiService   = "10.0.0.1"
	dnsService   = "10.0.0.10"
)

func setUpNetwork(ctx context.Context) error {
	for _, arguments := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "host0", "type", "bridge"},
		{"addr", "add", host + "/32", "dev", "host0"},
		{"link", "set", "host0", "up"},
		// Without a route a connection to a service is refused before the
		// address is translated.
		{"route", "add", serviceRange, "dev", "host0", "src", host},
	} {
		if _, err := run(ctx, exec.Command("ip", arguments...)); err != nil {
			return err
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

// connect creates a network namespace with one interface, whose gateway is the host.
func connect(ctx context.Context, name, ip string) error {
	outside := "v" + name
	for _, arguments := range [][]string{
		{"netns", "add", name},
		{"link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name},
		{"link", "set", outside, "up"},
		{"route", "add", ip + "/32", "dev", outside, "src", host},
		{"-n", name, "link", "set", "lo", "up"},
		{"-n", name, "addr", "add", ip + "/32", "dev", "eth0"},
		{"-n", name, "link", "set", "eth0", "up"},
		{"-n", name, "route", "add", "default", "via", host, "dev", "eth0", "onlink"},
	} {
		if _, err := run(ctx, exec.Command("ip", arguments...)); err != nil {
			return fmt.Errorf("connecting a pod: %w", err)
		}
	}
	return nil
}

// disconnect removes the namespace and, with it, the link.
func disconnect(ctx context.Context, name string) {
	_, _ = run(ctx, exec.Command("ip", "link", "delete", "v"+name))
	_, _ = run(ctx, exec.Command("ip", "netns", "delete", name))
}

// address returns the address of the n-th pod of the lab, counted from 1.
func address(count int) string { return fmt.Sprintf("10.244.%d.%d", 1+count/250, 1+count%250) }
