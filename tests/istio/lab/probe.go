//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// probe runs the container's probes while its process runs: first the startup
// probe, then the two others concurrently.
func (c *container) probe(ctx context.Context, process *process) {
	if probe := c.spec.StartupProbe; probe != nil {
		if !c.until(ctx, probe) {
			if ctx.Err() == nil {
				c.restart(process)
			}
			return
		}
	}
	c.mu.Lock()
	c.started = true
	c.ready = c.spec.ReadinessProbe == nil
	c.mu.Unlock()
	c.pass()
	if probe := c.spec.LivenessProbe; probe != nil {
		living := make(chan struct{})
		defer func() { <-living }()
		go func() {
			defer close(living)
			if c.while(ctx, probe) {
				c.restart(process)
			}
		}()
	}
	if probe := c.spec.ReadinessProbe; probe != nil {
		c.watchReadiness(ctx, probe)
	}
}

// until probes until the first success, and returns false after the allowed number of failures.
func (c *container) until(ctx context.Context, probe *corev1.Probe) bool {
	pause(ctx, seconds(probe.InitialDelaySeconds))
	for failures := int32(0); failures < probe.FailureThreshold && ctx.Err() == nil; failures++ {
		if c.try(ctx, probe) == nil {
			return true
		}
		pause(ctx, seconds(probe.PeriodSeconds))
	}
	return false
}

// while probes until there are too many failures in a row, and reports whether
// there were.
func (c *container) while(ctx context.Context, probe *corev1.Probe) bool {
	pause(ctx, seconds(probe.InitialDelaySeconds))
	for failures := int32(0); ctx.Err() == nil; {
		failures++
		if c.try(ctx, probe) == nil {
			failures = 0
		}
		if failures >= probe.FailureThreshold {
			return ctx.Err() == nil
		}
		pause(ctx, seconds(probe.PeriodSeconds))
	}
	return false
}

func (c *container) watchReadiness(ctx context.Context, probe *corev1.Probe) {
	pause(ctx, seconds(probe.InitialDelaySeconds))
	for failures, successes := int32(0), int32(0); ctx.Err() == nil; {
		if err := c.try(ctx, probe); err == nil {
			failures, successes = 0, successes+1
		} else {
			failures, successes = failures+1, 0
		}
		c.mu.Lock()
		if successes >= probe.SuccessThreshold {
			c.ready = true
		}
		if failures >= probe.FailureThreshold {
			c.ready = false
		}
		c.mu.Unlock()
		pause(ctx, seconds(probe.PeriodSeconds))
	}
}

func (c *container) restart(process *process) {
	grace := 30 * time.Second
	if given := c.p.object.Spec.TerminationGracePeriodSeconds; given != nil {
		grace = time.Duration(*given) * time.Second
	}
	process.signal(syscall.SIGTERM)
	select {
	case <-process.done:
	case <-time.After(grace):
		process.signal(syscall.SIGKILL)
	}
}

func seconds(count int32) time.Duration { return time.Duration(count) * time.Second }

// try runs a probe once.
func (c *container) try(ctx context.Context, probe *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, seconds(max(probe.TimeoutSeconds, 1)))
	defer cancel()
	switch {
	case probe.HTTPGet != nil:
		return c.tryHTTP(ctx, probe.HTTPGet)
	case probe.TCPSocket != nil:
		port, err := c.port(probe.TCPSocket.Port)
		if err != nil {
			return err
		}
		connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(c.p.ip, port))
		if err != nil {
			return err
		}
		return connection.Close()
	case probe.Exec != nil:
		return c.execute(ctx, probe.Exec.Command)
	}
	return fmt.Errorf("the lab does not know this kind of probe")
}

func (c *container) tryHTTP(ctx context.Context, get *corev1.HTTPGetAction) error {
	port, err := c.port(get.Port)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(first(get.Host, c.p.ip), port)+get.Path, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "kube-probe/1.37")
	for _, header := range get.HTTPHeaders {
		request.Header.Set(header.Name, header.Value)
	}
	response, err := prober.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("%s", response.Status)
	}
	return nil
}

// prober opens a new connection for each probe, as the kubelet does.
var prober = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func (c *container) port(of intstr.IntOrString) (string, error) {
	if of.Type == intstr.Int {
		return strconv.Itoa(int(of.IntVal)), nil
	}
	for _, port := range c.spec.Ports {
		if port.Name == of.StrVal {
			return strconv.Itoa(int(port.ContainerPort)), nil
		}
	}
	return "", fmt.Errorf("the container has no port %s", of.StrVal)
}

// status returns the container's status for the API server.
func (c *container) status() corev1.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	started := c.started
	return corev1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: c.spec.Image, ContainerID: "lab://" + c.logName(),
		Ready:   c.ready || c.initial && !c.stays && c.state.Terminated != nil && c.state.Terminated.ExitCode == 0,
		Started: &started, RestartCount: c.restarts, State: c.state, LastTerminationState: c.before,
	}
}
