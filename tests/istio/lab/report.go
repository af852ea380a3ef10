//go:build linux

package lab

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// report writes the pod's status to the API server, if it has changed.
func (p *pod) report(ctx context.Context) {
	status := p.status()
	text, err := json.Marshal(map[string]any{"status": status})
	if err != nil || string(text) == p.reported {
		return
	}
	if err := p.l.api.do(ctx, "PATCH", p.path()+"/status", mergePatch, json.RawMessage(text), nil); err == nil {
		p.reported = string(text)
	}
}

func (p *pod) status() corev1.PodStatus {
	initial, started := statuses(p.initial), true
	for _, c := range p.initial {
		started = started && c.hasPassed()
	}
	main, ready := statuses(p.main), true
	for _, c := range append(p.main, p.initial...) {
		ready = ready && c.isReady()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	status := corev1.PodStatus{
		Phase: p.phase, HostIP: host, PodIP: p.ip, PodIPs: []corev1.PodIP{{IP: p.ip}}, StartTime: &p.started, Message: p.trouble,
		InitContainerStatuses: initial, ContainerStatuses: main, QOSClass: p.object.Status.QOSClass,
	}
	for _, condition := range []struct {
		kind corev1.PodConditionType
		is   bool
	}{{corev1.PodScheduled, true}, {corev1.PodInitialized, started}, {corev1.ContainersReady, ready}, {corev1.PodReady, ready}} {
		status.Conditions = append(status.Conditions, p.condition(condition.kind, condition.is))
	}
	return status
}

// condition keeps the time of the last change.
func (p *pod) condition(kind corev1.PodConditionType, is bool) corev1.PodCondition {
	value := corev1.ConditionFalse
	if is {
		value = corev1.ConditionTrue
	}
	condition := p.changed[kind]
	if condition.Status != value {
		condition = corev1.PodCondition{Type: kind, Status: value, LastTransitionTime: metav1.Now()}
		p.changed[kind] = condition
	}
	return condition
}

func statuses(of []*container) []corev1.ContainerStatus {
	var list []corev1.ContainerStatus
	for _, c := range of {
		list = append(list, c.status())
	}
	return list
}
