package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/fleet"
	"github.com/boifi/hfi/reconciler/kube"
	"github.com/boifi/hfi/reconciler/served"
)

func settings() kubeOptions {
	return kubeOptions{mode: kubeAuto, controlPlane: kube.DefaultControlPlane, delivery: kube.DeliverByEnvoyFilter, root: kube.DefaultRootNamespace}
}

// Outside a cluster the daemon does not look for one, unless a flag says so:
// then it reports why it cannot.
func TestNewClusterDetectsKubernetes(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	open := func(change func(*kubeOptions)) (*kube.Cluster, error) {
		o := settings()
		change(&o)
		loop := &reconciler.Reconciler{}
		return newCluster(o, loop, fleet.New("a", served.New()), nil, slog.New(slog.DiscardHandler))
	}
	for _, mode := range []string{kubeOff, kubeAuto} {
		if cluster, err := open(func(o *kubeOptions) { o.mode = mode }); cluster != nil || err != nil {
			t.Errorf("--kube %s: got %v, %v", mode, cluster, err)
		}
	}
	for what, change := range map[string]func(*kubeOptions){
		"--kube on":         func(o *kubeOptions) { o.mode = kubeOn },
		"--kube-namespaces": func(o *kubeOptions) { o.namespaces = []string{"demo"} },
		"--kubeconfig":      func(o *kubeOptions) { o.kubeconfig = "no such file" },
	} {
		if cluster, err := open(change); cluster != nil || err == nil || !strings.Contains(err.Error(), "Kubernetes") {
			t.Errorf("%s: got %v, %v", what, cluster, err)
		}
	}
	// A pod without a token is not meant to look.
	t.Setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	if cluster, err := open(func(*kubeOptions) {}); cluster != nil || err != nil {
		t.Errorf("in a pod without a token: got %v, %v", cluster, err)
	}
}

func TestKubeOptionsCheck(t *testing.T) {
	for problem, change := range map[string]func(*kubeOptions){
		"":                               func(o *kubeOptions) { o.namespaces = []string{"demo", "shop-2", "demo"} },
		"--kube must be off, auto or on": func(o *kubeOptions) { o.mode = "yes" },
		`"Demo" is not a valid name of a namespace`:             func(o *kubeOptions) { o.namespaces = []string{"Demo"} },
		"a gateway there needs one by hand, with a selector":    func(o *kubeOptions) { o.namespaces = []string{"istio-system"} },
		"the mesh's root namespace, applies to every namespace": func(o *kubeOptions) { o.namespaces = []string{"istio-system"} },
		"WasmPlugin in mesh-config, the mesh's root namespace":  func(o *kubeOptions) { o.root, o.namespaces = "mesh-config", []string{"demo", "mesh-config"} },
		`--kube-root-namespace: "" is not a valid name`:         func(o *kubeOptions) { o.root = "" },
		"--kube-control-plane: it must be":                      func(o *kubeOptions) { o.controlPlane = "hfi-control-plane.boifi:8080" },
		"--kube-delivery must be wasmplugin or envoyfilter":     func(o *kubeOptions) { o.delivery = "lua" },
		"--kube-linger must not be negative":                    func(o *kubeOptions) { o.linger = -time.Second },
		"needs the cluster, and --kube is off":                  func(o *kubeOptions) { o.mode, o.namespaces = kubeOff, []string{"demo"} },
	} {
		o := settings()
		change(&o)
		problems := o.check()
		if problem == "" && (len(problems) > 0 || len(o.namespaces) != 2) || problem != "" && (len(problems) != 1 || !strings.Contains(problems[0].Error(), problem)) {
			t.Errorf("problems = %[2]v, want %[1]q", problem, problems)
		}
	}
}

// The messages of client-go are logged at level debug, errors too.
func TestClientGoLogsAtDebug(t *testing.T) {
	for level, want := range map[slog.Level]int{slog.LevelInfo: 0, slog.LevelDebug: 2} {
		var text bytes.Buffer
		klog.SetSlogLogger(slog.New(debugOnly{slog.NewTextHandler(&text, &slog.HandlerOptions{Level: level})}))
		klog.Background().Error(nil, "an error")
		klog.Background().Info("a word")
		klog.ClearLogger()
		if got := strings.Count(text.String(), "level=DEBUG"); got != want || strings.Count(text.String(), "\n") != want {
			t.Errorf("log at level %s: %q", level, text.String())
		}
	}
}
