package kube

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WorkloadName derives the same name as Istio's injector for every kind of owner.
func TestWorkloadNameIsWhatIstioInjects(t *testing.T) {
	controls, not := true, false
	owned := func(kind, name string, controller *bool) []metav1.OwnerReference {
		return []metav1.OwnerReference{{Kind: kind, Name: name, Controller: controller}}
	}
	hash := map[string]string{"pod-template-hash": "5d4f8"}
	for _, c := range []struct {
		what   string
		owners []metav1.OwnerReference
		labels map[string]string
		named  bool
		want   string
	}{
		{"a Deployment's", owned("ReplicaSet", "frontend-5d4f8", &controls), hash, false, "frontend"},
		{"a Deployment's with dashes in its name", owned("ReplicaSet", "front-end-v2-5d4f8", &controls), hash, false, "front-end-v2"},
		{"a ReplicaSet's without a Deployment", owned("ReplicaSet", "frontend-5d4f8", &controls), nil, false, "frontend-5d4f8"},
		{"a ReplicaSet's of another hash", owned("ReplicaSet", "frontend-77777", &controls), hash, false, "frontend-77777"},
		{"an Argo Rollout's", owned("ReplicaSet", "frontend-6b6b6", &controls), map[string]string{"rollouts-pod-template-hash": "6b6b6"}, false, "frontend"},
		{"a StatefulSet's", owned("StatefulSet", "db", &controls), nil, false, "db"},
		{"a DaemonSet's", owned("DaemonSet", "agent", &controls), nil, false, "agent"},
		{"a Job's", owned("Job", "migrate", &controls), nil, false, "migrate"},
		{"a Job's that ends in few digits", owned("Job", "migrate-1234567", &controls), nil, false, "migrate-1234567"},
		{"a Job's that ends in many digits", owned("Job", "migrate-12345678901", &controls), nil, false, "migrate-12345678901"},
		{"a CronJob's", owned("Job", "report-28473920", &controls), nil, false, "report"},
		{"a CronJob's with a time in seconds", owned("Job", "nightly-report-1700000000", &controls), nil, false, "nightly-report"},
		{"a DeploymentConfig's", owned("ReplicationController", "shop-3", &controls), map[string]string{"deploymentconfig": "shop"}, false, "shop"},
		{"a ReplicationController's", owned("ReplicationController", "shop-3", &controls), nil, false, "shop-3"},
		{"an unowned", nil, map[string]string{"app": "frontend", "service.istio.io/canonical-name": "canon"}, true, "pod-1"},
		{"an owned, explicitly named", owned("Node", "node-1", &controls), nil, true, "pod-1"},
		// The API server generates the name after injection.
		{"an unowned, generated", nil, map[string]string{"app": "frontend"}, false, ""},
		{"an owned, but not controlled,", owned("ReplicaSet", "frontend-5d4f8", &not), hash, false, ""},
		{"an unowned, labelled", nil, map[string]string{"service.istio.io/workload-name": "shop"}, false, "shop"},
		{"an owned, labelled", owned("ReplicaSet", "frontend-5d4f8", &controls),
			map[string]string{"pod-template-hash": "5d4f8", "service.istio.io/workload-name": "shop"}, false, "shop"},
		{"a canonically named", owned("ReplicaSet", "frontend-5d4f8", &controls),
			map[string]string{"pod-template-hash": "5d4f8", "service.istio.io/canonical-name": "canon", "app": "app"}, false, "frontend"},
	} {
		pod := &metav1.ObjectMeta{Name: "pod-1", GenerateName: "pod-", OwnerReferences: c.owners, Labels: c.labels}
		if c.named {
			pod.GenerateName = ""
		}
		if got := WorkloadName(pod); got != c.want {
			t.Errorf("%s pod is of workload %q, want %q", c.what, got, c.want)
		}
	}
}
