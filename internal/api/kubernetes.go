//go:build !wasm

// The filter needs only the routes and header names.

package api

import "time"

// KubernetesStatus is the state of the cluster that this daemon runs in.
type KubernetesStatus struct {
	// Enabled: the daemon watches the cluster. If not, KubernetesView is nil.
	Enabled bool `json:"enabled"`
	*KubernetesView
}

// KubernetesView is the state of a cluster as this daemon and the leader see it.
type KubernetesView struct {
	// Healthy: the last request of each kind succeeded.
	Healthy bool `json:"healthy"`
	// Error is why not, except for missing permissions. The fields below are
	// then as last seen.
	Error string `json:"error,omitempty"`
	// MissingPermissions are what the cluster forbids, such as "create wasmplugins in namespace demo".
	MissingPermissions []string `json:"missing_permissions"`
	// Pods counts the pods that are running or pending, Workloads their owners.
	Pods      int `json:"pods"`
	Workloads int `json:"workloads"`
	// PoliciesWithWarning counts all of them; Policies lists the first
	// MaxPolicyItems, those with a warning first.
	PoliciesWithWarning int          `json:"policies_with_warning"`
	Policies            []PolicyPods `json:"policies"`
	// KeptNamespaces are those in which the leader creates and deletes WasmPlugins:
	// a pod there that a policy targets gets a filter.
	KeptNamespaces []string `json:"kept_namespaces"`
	// AwaitedPodsCount counts the pods in KeptNamespaces that a policy targets and that
	// have a sidecar but no working filter; AwaitedPods lists the first MaxPodItems.
	AwaitedPodsCount int          `json:"awaited_pods_count"`
	AwaitedPods      []PodProblem `json:"awaited_pods"`
	// WasmPluginsTotal counts the WasmPlugins of this control plane, or objects of
	// the kind that delivers the filter in their place. WasmPlugins lists the first
	// MaxPluginItems: by namespace and name or, if there are more, those that need
	// attention first.
	WasmPluginsTotal int                `json:"wasmplugins_total"`
	WasmPlugins      []WasmPluginStatus `json:"wasmplugins"`
}

// ClusterReport is what only the leader knows of the cluster, because only the
// leader changes it. The other replicas show it too.
type ClusterReport struct {
	MissingPermissions []string `json:"missing_permissions,omitempty"`
	Error              string   `json:"error,omitempty"`
	// Messages are by namespace.
	Messages map[string]string `json:"messages,omitempty"`
}

// MaxPolicyItems bounds KubernetesView.Policies, MaxPluginItems its WasmPlugins,
// and MaxPodItems each list of pods.
const (
	MaxPolicyItems = 1000
	MaxPluginItems = 1000
	MaxPodItems    = 20
)

// PolicyPods counts the pods that a policy targets: those of the workload or gateway that it selects, and
// those of the waypoints that a Service of this name uses.
type PolicyPods struct {
	Name string `json:"name"`
	// Pods counts the pods targeted, Current those whose filter enforces the
	// current policies, and Behind those whose filter enforces others.
	Pods    int `json:"pods"`
	Current int `json:"current"`
	Behind  int `json:"behind"`
	// WithoutSidecar counts the pods targeted that have no sidecar.
	WithoutSidecar int `json:"without_sidecar"`
	// WithoutFilterCount counts those with a sidecar but no working filter, unless
	// the policy has expired; WithoutFilter lists the first MaxPodItems.
	WithoutFilterCount int          `json:"without_filter_count"`
	WithoutFilter      []PodProblem `json:"without_filter"`
	// Warning says that the policy can have no effect, and why, or is empty.
	Warning string `json:"warning,omitempty"`
}

// PodProblem is a pod without a working filter.
type PodProblem struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Reason    string `json:"reason"`
}

// WasmPluginStatus is one WasmPlugin of this control plane, or an object in its place.
type WasmPluginStatus struct {
	// Kind is WasmPlugin, TrafficExtension or EnvoyFilter.
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Managed: hfi created it, and repairs and deletes it.
	Managed bool   `json:"managed"`
	URL     string `json:"url"`
	// Conditions are those of its status: Loaded, Current.
	Conditions []Condition `json:"conditions"`
	// CreatedAt is by the clock of the cluster.
	CreatedAt time.Time `json:"created_at"`
	Message   string    `json:"message,omitempty"`
}
