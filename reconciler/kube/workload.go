package kube

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The labels and annotations that say what a pod belongs to and whether it has a sidecar.
const (
	labelWorkload         = "service.istio.io/workload-name"
	labelTemplateHash     = "pod-template-hash"
	labelRolloutHash      = "rollouts-pod-template-hash"
	labelDeploymentConfig = "deploymentconfig"
	annotationSidecar     = "sidecar.istio.io/status"
)

// WorkloadName is the WORKLOAD_NAME of a pod's sidecar, by the rules of
// Istio's injector (GetDeployMetaFromPod in its pkg/kube, and the injection
// template): the label service.istio.io/workload-name wins; else it is what
// controls the pod, with a Deployment's ReplicaSet and a CronJob's Job taken
// back to those by their names. A pod that somebody named stands for itself;
// one that nothing controls and whose name was generated has none, for it gets
// that name after the injector: its filter knows no service and has wildcard
// policies only. The labels app and canonical-name have no part in it.
func WorkloadName(pod *metav1.ObjectMeta) string {
	if name := pod.Labels[labelWorkload]; name != "" {
		return name
	}
	if pod.GenerateName == "" {
		return pod.Name
	}
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		return ""
	}
	switch owner.Kind {
	case "ReplicaSet":
		for _, label := range []string{labelTemplateHash, labelRolloutHash} {
			if hash := pod.Labels[label]; hash != "" && strings.HasSuffix(owner.Name, hash) {
				return strings.TrimSuffix(owner.Name, "-"+hash)
			}
		}
	case "ReplicationController":
		if config := pod.Labels[labelDeploymentConfig]; config != "" {
			return config
		}
	case "Job":
		return cronJob(owner.Name)
	}
	return owner.Name
}

// cronJob is the CronJob that made a Job, or the Job: one that ends in a
// minute's or second's number, of eight to ten digits, was made at that time.
func cronJob(job string) string {
	at := strings.LastIndexByte(job, '-')
	if at < 1 {
		return job
	}
	digits := job[at+1:]
	if len(digits) < 8 || len(digits) > 10 || strings.Trim(digits, "0123456789") != "" {
		return job
	}
	return job[:at]
}

// podID names a pod, for filters know no more of it.
type podID = types.NamespacedName
