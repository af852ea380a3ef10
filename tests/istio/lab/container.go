//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// container is one container of a pod: a process that is restarted when it ends.
type container struct {
	p    *pod
	spec corev1.Container
	// initial containers run before the main ones; those that keep running are sidecars.
	initial, stays bool
	// passed is closed once the containers after this one may start.
	passed chan struct{}
	once   sync.Once

	mu       sync.Mutex
	process  *process
	plan     containerPlan
	started  bool // its startup probe has succeeded, if it has one
	ready    bool // its readiness probe succeeds, if it has one
	restarts int32
	state    corev1.ContainerState
	before   corev1.ContainerState
}

func newContainer(p *pod, spec corev1.Container, initial bool) *container {
	stays := !initial || spec.RestartPolicy != nil && *spec.RestartPolicy == corev1.ContainerRestartPolicyAlways
	return &container{
		p: p, spec: spec, initial: initial, stays: stays, passed: make(chan struct{}),
		state: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}},
	}
}

// The backoff between restarts of a container.
const (
	firstBackoff = time.Second
	lastBackoff  = 10 * time.Second
)

// supervise runs the container until it has done its work or the pod ends.
func (c *container) supervise(ctx context.Context) {
	backoff := firstBackoff
	for !c.p.isEnding() {
		began := time.Now()
		code, err := c.runOnce(ctx)
		if err != nil {
			c.wait("CreateContainerError", err)
		}
		done := err == nil && code == 0 && (!c.stays || c.p.object.Spec.RestartPolicy == corev1.RestartPolicyOnFailure)
		if done || !c.initial && c.p.object.Spec.RestartPolicy == corev1.RestartPolicyNever {
			if c.initial {
				c.pass()
			}
			return
		}
		if time.Since(began) > time.Minute {
			backoff = firstBackoff
		}
		select {
		case <-c.p.ending:
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, lastBackoff)
		if err == nil {
			c.mu.Lock()
			c.restarts++
			c.mu.Unlock()
		}
	}
}

// runOnce runs the container's process to its end, and returns its exit code.
func (c *container) runOnce(ctx context.Context) (int, error) {
	plan, err := c.makePlan(ctx)
	if err != nil {
		return 0, err
	}
	command, err := c.p.l.contained(plan)
	if err != nil {
		return 0, err
	}
	name := c.logName()
	started := metav1.Now()
	c.mu.Lock()
	c.process, err = c.p.l.launch(name, command)
	if err != nil {
		c.process = nil
		c.mu.Unlock()
		return 0, err
	}
	process := c.process
	c.plan, c.started, c.ready = plan, c.spec.StartupProbe == nil, false
	c.state = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}}
	c.mu.Unlock()
	if c.p.isEnding() {
		process.signal(syscall.SIGKILL)
	}
	probing, cancel := context.WithCancel(ctx)
	var probes sync.WaitGroup
	if c.stays {
		probes.Go(func() { c.probe(probing, process) })
	}
	<-process.done
	cancel()
	probes.Wait()
	return c.ended(process, started), nil
}

func (c *container) ended(process *process, started metav1.Time) int {
	code := process.command.ProcessState.ExitCode()
	if status, ok := process.command.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal())
	}
	reason := "Completed"
	if code != 0 {
		reason = "Error"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready, c.started = false, false
	c.state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: int32(code), Reason: reason, StartedAt: started, FinishedAt: metav1.Now()}}
	c.before = c.state
	return code
}

func (c *container) wait(reason string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: err.Error()}}
}

func (c *container) pass() { c.once.Do(func() { close(c.passed) }) }

func (c *container) hasPassed() bool {
	select {
	case <-c.passed:
		return true
	default:
		return false
	}
}

// isReady reports whether the container is ready, for its pod's readiness. An
// initial container that has completed is.
func (c *container) isReady() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready || c.initial && !c.stays
}

func (c *container) logName() string {
	return c.p.object.Namespace + "_" + c.p.object.Name + "_" + c.spec.Name
}

func (c *container) current() *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.process
}

// kill sends SIGKILL, as the kernel does when it is out of memory.
func (c *container) kill() {
	if process := c.current(); process != nil {
		process.signal(syscall.SIGKILL)
	}
}

// stop runs the preStop hook and sends SIGTERM, and SIGKILL at the deadline.
func (c *container) stop(ctx context.Context, deadline time.Time) {
	process := c.current()
	if process == nil || !process.running() {
		return
	}
	limited, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if hook := c.spec.Lifecycle; hook != nil && hook.PreStop != nil {
		switch {
		case hook.PreStop.Sleep != nil:
			pause(limited, time.Duration(hook.PreStop.Sleep.Seconds)*time.Second)
		case hook.PreStop.Exec != nil:
			// As with a kubelet, the pod ends even if the hook fails.
			_ = c.execute(limited, hook.PreStop.Exec.Command)
		}
	}
	process.stop(max(time.Until(deadline), 0))
}

// execute runs a command in the running container.
func (c *container) execute(ctx context.Context, words []string) error {
	c.mu.Lock()
	plan := c.plan
	c.mu.Unlock()
	plan.Command = words
	command, err := c.p.l.contained(plan)
	if err != nil {
		return err
	}
	_, err = run(ctx, command)
	return err
}

// contained returns the command that runs a plan.
func (l *Lab) contained(plan containerPlan) (*exec.Cmd, error) {
	text, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(filepath.Join(l.folder, "pods"), "plan-")
	if err != nil {
		return nil, err
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("writing a container's plan: %w", err)
	}
	return exec.Command("/proc/self/exe", containerCommand, file.Name()), nil
}
