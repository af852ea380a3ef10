package kube

import (
	"fmt"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

var (
	podResource    = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	eventResource  = schema.GroupVersionResource{Version: "v1", Resource: "events"}
	pluginResource = schema.GroupVersionResource{Group: "extensions.istio.io", Version: "v1alpha1", Resource: "wasmplugins"}
)

const pluginKind = "WasmPlugin"

// Clients reach a cluster.
type Clients struct {
	// Metadata reads pods without what is in them.
	Metadata metadata.Interface
	// Dynamic reads and writes WasmPlugins, and writes Events.
	Dynamic dynamic.Interface
}

// Connect makes the clients of the cluster that a kubeconfig file names or,
// without one, of the cluster that this process is a pod of. It sends nothing.
func Connect(kubeconfig string) (Clients, error) {
	var config *rest.Config
	var err error
	if kubeconfig == "" {
		if config, err = rest.InClusterConfig(); err != nil {
			return Clients{}, fmt.Errorf("finding the cluster that this is a pod of: %w", err)
		}
	} else if config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		return Clients{}, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.UserAgent = "hfid"
	config.QPS, config.Burst = 20, 50
	// A watch has no end of its own, nor has the dial for it.
	config.Dial = dialer(5 * time.Second)
	if err := pingSoon(); err != nil {
		return Clients{}, err
	}
	pods, err := metadata.NewForConfig(config)
	if err != nil {
		return Clients{}, fmt.Errorf("making a client for pods: %w", err)
	}
	others, err := dynamic.NewForConfig(config)
	if err != nil {
		return Clients{}, fmt.Errorf("making a client for WasmPlugins: %w", err)
	}
	return Clients{Metadata: pods, Dynamic: others}, nil
}

// pingSoon has client-go notice within 15 s, and not 45, that a connection has
// died in silence. The environment is the one way to tell it; the user's wins.
func pingSoon() error {
	for name, value := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "10", "HTTP2_PING_TIMEOUT_SECONDS": "5"} {
		if os.Getenv(name) != "" {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("setting how often the cluster's connection is tested: %w", err)
		}
	}
	return nil
}
