package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/klog/v2"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/fleet"
	"github.com/boifi/hfi/reconciler/kube"
)

// The values of --kube.
const (
	kubeOff  = "off"
	kubeAuto = "auto"
	kubeOn   = "on"
)

// kubeOptions are the settings for Kubernetes.
type kubeOptions struct {
	mode, kubeconfig, controlPlane, delivery string
	// root is the mesh's root namespace.
	root       string
	namespaces []string
	linger     time.Duration
}

func (o *kubeOptions) bind(flags *pflag.FlagSet) {
	flags.StringVar(&o.mode, "kube", kubeAuto, "whether to watch the Kubernetes cluster: off, on, or auto (on in a pod or with --kubeconfig)")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file (default: the service account of this pod)")
	flags.StringSliceVar(&o.namespaces, "kube-namespaces", nil, "comma-separated namespaces in which to create, repair and delete a WasmPlugin for each workload that policies target (default: none)")
	flags.StringVar(&o.root, "kube-root-namespace", kube.DefaultRootNamespace, "the mesh's root namespace (rootNamespace in its configuration): a WasmPlugin there applies to every namespace")
	flags.DurationVar(&o.linger, "kube-linger", kube.DefaultLinger, "how long such a WasmPlugin stays after the last policy that targets its pods, so that a policy that comes back is in force at once")
	flags.StringVar(&o.delivery, "kube-delivery", kube.DeliverByWasmPlugin, "Istio's kind of objects by which sidecars get the filter: wasmplugin (or TrafficExtension, in a cluster without WasmPlugins) or envoyfilter, for meshes that refuse WasmPlugins")
	flags.StringVar(&o.controlPlane, "kube-control-plane", kube.DefaultControlPlane, "base URL at which sidecars reach this service: WasmPlugins refer to it")
}

func (o *kubeOptions) check() (problems []error) {
	if !slices.Contains([]string{kubeOff, kubeAuto, kubeOn}, o.mode) {
		problems = append(problems, fmt.Errorf("--kube must be off, auto or on, not %q", o.mode))
	}
	if err := kube.CheckControlPlane(o.controlPlane); err != nil {
		problems = append(problems, fmt.Errorf("--kube-control-plane: %w", err))
	}
	if !slices.Contains(kube.Deliveries(), o.delivery) {
		problems = append(problems, fmt.Errorf("--kube-delivery must be %s, not %q", strings.Join(kube.Deliveries(), " or "), o.delivery))
	}
	if o.linger < 0 {
		problems = append(problems, fmt.Errorf("--kube-linger must not be negative, as %s is", o.linger))
	}
	slices.Sort(o.namespaces)
	o.namespaces = slices.Compact(o.namespaces)
	for _, namespace := range o.namespaces {
		if wrong := content.IsDNS1123Label(namespace); len(wrong) > 0 {
			problems = append(problems, fmt.Errorf("--kube-namespaces: %q is not a valid name of a namespace: %s", namespace, wrong[0]))
		}
	}
	if wrong := content.IsDNS1123Label(o.root); len(wrong) > 0 {
		problems = append(problems, fmt.Errorf("--kube-root-namespace: %q is not a valid name of a namespace: %s", o.root, wrong[0]))
	}
	if slices.Contains(o.namespaces, o.root) {
		problems = append(problems, fmt.Errorf("--kube-namespaces: a WasmPlugin in %s, the mesh's root namespace, applies to every namespace: name those of the workloads and gateways (a gateway there needs one by hand, with a selector)", o.root))
	}
	if len(o.namespaces) > 0 && o.mode == kubeOff {
		problems = append(problems, fmt.Errorf("--kube-namespaces needs the cluster, and --kube is off"))
	}
	return problems
}

// newCluster returns the view of the cluster, not open yet, or nil if this
// daemon is not in one or is not meant to watch it. The module is the filter's.
func newCluster(o kubeOptions, loop *reconciler.Reconciler, filters *fleet.Fleet, module []byte, logger *slog.Logger) (*kube.Cluster, error) {
	asked := o.mode == kubeOn || o.kubeconfig != "" || len(o.namespaces) > 0
	if o.mode == kubeOff || !asked && os.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		return nil, nil
	}
	clients, err := kube.Connect(o.kubeconfig)
	switch {
	case err != nil && asked:
		return nil, fmt.Errorf("reaching Kubernetes (--kube): %w", err)
	case err != nil:
		// A pod without a service account is not meant to watch the cluster.
		logger.Info("not watching a Kubernetes cluster", "reason", err)
		return nil, nil
	}
	// Package kube itself logs a failure once, when it changes.
	klog.SetSlogLogger(slog.New(debugOnly{logger.Handler()}))
	cluster := kube.New(clients)
	cluster.Logger, cluster.Leads, cluster.Replicas = logger, loop.Leads, filters.Replicas
	cluster.Filters = func(ctx context.Context) (api.FiltersStatus, error) {
		status, err := filters.Status(ctx)
		return status.FiltersStatus, err
	}
	filters.Pods = cluster.Exist
	filters.Leads = loop.Leads
	cluster.PodGone, cluster.Report = filters.PodGone, filters.SetClusterReport
	cluster.ControlPlane, cluster.Keep = o.controlPlane, o.namespaces
	cluster.Delivery, cluster.Linger, cluster.RootNamespace = o.delivery, o.linger, o.root
	if len(module) > 0 {
		sum := sha256.Sum256(module)
		cluster.SHA256 = hex.EncodeToString(sum[:])
	}
	return cluster, nil
}

// debugOnly logs the messages of a library at level debug, whatever their own.
type debugOnly struct{ slog.Handler }

func (d debugOnly) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

func (d debugOnly) Handle(ctx context.Context, record slog.Record) error {
	if !d.Enabled(ctx, record.Level) {
		return nil // klog calls Handle for errors without Enabled
	}
	record.Level = slog.LevelDebug
	return d.Handler.Handle(ctx, record)
}

func (d debugOnly) WithAttrs(attrs []slog.Attr) slog.Handler {
	return debugOnly{d.Handler.WithAttrs(attrs)}
}
func (d debugOnly) WithGroup(name string) slog.Handler { return debugOnly{d.Handler.WithGroup(name)} }
