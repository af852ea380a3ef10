//go:build linux

package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/boifi/hfi/internal/testtool"
)

// Lab is a running cluster. It ends with the process: see Main.
type Lab struct {
	// Etcd is the etcd server that the lab runs for the daemon.
	Etcd Etcd

	folder string
	api    *client
	node   *node

	mu sync.Mutex
	// images has the available images by their full name in the Pod.
	images map[string]Image
	// servers has the lab's own servers by name.
	servers map[string]*process
}

// Start starts the cluster and the mesh, without any workload. It takes about ten seconds.
func Start(ctx context.Context) (*Lab, error) {
	folder := os.Getenv(folderVariable)
	if folder == "" {
		return nil, fmt.Errorf("the lab runs in its own namespaces: TestMain must call lab.Main")
	}
	for _, program := range []string{"ip", "iptables", "iptables-restore", "git"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("the lab needs iproute2, iptables and git: %w", err)
		}
	}
	l := &Lab{folder: folder, images: map[string]Image{}, servers: map[string]*process{}}
	for _, name := range []string{"logs", "images", "pods"} {
		if err := os.MkdirAll(filepath.Join(folder, name), 0o755); err != nil {
			return nil, err
		}
	}
	steps := []struct {
		what string
		do   func(context.Context) error
	}{
		{"setting up the network", setUpNetwork},
		{"starting Kubernetes", l.startKubernetes},
		{"starting the services of the node", l.startServices},
		{"starting Istio", l.startIstio},
		{"starting etcd for the daemon", l.startEtcd},
		{"starting the node", l.startNode},
	}
	for _, step := range steps {
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return l, nil
}

// Kubeconfig returns the path of a kubeconfig file for the cluster's administrator.
func (l *Lab) Kubeconfig() string { return filepath.Join(l.folder, "kubeconfig") }

// Kubectl runs kubectl with a standard input, and returns its output.
func (l *Lab) Kubectl(ctx context.Context, input string, arguments ...string) (string, error) {
	command := l.command("kubectl", arguments...)
	command.Env = append(os.Environ(), "KUBECONFIG="+l.Kubeconfig())
	if input != "" {
		in, err := os.CreateTemp(l.folder, "input-")
		if err != nil {
			return "", err
		}
		defer os.Remove(in.Name())
		defer in.Close()
		if _, err := in.WriteString(input); err != nil {
			return "", err
		}
		if _, err := in.Seek(0, 0); err != nil {
			return "", err
		}
		command.Stdin = in
	}
	return run(ctx, command)
}

// tool returns the path of a program that "make test-istio" builds.
func tool(name string) string { return filepath.Join(testtool.Root(), ".tools", "bin", name) }

// chart returns the path of an installation file of Istio.
func chart(name string) string { return filepath.Join(testtool.Root(), ".tools", "istio", name) }

func (l *Lab) command(name string, arguments ...string) *exec.Cmd {
	return exec.Command(tool(name), arguments...)
}

// startServer starts one of the lab's own servers.
func (l *Lab) startServer(name string, command *exec.Cmd) (*process, error) {
	p, err := l.launch(name, command)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.servers[name] = p
	return p, nil
}
