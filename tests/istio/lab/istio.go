//go:build linux

package lab

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// ProxyImage is the image of sidecars that Istio's injector puts into pods.
const ProxyImage = "istio/proxyv2:lab"

// meshConfig is Istio's default configuration of a mesh, without the telemetry
// filter, which stock Envoy does not have.
const meshConfig = `
defaultProviders: {}
enablePrometheusMerge: true
defaultConfig:
  discoveryAddress: istiod.istio-system.svc:15012
`

// istioObjects are the Service of istiod, for sidecars and the API server, and the
// webhook for the injection of sidecars, as in Istio's chart.
const istioObjects = `
apiVersion: v1
kind: Service
metadata: {name: istiod, namespace: istio-system, labels: {app: istiod, istio: pilot}}
spec:
  ports:
  - {name: grpc-xds, port: 15010}
  - {name: https-dns, port: 15012}
  - {name: https-webhook, port: 443, targetPort: 15017}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: istiod-lab, namespace: istio-system, labels: {kubernetes.io/service-name: istiod}}
addressType: IPv4
ports:
- {name: grpc-xds, port: 15010}
- {name: https-dns, port: 15012}
- {name: https-webhook, port: 15017}
endpoints: [{addresses: [` + host + `], conditions: {ready: true}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: istio-sidecar-injector, labels: {istio.io/rev: default}}
webhooks:
- name: namespace.sidecar-injector.istio.io
  clientConfig: {service: {name: istiod, namespace: istio-system, path: /inject, port: 443}}
  rules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]
  namespaceSelector: {matchLabels: {istio-injection: enabled}}
  objectSelector: {matchExpressions: [{key: sidecar.istio.io/inject, operator: NotIn, values: ["false"]}]}
  failurePolicy: Fail
  sideEffects: None
  reinvocationPolicy: Never
  admissionReviewVersions: [v1]
`

// startIstio installs Istio's CRDs and starts istiod, which is also the certificate
// authority and the injector.
func (l *Lab) startIstio(ctx context.Context) error {
	if _, err := l.Kubectl(ctx, "", "create", "namespace", "istio-system"); err != nil {
		return err
	}
	if _, err := l.Kubectl(ctx, "", "apply", "--server-side", "-f", chart("crd-all.gen.yaml")); err != nil {
		return err
	}
	if _, err := l.Kubectl(ctx, istioObjects, "apply", "-f", "-"); err != nil {
		return err
	}
	folder := filepath.Join(l.folder, "istiod")
	if err := writeInjection(filepath.Join(folder, "var/lib/istio/inject")); err != nil {
		return err
	}
	return l.startIstiod(ctx, "")
}

// RestartIstiod ends istiod and starts it again, with an addition to the configuration of the mesh and
// further environment variables.
func (l *Lab) RestartIstiod(ctx context.Context, mesh string, environment ...string) error {
	l.servers["istiod"].stop(10 * time.Second)
	return l.startIstiod(ctx, mesh, environment...)
}

func (l *Lab) startIstiod(ctx context.Context, meshAddition string, environment ...string) error {
	folder := filepath.Join(l.folder, "istiod")
	mesh := filepath.Join(folder, "mesh.yaml")
	if err := os.WriteFile(mesh, []byte(meshConfig+meshAddition), 0o644); err != nil {
		return err
	}
	command := l.command("pilot-discovery", "discovery", "--kubeconfig", l.Kubeconfig(), "--meshConfig", mesh, "--domain", "cluster.local",
		"--httpAddr=127.0.0.1:15080", "--grpcAddr="+host+":15010", "--secureGRPCAddr="+host+":15012", "--httpsAddr="+host+":15017",
		"--monitoringAddr=127.0.0.1:15014", "--ctrlz_port=0")
	command.Dir = folder
	command.Env = append(os.Environ(), "POD_NAMESPACE=istio-system", "POD_NAME=istiod-lab", "REVISION=default", "CLUSTER_ID=Kubernetes",
		"PILOT_CERT_PROVIDER=istiod", "INJECTION_WEBHOOK_CONFIG_NAME=istio-sidecar-injector", "VALIDATION_WEBHOOK_CONFIG_NAME=",
		// Disable filters that only Istio's own build of Envoy has.
		"PILOT_ENABLE_ALPN_FILTER=false", "PILOT_ENABLE_METADATA_EXCHANGE=false")
	command.Env = append(command.Env, environment...)
	istiod, err := l.startServer("istiod", command)
	if err != nil {
		return err
	}
	if err := await(ctx, "istiod", time.Minute, istiod, func() error { return answers("http://127.0.0.1:15080/ready") }); err != nil {
		return err
	}
	return await(ctx, "the injector's certificate", time.Minute, istiod, func() error {
		bundle, err := l.Kubectl(ctx, "", "get", "mutatingwebhookconfiguration", "istio-sidecar-injector", "-o", "jsonpath={.webhooks[0].clientConfig.caBundle}")
		if err == nil && bundle == "" {
			err = fmt.Errorf("istiod has not written it yet")
		}
		return err
	})
}

// writeInjection writes the injector's configuration: Istio's templates and the
// values of its chart.
func writeInjection(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	text, err := os.ReadFile(chart("values.yaml"))
	if err != nil {
		return err
	}
	var file struct {
		Defaults map[string]any `json:"_internal_defaults_do_not_set"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return fmt.Errorf("reading the values of Istio's chart: %w", err)
	}
	values := file.Defaults
	global, _ := values["global"].(map[string]any)
	proxy, _ := global["proxy"].(map[string]any)
	initial, _ := global["proxy_init"].(map[string]any)
	if proxy == nil || initial == nil {
		return fmt.Errorf("the values of Istio's chart have no global.proxy and global.proxy_init")
	}
	proxy["image"], initial["image"] = ProxyImage, ProxyImage
	// A short interval, so that a sidecar becomes ready soon.
	proxy["readinessPeriodSeconds"] = 1
	// The filter's log must be readable for everybody.
	proxy["logLevel"], proxy["componentLogLevel"] = "warning", "misc:error,wasm:info"
	// So does the agent, which fetches the module.
	global["logging"] = map[string]any{"level": "default:info,wasm:debug"}
	text, err = yaml.Marshal(values)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "values"), text, 0o644); err != nil {
		return err
	}
	templates := map[string]string{}
	for name, file := range map[string]string{"sidecar": "injection-template.yaml", "gateway": "gateway-injection-template.yaml"} {
		template, err := os.ReadFile(chart(file))
		if err != nil {
			return err
		}
		templates[name] = strings.TrimSpace(string(template)) + "\n"
	}
	config, err := yaml.Marshal(map[string]any{"policy": "enabled", "defaultTemplates": []string{"sidecar"}, "templates": templates})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "config"), config, 0o644)
}

// answers reports whether a GET request gets 200.
func answers(url string) error {
	hurried := &http.Client{Timeout: 5 * time.Second}
	response, err := hurried.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, response.Status)
	}
	return nil
}
