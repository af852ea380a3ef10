//go:build linux

package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pod is a Pod that runs on the node. It does what a kubelet does for it.
type pod struct {
	l       *Lab
	object  corev1.Pod // as it was when it was bound to this node
	network string     // the name of its network namespace
	ip      string
	folder  string
	started metav1.Time

	// ending is closed when the pod must end.
	ending chan struct{}
	once   sync.Once
	grace  time.Duration // set before ending is closed

	// volumes has the paths of the volumes by name. It is set before any container starts.
	volumes map[string]string
	// initial and main have the containers in the Pod's order.
	initial, main []*container

	mu       sync.Mutex
	phase    corev1.PodPhase
	trouble  string // why the pod does not start
	changed  map[corev1.PodConditionType]corev1.PodCondition
	reported string // the last status that the API server accepted
}

func newPod(l *Lab, object corev1.Pod, network, ip string) *pod {
	p := &pod{
		l: l, object: object, network: network, ip: ip, started: metav1.Now(), ending: make(chan struct{}),
		folder: filepath.Join(l.folder, "pods", network), volumes: map[string]string{},
		phase: corev1.PodPending, changed: map[corev1.PodConditionType]corev1.PodCondition{},
	}
	for _, spec := range object.Spec.InitContainers {
		p.initial = append(p.initial, newContainer(p, spec, true))
	}
	for _, spec := range object.Spec.Containers {
		p.main = append(p.main, newContainer(p, spec, false))
	}
	return p
}

// end starts the pod's termination. Only the first call has an effect, except one
// without a grace period.
func (p *pod) end(seconds int64) {
	p.once.Do(func() {
		p.grace = time.Duration(seconds) * time.Second
		close(p.ending)
	})
	if seconds == 0 {
		for _, c := range append(p.main, p.initial...) {
			c.kill()
		}
	}
}

func (p *pod) isEnding() bool {
	select {
	case <-p.ending:
		return true
	default:
		return false
	}
}

// run runs the pod until it has ended.
func (p *pod) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var supervisors sync.WaitGroup
	reporting := make(chan struct{})
	go func() {
		defer close(reporting)
		for ctx.Err() == nil {
			p.report(ctx)
			pause(ctx, 200*time.Millisecond)
		}
	}()
	if p.prepare(ctx) {
		p.startContainers(ctx, &supervisors)
	}
	select {
	case <-p.ending:
	case <-ctx.Done():
	}
	p.stopContainers(ctx)
	supervisors.Wait()
	disconnect(ctx, p.network)
	cancel()
	<-reporting
	// A pod whose object is already gone need not be deleted.
	zero := int64(0)
	_ = p.l.api.do(context.WithoutCancel(ctx), "DELETE", p.path(), plainJSON, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &p.object.UID},
	}, nil)
}

func (p *pod) path() string {
	return "/api/v1/namespaces/" + p.object.Namespace + "/pods/" + p.object.Name
}

// prepare retries until the pod's network and volumes exist, or the pod must end.
func (p *pod) prepare(ctx context.Context) bool {
	connected := false
	for !p.isEnding() && ctx.Err() == nil {
		err := os.MkdirAll(p.folder, 0o755)
		if err == nil && !connected {
			err = connect(ctx, p.network, p.ip)
			connected = err == nil
		}
		if err == nil {
			err = p.makeVolumes(ctx)
		}
		p.say(err)
		if err == nil {
			return true
		}
		pause(ctx, time.Second)
	}
	return false
}

func (p *pod) say(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trouble = ""
	if err != nil {
		p.trouble = err.Error()
	}
}

func (p *pod) makeVolumes(ctx context.Context) error {
	for _, spec := range p.object.Spec.Volumes {
		path, err := p.volume(ctx, spec)
		if err != nil {
			return err
		}
		p.volumes[spec.Name] = path
	}
	files := map[string]string{
		"resolv.conf": fmt.Sprintf("nameserver %s\nsearch %s.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n", host, p.object.Namespace),
		"hosts":       fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", p.ip, p.object.Name),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(p.folder, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// startContainers starts the initial containers, each after the one before it has
// completed or, if it is a sidecar, has started; then the others.
func (p *pod) startContainers(ctx context.Context, supervisors *sync.WaitGroup) {
	for _, c := range p.initial {
		supervisors.Go(func() { c.supervise(ctx) })
		select {
		case <-c.passed:
		case <-p.ending:
			return
		}
	}
	p.mu.Lock()
	p.phase = corev1.PodRunning
	p.mu.Unlock()
	for _, c := range p.main {
		supervisors.Go(func() { c.supervise(ctx) })
	}
}

// stopContainers stops the main containers together, then the sidecars, the last first.
func (p *pod) stopContainers(ctx context.Context) {
	deadline := time.Now().Add(p.grace)
	var stopping sync.WaitGroup
	for _, c := range p.main {
		stopping.Go(func() { c.stop(ctx, deadline) })
	}
	stopping.Wait()
	for i := len(p.initial) - 1; i >= 0; i-- {
		p.initial[i].stop(ctx, deadline)
	}
}
