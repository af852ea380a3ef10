//go:build !wasm

// The filter needs only the routes and header names.

package api

import "time"

// KubernetesStatus is what this daemon sees of the cluster that it runs in.
type KubernetesStatus struct {
	// Enabled says whether it looks; if not, there is nothing else.
	Enabled bool `json:"enabled"`
	*KubernetesView
}

// KubernetesView is what is seen of a cluster.
type KubernetesView struct {
	// Healthy: everything asked of the cluster was last answered, and nothing was denied.
	Healthy bool `json:"healthy"`
	// Error is why not, where it is no permission that is missing; what
	// follows is then of when it was seen last.
	Error string `json:"error,omitempty"`
	// MissingPermissions are what the cluster denies, such as "create wasmplugins in namespace demo".
	MissingPermissions []string `json:"missing_permissions"`
	// Pods counts those known that run or are about to, Workloads what they belong to.
	Pods      int `json:"pods"`
	Workloads int `json:"workloads"`
	// PoliciesWithWarning counts all of them; Policies lists the first
	// MaxPolicyItems, those with a warning first.
	PoliciesWithWarning int          `json:"policies_with_warning"`
	Policies            []PolicyPods `json:"policies"`
	// KeptNamespaces are those in which the leader makes and removes WasmPlugins.
	KeptNamespaces []string `json:"kept_namespaces"`
	// WasmPlugins are those of this control plane, by namespace and name.
	WasmPlugins []WasmPluginStatus `json:"wasmplugins"`
}

// KubernetesTold is what the leader alone finds out about the cluster, by
// acting: other replicas show it too.
type ClusterReport struct {
	MissingPermissions []string `json:"missing_permissions,omitempty"`
	Error              string   `json:"error,omitempty"`
	// Messages are by namespace.
	Messages map[string]string `json:"messages,omitempty"`
}

// MaxPolicyItems bounds KubernetesView.Policies, and MaxPodItems each list of pods.
const (
	MaxPolicyItems = 1000
	MaxPodItems    = 20
)

// PolicyPods is what a policy's selector comes to in the cluster.
type PolicyPods struct {
	Name string `json:"name"`
	// Pods counts the pods targeted, Current those of them whose filter has
	// its present policies in force, and Behind those whose filter has others.
	Pods    int `json:"pods"`
	Current int `json:"current"`
	Behind  int `json:"behind"`
	// WithoutSidecar counts the pods targeted that have no sidecar to enforce anything.
	WithoutSidecar int `json:"without_sidecar"`
	// WithoutFilterCount counts those with a sidecar of which no filter is in
	// contact; WithoutFilter lists the first MaxPodItems.
	WithoutFilterCount int          `json:"without_filter_count"`
	WithoutFilter      []PodProblem `json:"without_filter"`
	// Warning says that the policy can have no effect, and why, or is empty.
	Warning string `json:"warning,omitempty"`
}

// PodProblem is a pod that has no filter at work, and why, as far as is known.
type PodProblem struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Reason    string `json:"reason"`
}

// WasmPluginStatus is one WasmPlugin of this control plane.
type WasmPluginStatus struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Managed: hfi made it, and keeps it.
	Managed bool   `json:"managed"`
	URL     string `json:"url"`
	// Conditions are those of its status: Loaded, Current.
	Conditions []Condition `json:"conditions"`
	// CreatedAt is by the cluster's clock.
	CreatedAt time.Time `json:"created_at"`
	Message   string    `json:"message,omitempty"`
}
