package deploy_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// peer is an end of a connection. Nodes and peers outside the cluster have no
// labels: only rules without peers allow them.
type peer struct {
	namespace string
	labels    map[string]string
}

func ours(name string) peer {
	return peer{"boifi", map[string]string{"app.kubernetes.io/name": name}}
}

// matches reports whether a rule's peer selects this peer.
func matches(t *testing.T, rule networkingv1.NetworkPolicyPeer, policy string, p peer) bool {
	t.Helper()
	if rule.IPBlock != nil {
		t.Fatal("this test does not support IP blocks")
	}
	if p.labels == nil {
		return false
	}
	if rule.NamespaceSelector == nil {
		if p.namespace != policy {
			return false
		}
	} else if !selected(t, rule.NamespaceSelector, map[string]string{corev1.LabelMetadataName: p.namespace}) {
		return false
	}
	return rule.PodSelector == nil || selected(t, rule.PodSelector, p.labels)
}

func selected(t *testing.T, selector *metav1.LabelSelector, of map[string]string) bool {
	t.Helper()
	compiled, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	return compiled.Matches(labels.Set(of))
}

// passes reports whether a direction of a rule allows a connection.
func passes(t *testing.T, policy string, ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer, other peer, port int32, protocol corev1.Protocol) bool {
	t.Helper()
	byPort := len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		return (p.Protocol == nil && protocol == corev1.ProtocolTCP || p.Protocol != nil && *p.Protocol == protocol) &&
			(p.Port == nil || p.Port.IntVal == port)
	})
	return byPort && (len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool { return matches(t, p, policy, other) }))
}

// allowed evaluates NetworkPolicies as a network plugin does: a pod that a policy
// selects is allowed what any of its policies allow, and other pods everything.
func allowed(t *testing.T, policies []*networkingv1.NetworkPolicy, from, to peer, port int32, protocol corev1.Protocol) bool {
	t.Helper()
	leaves, arrives := verdict{}, verdict{}
	for _, policy := range policies {
		about := func(p peer) bool {
			return p.labels != nil && p.namespace == policy.Namespace && selected(t, &policy.Spec.PodSelector, p.labels)
		}
		if about(from) && slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) {
			leaves.isolated = true
			for _, rule := range policy.Spec.Egress {
				leaves.passes = leaves.passes || passes(t, policy.Namespace, rule.Ports, rule.To, to, port, protocol)
			}
		}
		if about(to) && slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) {
			arrives.isolated = true
			for _, rule := range policy.Spec.Ingress {
				arrives.passes = arrives.passes || passes(t, policy.Namespace, rule.Ports, rule.From, from, port, protocol)
			}
		}
	}
	return leaves.allows() && arrives.allows()
}

type verdict struct{ isolated, passes bool }

func (v verdict) allows() bool { return v.passes || !v.isolated }

// The NetworkPolicies allow every connection that hfi needs, and only the daemon to reach etcd.
func TestNetworkPoliciesLetThroughWhatIsUsed(t *testing.T) {
	daemon, etcd := ours("hfi-control-plane"), ours("hfi-etcd")
	sidecar := peer{"demo", map[string]string{"app": "frontend"}}
	prometheus := peer{"monitoring", map[string]string{"app": "prometheus"}}
	neighbour := ours("something-else")
	dns := peer{"kube-system", map[string]string{"k8s-app": "kube-dns"}}
	node, outside := peer{}, peer{}
	const tcp, udp = corev1.ProtocolTCP, corev1.ProtocolUDP
	type connection struct {
		what     string
		from, to peer
		port     int32
		protocol corev1.Protocol
		want     bool
	}
	everywhere := []connection{
		{"a filter asks the daemon", sidecar, daemon, 8080, tcp, true},
		{"Prometheus asks the daemon", prometheus, daemon, 8080, tcp, true},
		{"the API server passes on a request, as kubectl proxy does", node, daemon, 8080, tcp, true},
		{"the daemon asks the other replica", daemon, daemon, 8080, tcp, true},
		{"nothing else of the daemon is open", sidecar, daemon, 6060, tcp, false},
		{"the daemon resolves names", daemon, dns, 53, udp, true},
		{"the daemon resolves long answers", daemon, dns, 53, tcp, true},
		{"the daemon fetches over HTTPS", daemon, outside, 443, tcp, true},
		{"the daemon fetches over SSH", daemon, outside, 22, tcp, true},
		{"the daemon asks the API server by its own port", daemon, node, 6443, tcp, true},
		{"the daemon asks nothing else", daemon, outside, 80, tcp, false},
	}
	own := []connection{
		{"the daemon asks etcd", daemon, etcd, 2379, tcp, true},
		{"etcd's members talk", etcd, etcd, 2380, tcp, true},
		{"a new member asks the others", etcd, etcd, 2379, tcp, true},
		{"etcd resolves names", etcd, dns, 53, udp, true},
		{"Prometheus asks etcd", prometheus, etcd, 2381, tcp, true},
		{"a workload asks etcd", sidecar, etcd, 2379, tcp, false},
		{"a pod beside it asks etcd", neighbour, etcd, 2379, tcp, false},
		{"a request by way of the API server asks etcd", node, etcd, 2379, tcp, false},
		{"the daemon poses as a member", daemon, etcd, 2380, tcp, false},
	}
	for folder, connections := range map[string][]connection{
		"overlays/etcd":          append(own, everywhere...),
		"example":                append(own, everywhere...),
		"overlays/external-etcd": append([]connection{{"the daemon asks the external etcd", daemon, outside, 2379, tcp, true}}, everywhere...),
	} {
		t.Run(folder, func(t *testing.T) {
			var policies []*networkingv1.NetworkPolicy
			for _, o := range built(t, folder) {
				if policy, ok := o.(*networkingv1.NetworkPolicy); ok {
					policies = append(policies, policy)
				}
			}
			for _, c := range connections {
				if got := allowed(t, policies, c.from, c.to, c.port, c.protocol); got != c.want {
					t.Errorf("%s on port %d: allowed is %v, want %v", c.what, c.port, got, c.want)
				}
			}
		})
	}
}
