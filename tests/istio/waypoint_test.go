//go:build linux

package istio

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// gatewayAPI are those kinds of Kubernetes's Gateway API that istiod needs for waypoints, without
// the schemas of their fields.
const gatewayAPI = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: gatewayclasses.gateway.networking.k8s.io
  annotations: {api-approved.kubernetes.io: "https://github.com/kubernetes-sigs/gateway-api", gateway.networking.k8s.io/bundle-version: v1.4.0, gateway.networking.k8s.io/channel: standard}
spec:
  group: gateway.networking.k8s.io
  scope: Cluster
  names: {kind: GatewayClass, listKind: GatewayClassList, plural: gatewayclasses, singular: gatewayclass}
  versions:
  - {name: v1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: gateways.gateway.networking.k8s.io
  annotations: {api-approved.kubernetes.io: "https://github.com/kubernetes-sigs/gateway-api", gateway.networking.k8s.io/bundle-version: v1.4.0, gateway.networking.k8s.io/channel: standard}
spec:
  group: gateway.networking.k8s.io
  scope: Namespaced
  names: {kind: Gateway, listKind: GatewayList, plural: gateways, singular: gateway}
  versions:
  - {name: v1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`

// waypoint is one as istiod deploys it from its template waypoint, and a Service that uses it. The
// addresses of the Gateway keep istiod from deploying another. The EnvoyFilter takes out what only Istio's
// own build of Envoy has, without which tunnels end nowhere.
const waypoint = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: istio-waypoint}
spec: {controllerName: istio.io/mesh-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: way, namespace: demo}
spec:
  gatewayClassName: istio-waypoint
  addresses: [{type: Hostname, value: way.demo.svc.cluster.local}]
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: way, namespace: demo, labels: {gateway.istio.io/managed: istio.io-mesh-controller, gateway.networking.k8s.io/gateway-name: way}}
spec:
  selector: {gateway.networking.k8s.io/gateway-name: way}
  ports: [{name: mesh, port: 15008, appProtocol: all}]
---
apiVersion: v1
kind: Service
metadata: {name: ambient, namespace: demo, labels: {istio.io/use-waypoint: way}}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: stock-envoy, namespace: demo}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: way}]
  configPatches:
  - {applyTo: HTTP_FILTER, match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: waypoint_downstream_peer_metadata}}}}}, patch: {operation: REMOVE}}
  - {applyTo: HTTP_FILTER, match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: waypoint_upstream_peer_metadata}}}}}, patch: {operation: REMOVE}}
  - {applyTo: HTTP_FILTER, match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: connect_authority}}}}}, patch: {operation: REMOVE}}
  - {applyTo: LISTENER, match: {context: SIDECAR_INBOUND, listener: {name: inner_connect_originate}}, patch: {operation: REMOVE}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: way, namespace: demo}
spec:
  selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: way}}
  template:
    metadata:
      annotations: {istio.io/rev: default}
      labels:
        sidecar.istio.io/inject: "false"
        gateway.networking.k8s.io/gateway-name: way
        gateway.istio.io/managed: istio.io-mesh-controller
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: istio-proxy
        image: istio/proxyv2:lab
        args: [proxy, waypoint, --domain, $(POD_NAMESPACE).svc.cluster.local, --proxyLogLevel, warning, --proxyComponentLogLevel, "misc:error,wasm:info"]
        env:
        - {name: PILOT_CERT_PROVIDER, value: istiod}
        - {name: CA_ADDR, value: istiod.istio-system.svc:15012}
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        - {name: INSTANCE_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: SERVICE_ACCOUNT, value: default}
        - {name: PROXY_CONFIG, value: '{"discoveryAddress":"istiod.istio-system.svc:15012"}'}
        - {name: ISTIO_META_CLUSTER_ID, value: Kubernetes}
        - {name: ISTIO_META_INTERCEPTION_MODE, value: REDIRECT}
        - {name: ISTIO_META_WORKLOAD_NAME, value: way}
        readinessProbe: {httpGet: {path: /healthz/ready, port: 15021}, periodSeconds: 1}
        securityContext: {runAsUser: 1337, runAsGroup: 1337}
        volumeMounts:
        - {mountPath: /var/run/secrets/istio, name: istiod-ca-cert}
        - {mountPath: /var/lib/istio/data, name: istio-data}
        - {mountPath: /etc/istio/proxy, name: istio-envoy}
        - {mountPath: /var/run/secrets/tokens, name: istio-token}
        - {mountPath: /var/run/secrets/workload-spiffe-uds, name: workload-socket}
        - {mountPath: /etc/istio/pod, name: istio-podinfo}
      volumes:
      - {name: workload-socket, emptyDir: {}}
      - {name: istio-envoy, emptyDir: {}}
      - {name: istio-data, emptyDir: {}}
      - {name: istio-podinfo, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: annotations, fieldRef: {fieldPath: metadata.annotations}}]}}
      - {name: istio-token, projected: {sources: [{serviceAccountToken: {audience: istio-ca, expirationSeconds: 43200, path: istio-token}}]}}
      - {name: istiod-ca-cert, configMap: {name: istio-ca-root-cert}}
`

// provider makes istiod give waypoints a cluster for the control plane: see deploy/README.md.
const provider = `
extensionProviders: [{name: hfi, envoyExtAuthzHttp: {service: hfi-control-plane.boifi.svc.cluster.local, port: 8080}}]
`

// A policy for a Service that uses a waypoint of ambient mode gives that the filter, which asks for
// the policies and is waited for. istiod is real, and so is the waypoint but for its tunnels, so that no
// request passes. TestPoliciesInAWaypoint has requests.
func waypointStory(t *testing.T, w *world) {
	w.pushAndWait(t)
	w.kubectl(t, "-n", "demo", "delete", "wasmplugin", "--all")
	w.apply(t, gatewayAPI)
	w.kubectl(t, "wait", "--for=condition=Established", "--timeout=55s", "crd/gatewayclasses.gateway.networking.k8s.io", "crd/gateways.gateway.networking.k8s.io")
	defer func() {
		w.kubectl(t, "-n", "demo", "delete", "--ignore-not-found", "deployment/way", "service/way", "service/ambient", "envoyfilter/stock-envoy")
		w.kubectl(t, "delete", "crd", "gateways.gateway.networking.k8s.io", "gatewayclasses.gateway.networking.k8s.io")
		if err := w.lab.RestartIstiod(w.ctx, ""); err != nil {
			t.Error(err)
		}
		eventually(t, "the end of the waypoint", 2*time.Minute, func() error {
			if left := w.kubectl(t, "-n", "demo", "get", "pods", "-l", "gateway.networking.k8s.io/gateway-name=way", "-o", "name"); left != "" {
				return fmt.Errorf("there is %s", left)
			}
			return nil
		})
	}()
	w.apply(t, waypoint)
	t.Run("wasmplugin", func(t *testing.T) { w.loadsInWaypoint(t, "wasmplugin", provider) })
	t.Run("envoyfilter", func(t *testing.T) { w.loadsInWaypoint(t, "envoyfilter", "") })
}

func (w *world) loadsInWaypoint(t *testing.T, kind, mesh string) {
	if err := w.lab.RestartIstiod(w.ctx, mesh, "PILOT_ENABLE_AMBIENT=true"); err != nil {
		t.Fatal(err)
	}
	w.kubectl(t, "-n", "demo", "patch", "gateways.gateway.networking.k8s.io", "way", "--subresource=status", "--type=merge", "-p",
		`{"status":{"addresses":[{"type":"Hostname","value":"way.demo.svc.cluster.local"}]}}`)
	w.kubectl(t, "-n", "demo", "rollout", "status", "deployment/way", "--timeout=55s")
	w.install(t, []string{"external-etcd", kind + "-manager"}, "HFID_ETCD_ENDPOINTS="+w.lab.Etcd.Endpoint, "HFID_KUBE_NAMESPACES=demo",
		"HFID_KUBE_DELIVERY="+kind, "HFID_KUBE_LINGER=0s")
	defer w.installUsual(t)
	defer w.kubectl(t, "-n", "demo", "delete", kind, "-l", "app.kubernetes.io/managed-by=hfi")
	w.push(t, abort("behind-way", "ambient", "demo", 418, 100))
	eventually(t, "the filter in the waypoint", 2*time.Minute, func() error {
		var filters api.FiltersStatus
		if err := w.tryAsk("/v1/filters", &filters); err != nil {
			return err
		}
		for _, item := range filters.Items {
			if item.Waypoint == "way" && item.Namespace == "demo" && item.State == api.FilterCurrent && item.Digest != "" {
				return nil
			}
		}
		return fmt.Errorf("there are %+v", filters.Items)
	})
	w.saysOf(t, kind, "hfi.waypoint-way", "True", "Loaded", time.Minute, "loaded on 1 of 1 pods")
	var status api.Status
	w.ask(t, "/v1/status", &status)
	if view := status.Kubernetes.KubernetesView; view == nil || len(view.Policies) != 1 || view.Policies[0].Current != 1 || view.Policies[0].Warning != "" {
		t.Errorf("the status has %+v", view)
	}
	if names := strings.Fields(w.kubectl(t, "-n", "demo", "get", kind, "-l", "app.kubernetes.io/managed-by=hfi", "-o", `jsonpath={.items[*].metadata.name}`)); len(names) != 1 {
		t.Errorf("there are %q", names)
	}
	w.pushAndWait(t)
}
