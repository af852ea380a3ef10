//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const nodeName = "lab"

// node is the scheduler and the kubelet of the lab's only node.
type node struct {
	l *Lab

	mu   sync.Mutex
	pods map[types.UID]*pod
	last int // of the addresses given to pods
}

func (l *Lab) startNode(ctx context.Context) error {
	if err := l.addProxyImage(); err != nil {
		return fmt.Errorf("making the image of sidecars: %w", err)
	}
	logs, err := l.serveLogs(ctx)
	if err != nil {
		return err
	}
	object := corev1.Node{TypeMeta: metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{"kubernetes.io/hostname": nodeName}}}
	if err := l.api.do(ctx, "POST", "/api/v1/nodes", plainJSON, object, nil); err != nil {
		return err
	}
	object.Status = corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: logs}},
		Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Lab", LastTransitionTime: metav1.Now()}},
	}
	if err := l.api.do(ctx, "PATCH", "/api/v1/nodes/"+nodeName+"/status", mergePatch, map[string]any{"status": object.Status}, nil); err != nil {
		return err
	}
	l.node = &node{l: l, pods: map[types.UID]*pod{}}
	go l.api.follow(ctx, "/api/v1/pods", func(kind string, objects []json.RawMessage) { l.node.take(ctx, kind, objects) })
	return nil
}

// take handles events of pods: present at the start, added, changed or deleted.
func (n *node) take(ctx context.Context, kind string, objects []json.RawMessage) {
	seen := map[types.UID]bool{}
	for _, text := range objects {
		var object corev1.Pod
		if json.Unmarshal(text, &object) != nil {
			continue
		}
		seen[object.UID] = true
		if kind == "DELETED" {
			n.forget(object.UID)
			continue
		}
		n.look(ctx, object)
	}
	if kind != "" {
		return
	}
	// A list is complete: the other pods were deleted while there was no watch.
	for _, p := range n.all() {
		if !seen[p.object.UID] {
			n.forget(p.object.UID)
		}
	}
}

func (n *node) look(ctx context.Context, object corev1.Pod) {
	if object.Spec.NodeName == "" && object.DeletionTimestamp == nil {
		// A failed binding is retried with the pod's next event or list.
		_ = n.l.api.do(ctx, "POST", "/api/v1/namespaces/"+object.Namespace+"/pods/"+object.Name+"/binding", plainJSON, corev1.Binding{
			TypeMeta:   metav1.TypeMeta{Kind: "Binding", APIVersion: "v1"},
			ObjectMeta: metav1.ObjectMeta{Name: object.Name, UID: object.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: nodeName},
		}, nil)
		return
	}
	if object.Spec.NodeName != nodeName {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p, known := n.pods[object.UID]
	if !known && (object.Status.Phase == corev1.PodSucceeded || object.Status.Phase == corev1.PodFailed) {
		return
	}
	if !known {
		n.last++
		p = newPod(n.l, object, fmt.Sprintf("p%d", n.last), address(n.last))
		n.pods[object.UID] = p
		go func() {
			p.run(ctx)
			n.mu.Lock()
			defer n.mu.Unlock()
			delete(n.pods, object.UID)
		}()
	}
	if object.DeletionTimestamp != nil {
		grace := int64(0)
		if object.DeletionGracePeriodSeconds != nil {
			grace = *object.DeletionGracePeriodSeconds
		}
		p.end(grace)
	}
}

// forget ends a pod immediately, because its object has been deleted.
func (n *node) forget(uid types.UID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p, ok := n.pods[uid]; ok {
		p.end(0)
	}
}

func (n *node) all() []*pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []*pod
	for _, p := range n.pods {
		all = append(all, p)
	}
	return all
}

func (n *node) find(namespace, name string) (*pod, error) {
	for _, p := range n.all() {
		if p.object.Namespace == namespace && p.object.Name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("pod %s/%s does not run", namespace, name)
}

// Kill sends SIGKILL to a container's process, as the kernel does when it is out of
// memory. The node restarts it.
func (l *Lab) Kill(namespace, name, container string) error {
	p, err := l.node.find(namespace, name)
	if err != nil {
		return err
	}
	for _, c := range append(p.main, p.initial...) {
		if c.spec.Name == container {
			c.kill()
			return nil
		}
	}
	return fmt.Errorf("pod %s/%s has no container %s", namespace, name, container)
}
