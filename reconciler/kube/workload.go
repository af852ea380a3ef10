package kube

import (
	"cmp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/boifi/hfi/schema"
)

// Labels and annotations of a pod that tell its workload and whether it has a sidecar.
const (
	labelWorkload         = "service.istio.io/workload-name"
	labelTemplateHash     = "pod-template-hash"
	labelRolloutHash      = "rollouts-pod-template-hash"
	labelDeploymentConfig = "deploymentconfig"
	annotationSidecar     = "sidecar.istio.io/status"
	annotationRevision    = "istio.io/rev"
	annotationTemplates   = "inject.istio.io/templates"
	labelGateway          = "gateway.networking.k8s.io/gateway-name"
	labelManagedGateway   = "gateway.istio.io/managed"
	managedGateway        = "istio.io-gateway-controller"
	managedWaypoint       = "istio.io-mesh-controller"
	managedEastWest       = "istio.io-eastwest-controller"
	labelComponent        = "operator.istio.io/component"
	labelIstio            = "istio"
	eastWest              = "eastwestgateway"
)

// gatewayName is the name by which policies select a pod that is a gateway; is says whether
// it is one. Those that istiod deploys for a Gateway of Kubernetes's Gateway API have a
// label that says so, which is another for those of Istio's ambient mode and those without
// Envoy. Others have the injection template "gateway" or, installed by Istio's older charts, a
// label of these. The name is that of the Gateway, which is a label of the pods of every
// controller's Gateways, else that of the workload, or Any if it has none. The filter has the
// same rule: its node is a router.
func gatewayName(pod *metav1.ObjectMeta) (name string, is bool) {
	component := pod.Labels[labelComponent]
	is = pod.Labels[labelManagedGateway] == managedGateway || component == "IngressGateways" || component == "EgressGateways"
	for template := range strings.SplitSeq(pod.Annotations[annotationTemplates], ",") {
		is = is || strings.TrimSpace(template) == "gateway"
	}
	return proxyName(pod), is
}

// waypointName is the name of the waypoint of Istio's ambient mode that a pod belongs to. Like
// gatewayName it has the filter's rule.
func waypointName(pod *metav1.ObjectMeta) (name string, is bool) {
	return proxyName(pod), pod.Labels[labelManagedGateway] == managedWaypoint
}

// proxyName names what a pod of a gateway or waypoint belongs to.
func proxyName(pod *metav1.ObjectMeta) string {
	return cmp.Or(pod.Labels[labelGateway], WorkloadName(pod), schema.Any)
}

// isOtherProxy says whether a pod is of Istio's own and takes no filter for HTTP requests: an
// east-west gateway, which passes on what is encrypted, or a proxy that is not Envoy.
func isOtherProxy(pod *metav1.ObjectMeta) bool {
	_, gateway := gatewayName(pod)
	_, waypoint := waypointName(pod)
	_, injected := pod.Annotations[annotationSidecar]
	managed := pod.Labels[labelManagedGateway] != "" || pod.Labels[labelIstio] == eastWest
	return managed && !gateway && !waypoint && !injected
}

// WorkloadName is the WORKLOAD_NAME of a pod's sidecar, by the rules of
// Istio's injector (GetDeployMetaFromPod in its pkg/kube, and the injection
// template). It is the label service.istio.io/workload-name, if present; else
// the name of the pod's controller, or of the Deployment or CronJob that the
// controller's name derives from. A pod whose name was not generated is its
// own workload. A pod with a generated name and no controller has none,
// because it gets its name after injection: its filter selects wildcard
// policies only. The labels app and canonical-name are not used.
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
		return cronJobName(owner.Name)
	}
	return owner.Name
}

// cronJobName is the name of the CronJob that created a Job, or the Job's name
// if none did. A CronJob appends the scheduled time to the name, in minutes or
// seconds since 1970, which has eight to ten digits.
func cronJobName(job string) string {
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

// podID identifies a pod by namespace and name: filters do not report its UID.
type podID = types.NamespacedName
