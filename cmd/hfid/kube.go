package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/klog/v2"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/fleet"
	"github.com/boifi/hfi/reconciler/http"
	"github.com/boifi/hfi/reconciler/kube"
)

// The values of --kube.
const (
	kubeOff  = "off"
	kubeAuto = "auto"
	kubeOn   = "on"
)

// kubeOptions are the settings about a Kubernetes cluster.
type kubeOptions struct {
	mode, kubeconfig, controlPlane string
	namespaces                     []string
}

func (o *kubeOptions) bind(flags *pflag.FlagSet) {
	flags.StringVar(&o.mode, "kube", kubeAuto, "whether to look at the Kubernetes cluster around: off, on, or auto: where this runs in a pod, or --kubeconfig is given")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "file that says how to reach the cluster; by default as a pod of it")
	flags.StringSliceVar(&o.namespaces, "kube-namespaces", nil, "namespaces in which to make, repair and remove the WasmPlugin hfi as policies ask for it; by default none")
	flags.StringVar(&o.controlPlane, "kube-control-plane", kube.DefaultControlPlane, "this service's base URL as sidecars reach it: where WasmPlugins say that the filter and its policies are")
}

func (o *kubeOptions) check() (problems []error) {
	if !slices.Contains([]string{kubeOff, kubeAuto, kubeOn}, o.mode) {
		problems = append(problems, fmt.Errorf("--kube must be off, auto or on, not %q", o.mode))
	}
	if err := kube.CheckControlPlane(o.controlPlane); err != nil {
		problems = append(problems, fmt.Errorf("--kube-control-plane: %w", err))
	}
	slices.Sort(o.namespaces)
	o.namespaces = slices.Compact(o.namespaces)
	for _, namespace := range o.namespaces {
		if wrong := content.IsDNS1123Label(namespace); len(wrong) > 0 {
			problems = append(problems, fmt.Errorf("--kube-namespaces: %q is no name of a namespace: %s", namespace, wrong[0]))
		}
	}
	if len(o.namespaces) > 0 && o.mode == kubeOff {
		problems = append(problems, fmt.Errorf("--kube-namespaces needs the cluster, and --kube is off"))
	}
	return problems
}

// newCluster is what looks at the cluster, not open yet, or nil where there is none to look at.
func newCluster(o kubeOptions, loop *reconciler.Reconciler, service *http.Server, replicas func() fleet.Replicas, logger *slog.Logger) (*kube.Cluster, error) {
	asked := o.mode == kubeOn || o.kubeconfig != "" || len(o.namespaces) > 0
	if o.mode == kubeOff || !asked && os.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		return nil, nil
	}
	clients, err := kube.Connect(o.kubeconfig)
	switch {
	case err != nil && asked:
		return nil, fmt.Errorf("reaching Kubernetes (--kube): %w", err)
	case err != nil:
		// A pod that was given no account is not to look.
		logger.Info("not looking at the Kubernetes cluster", "reason", err)
		return nil, nil
	}
	// What matters of it is logged once, where it changes.
	klog.SetSlogLogger(slog.New(aside{logger.Handler()}))
	cluster := kube.New(clients)
	cluster.Logger, cluster.Leads, cluster.Filters, cluster.Replicas = logger, loop.Leads, service.FleetStatus, replicas
	cluster.PodGone = service.Fleet.PodGone
	cluster.ControlPlane, cluster.Keep = o.controlPlane, o.namespaces
	if len(service.Filter) > 0 {
		sum := sha256.Sum256(service.Filter)
		cluster.SHA256 = hex.EncodeToString(sum[:])
	}
	service.Cluster = cluster
	return cluster, nil
}

// aside logs all that a library says at the level debug.
type aside struct{ slog.Handler }

func (a aside) Enabled(ctx context.Context, _ slog.Level) bool {
	return a.Handler.Enabled(ctx, slog.LevelDebug)
}

func (a aside) Handle(ctx context.Context, record slog.Record) error {
	if !a.Enabled(ctx, record.Level) {
		return nil // klog does not ask for errors
	}
	record.Level = slog.LevelDebug
	return a.Handler.Handle(ctx, record)
}

func (a aside) WithAttrs(attrs []slog.Attr) slog.Handler { return aside{a.Handler.WithAttrs(attrs)} }
func (a aside) WithGroup(name string) slog.Handler       { return aside{a.Handler.WithGroup(name)} }
