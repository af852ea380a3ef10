package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/boifi/hfi/internal/datadir"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
	"golang.org/x/sync/errgroup"
)

// waitLimit bounds each wait.
const waitLimit = 60 * time.Second

// demo is the running processes and their folder.
type demo struct {
	// root is the checkout, folder the demo's own folder, and work the clone for commits.
	root, folder, work string
	// url is the daemon's URL, and etcd the client address of its etcd.
	url, etcd string
	daemon    *daemon
	upstream  *envoytest.Upstream
	sidecars  []*sidecar
}

// sidecar is an Envoy with the filter for an instance of a service.
type sidecar struct {
	service, pod string
	envoy        *envoytest.Envoy
}

func (s *demo) frontends() []*sidecar { return s.sidecars[:3] }
func (s *demo) catalogs() []*sidecar  { return s.sidecars[3:] }

// open starts everything. The caller must close the result even after an error.
func open(ctx context.Context, folder string) (*demo, error) {
	s := &demo{root: testtool.Root(), folder: folder, work: filepath.Join(folder, "work")}
	if err := s.makeRepository(ctx); err != nil {
		return s, fmt.Errorf("creating the policy repository: %w", err)
	}
	// Port 8080 as in the documentation, or another if it is taken.
	var err error
	if s.daemon, err = s.startDaemon(ctx, "127.0.0.1:8080"); err != nil && ctx.Err() == nil {
		s.daemon, err = s.startDaemon(ctx, "127.0.0.1:0")
	}
	if err != nil {
		return s, fmt.Errorf("starting the daemon: %w", err)
	}
	etcd, err := os.ReadFile(datadir.Folder(filepath.Join(folder, "data")).EtcdAddress())
	if err != nil {
		return s, err
	}
	s.etcd, s.url = strings.TrimSpace(string(etcd)), s.daemon.url
	if s.upstream, err = envoytest.StartUpstream(); err != nil {
		return s, err
	}
	for _, pod := range []string{"frontend-1", "frontend-2", "frontend-3", "productcatalog-1"} {
		s.sidecars = append(s.sidecars, &sidecar{service: pod[:strings.Index(pod, "-")], pod: pod})
	}
	var group errgroup.Group
	for _, sidecar := range s.sidecars {
		group.Go(func() error { return s.startSidecar(sidecar) })
	}
	if err := group.Wait(); err != nil {
		return s, err
	}
	_, err = s.until(ctx, "all filters' connection", func(status status) bool { return status.Filters.Current == len(s.sidecars) })
	return s, err
}

// makeRepository creates a bare repository with the example policies, except the
// policy that the demo pushes, and a clone of it.
func (s *demo) makeRepository(ctx context.Context) error {
	if err := s.command(ctx, s.folder, s.program("hfi"), "init", s.work).Run(); err != nil {
		return err
	}
	policies := filepath.Join(s.work, "policies")
	if err := os.RemoveAll(policies); err != nil {
		return err
	}
	if err := os.CopyFS(policies, os.DirFS(filepath.Join(s.root, "policies"))); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(policies, delayFile)); err != nil {
		return err
	}
	for _, arguments := range [][]string{
		{"init", "-q", "--bare", "-b", "main", filepath.Join(s.folder, "policies.git")},
		{"init", "-q", "-b", "main"},
		{"config", "user.name", "demo"},
		{"config", "user.email", "demo@example.com"},
		{"remote", "add", "origin", filepath.Join(s.folder, "policies.git")},
		{"add", "-A"},
		{"commit", "-q", "-m", "Begin with the example policies"},
		{"push", "-q", "-u", "origin", "main"},
	} {
		if err := s.git(ctx, arguments...); err != nil {
			return err
		}
	}
	return nil
}

func (s *demo) startSidecar(sidecar *sidecar) error {
	folder := filepath.Join(s.folder, sidecar.pod)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	filter := envoytest.Wasm{File: s.program("filter.wasm"), Configuration: map[string]any{"control_plane_cluster": "hfi"}}
	envoy, err := envoytest.Start(envoytest.Config{
		Node:      envoytest.Workload(sidecar.service, "demo", sidecar.pod),
		Listeners: []envoytest.Listener{{Filters: []envoytest.Filter{filter.Filter()}}},
		Clusters: []envoytest.Cluster{
			{Name: "upstream", Address: s.upstream.Address},
			{Name: "hfi", Address: strings.TrimPrefix(s.url, "http://")},
		},
	}, folder)
	if err != nil {
		return fmt.Errorf("starting the sidecar of %s: %w", sidecar.pod, err)
	}
	sidecar.envoy = envoy
	return nil
}

// close stops the sidecars and then the daemon. After a failure it prints the
// end of the daemon's log.
func (s *demo) close(failed bool) {
	var group errgroup.Group
	for _, sidecar := range s.sidecars {
		if sidecar.envoy != nil {
			group.Go(sidecar.envoy.Stop)
		}
	}
	err := group.Wait()
	if s.upstream != nil {
		err = errors.Join(err, s.upstream.Stop())
	}
	if s.daemon != nil {
		s.daemon.stop()
		if failed {
			fmt.Fprintf(os.Stderr, "demo: the daemon's log:\n%s", s.daemon.log())
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo: while stopping:", err)
	}
}

func (s *demo) program(name string) string { return filepath.Join(s.root, "bin", name) }

// command returns a command that runs in a folder with the demo's standard error and without this machine's git configuration.
func (s *demo) command(ctx context.Context, folder, program string, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, program, arguments...)
	command.Dir = folder
	if _, err := os.Stat(folder); err != nil {
		command.Dir = s.folder
	}
	command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	command.Stderr = os.Stderr
	return command
}

func (s *demo) git(ctx context.Context, arguments ...string) error {
	if err := s.command(ctx, s.work, "git", arguments...).Run(); err != nil {
		return fmt.Errorf("git %s: %w", arguments[0], err)
	}
	return nil
}

func (s *demo) etcdctl(ctx context.Context, arguments ...string) error {
	program := filepath.Join(s.root, ".tools", "bin", "etcdctl")
	command := s.command(ctx, s.folder, program, append([]string{"--endpoints", s.etcd}, arguments...)...)
	if err := command.Run(); err != nil {
		return fmt.Errorf("etcdctl %s: %w", arguments[0], err)
	}
	return nil
}

// commit returns a change that commits a file.
func (s *demo) commit(file string, text []byte, subject string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := os.WriteFile(filepath.Join(s.work, "policies", file), text, 0o600); err != nil {
			return err
		}
		if err := s.git(ctx, "add", "-A"); err != nil {
			return err
		}
		return s.git(ctx, "commit", "-q", "-m", subject)
	}
}
