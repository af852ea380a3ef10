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
	podResource   = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	eventResource = schema.GroupVersionResource{Version: "v1", Resource: "events"}
	// serviceResource and namespaceResource say which waypoints are used.
	serviceResource   = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	namespaceResource = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

// Clients send requests to a cluster.
type Clients struct {
	// Metadata reads the metadata of pods, Services and namespaces.
	Metadata metadata.Interface
	// Dynamic reads and writes plugins, and creates Events.
	Dynamic dynamic.Interface
}

// Connect returns clients for the cluster in a kubeconfig file or, if
// kubeconfig is empty, for the cluster that this process is a pod of. It
// sends nothing.
func Connect(kubeconfig string) (Clients, error) {
	var config *rest.Config
	var err error
	if kubeconfig == "" {
		if config, err = rest.InClusterConfig(); err != nil {
			return Clients{}, fmt.Errorf("finding the cluster that this process is a pod of: %w", err)
		}
	} else if config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		return Clients{}, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.UserAgent = "hfid"
	// One policy of many may need a plugin of its own, and each has a status and Events.
	config.QPS, config.Burst = 100, 200
	// A watch has no timeout, and its dial has none by default.
	config.Dial = dialer(5 * time.Second)
	if err := setHealthCheckIntervals(); err != nil {
		return Clients{}, err
	}
	pods, err := metadata.NewForConfig(config)
	if err != nil {
		return Clients{}, fmt.Errorf("creating the client for pods: %w", err)
	}
	others, err := dynamic.NewForConfig(config)
	if err != nil {
		return Clients{}, fmt.Errorf("creating the client for plugins: %w", err)
	}
	return Clients{Metadata: pods, Dynamic: others}, nil
}

// setHealthCheckIntervals makes client-go detect a dead HTTP/2 connection
// within 15 s instead of 45 s. client-go reads these intervals from the
// environment only. Values that the user set are kept.
func setHealthCheckIntervals() error {
	for name, value := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "10", "HTTP2_PING_TIMEOUT_SECONDS": "5"} {
		if os.Getenv(name) != "" {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("setting the health check of the cluster's connection: %w", err)
		}
	}
	return nil
}
