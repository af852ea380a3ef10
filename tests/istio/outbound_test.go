//go:build linux

package istio

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"
)

// calling returns an outbound policy that aborts the calls of frontend to a destination.
func calling(name, to string, status int) string {
	return fmt.Sprintf("metadata: {name: %s}\nspec:\n  selector: {service: frontend, namespace: demo}\n  direction: outbound\n  rules:\n  - {match: {to: %s}, fault: {abort: {status: %d}}}\n", name, to, status)
}

// calls returns nil if the app in a pod gets that status when it calls a URL. Host is the Host
// header of the call, if it is not the URL's.
func (p appPod) calls(to, host string, status int) error {
	response, err := quick.Get(p.url() + "call?" + url.Values{"url": {to}, "host": {host}}.Encode())
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	if response.StatusCode != status {
		return fmt.Errorf("%s gets %d from %s, not %d: %s", p.name, response.StatusCode, to, status, text)
	}
	return nil
}

// A policy with direction: outbound faults the calls that a workload makes to a service or a host through
// its sidecar, and neither its other calls nor requests that it receives. The daemon keeps plugins
// of their own for that, of either kind of objects.
func outboundStory(t *testing.T, w *world) {
	for _, kind := range []string{"wasmplugin", "envoyfilter"} {
		t.Run(kind, func(t *testing.T) { w.faultsCalls(t, kind) })
	}
}

func (w *world) faultsCalls(t *testing.T, kind string) {
	const catalog, frontend = "http://productcatalog/", "http://frontend/"
	w.pushAndWait(t)
	w.kubectl(t, "-n", "demo", "delete", "wasmplugin", "--all")
	w.install(t, []string{"external-etcd", kind + "-manager"}, "HFID_ETCD_ENDPOINTS="+w.lab.Etcd.Endpoint, "HFID_KUBE_NAMESPACES=demo",
		"HFID_KUBE_DELIVERY="+kind, "HFID_KUBE_LINGER=0s")
	defer w.installUsual(t)
	defer w.kubectl(t, "-n", "demo", "delete", kind, "--all")
	there := func() string {
		return strings.Join(strings.Fields(w.kubectl(t, "-n", "demo", "get", kind, "-o", `jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}`)), " ")
	}
	pods := w.frontends(t)
	until := func(what string, limit time.Duration, ask func(appPod) error) {
		t.Helper()
		for _, pod := range pods {
			eventually(t, what, limit, func() error { return ask(pod) })
		}
	}
	until("a call without a policy", time.Minute, func(pod appPod) error { return pod.calls(catalog, "", 200) })

	began := time.Now()
	w.push(t, calling("without-catalog", "{service: productcatalog, namespace: demo}", 418), calling("without-api", "{host: api.example.com}", 419))
	until("the policy for calls", 2*time.Minute, func(pod appPod) error { return pod.calls(catalog, "", 418) })
	t.Logf("it was enforced everywhere %.1f s after the push", time.Since(began).Seconds())
	if plugins := there(); plugins != "hfi.outbound-frontend" {
		t.Errorf("there is %q", plugins)
	}
	w.saysOf(t, kind, "hfi.outbound-frontend", "True", "Loaded", time.Minute, "loaded on 3 of 3 pods")
	for _, pod := range pods {
		for _, problem := range []error{
			pod.calls(frontend, "", 200),
			// No service has this host, and the mesh lets such calls pass.
			pod.calls("http://"+hostAddress+"/", "api.example.com", 419),
		} {
			if problem != nil {
				t.Error(problem)
			}
		}
		w.all(t, pod, 200)
	}
	if problem := w.catalog(t).calls(catalog, "", 200); problem != nil {
		t.Error(problem)
	}

	// With a policy for each direction, both plugins are there, and each request has its own faults.
	w.push(t, calling("without-catalog", "{namespace: demo}", 418), abort("some", "frontend", "demo", 420, 0), delay("slow", "frontend", "demo"))
	eventually(t, "both plugins", time.Minute, func() error {
		if plugins := there(); plugins != "hfi-frontend hfi.outbound-frontend" {
			return fmt.Errorf("there is %q", plugins)
		}
		return nil
	})
	until("calls to the namespace", time.Minute, func(pod appPod) error { return pod.calls(frontend, "", 418) })
	w.saysOf(t, kind, "hfi-frontend", "True", "Loaded", time.Minute, "loaded on 3 of 3 pods")
	w.push(t, abort("in", "frontend", "demo", 418, 100))
	until("inbound requests", time.Minute, func(pod appPod) error { return pod.answersWith(418) })
	eventually(t, "the plugin for calls is deleted", time.Minute, func() error {
		if plugins := there(); plugins != "hfi-frontend" {
			return fmt.Errorf("there is %q", plugins)
		}
		return nil
	})
	w.push(t)
	until("calls without a policy", time.Minute, func(pod appPod) error { return pod.calls(catalog, "", 200) })
}
