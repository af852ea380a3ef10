package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// refused runs hfid, which must exit by itself with an exit code.
func refused(t *testing.T, code int, environment []string, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hfidtest.WaitLimit)
	defer cancel()
	command := exec.CommandContext(ctx, hfidtest.Binary(t), arguments...)
	command.Env = append(os.Environ(), environment...)
	command.Dir = t.TempDir()
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	err := command.Run()
	if exit := (*exec.ExitError)(nil); ctx.Err() != nil || !errors.As(err, &exit) || exit.ExitCode() != code {
		t.Fatalf("hfid %v exited with %v, want exit code %d:\n%s", arguments, err, code, out.String())
	}
	return out.String()
}

// Invalid settings are reported at the start, all together, before anything is
// created on disk.
func TestWrongFlags(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		environment []string
		arguments   []string
		says        []string
	}{
		{"nothing", nil, nil, []string{"--repo is required"}},
		{"unknown flag", nil, []string{"--repository", "x"}, []string{"--repository"}},
		{"an argument", nil, []string{"x"}, []string{`"x"`}},
		{"many at once", nil, []string{"--drift", "maybe", "--interval", "1ms", "--path", "../x"}, []string{"--repo", "--drift must be report or heal", "--interval", "--path"}},
		{"no duration", nil, []string{"--repo", "x", "--interval", "soon"}, []string{"--interval", "soon"}},
		{"log format", nil, []string{"--repo", "x", "--log-format", "xml"}, []string{"--log-format must be text or json"}},
		{"log level", nil, []string{"--repo", "x", "--log-level", "loud"}, []string{"--log-level", "loud"}},
		{"empty prefix", nil, []string{"--repo", "x", "--etcd-prefix", "/"}, []string{"--etcd-prefix"}},
		{"unknown variable", []string{"HFID_INTERVALL=3s"}, []string{"--repo", "x"}, []string{"HFID_INTERVALL"}},
		{"wrong variable", []string{"HFID_INTERVAL=soon"}, []string{"--repo", "x"}, []string{"HFID_INTERVAL", "soon"}},
		{"variable out of range", []string{"HFID_DRIFT=maybe"}, []string{"--repo", "x"}, []string{"--drift must be report or heal"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			out := refused(t, 2, test.environment, append(slices.Clone(test.arguments), "--data-dir", data)...)
			for _, part := range test.says {
				if !strings.Contains(out, part) {
					t.Errorf("%q is not in %s", part, out)
				}
			}
			if _, err := os.Stat(data); err == nil {
				t.Errorf("the data folder was created")
			}
		})
	}
}

// Every flag can be set in the environment; the command line takes precedence.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	hash := commit(repo, "One", map[string]string{"chaos/a.yaml": delay("a", "a", 5)})
	data := filepath.Join(t.TempDir(), "data")
	listen := testtool.FreeAddress(t)
	command := exec.Command(hfidtest.Binary(t), "--etcd-prefix", "/flag")
	command.Env = append(os.Environ(), "HFID_REPO="+repo.Bare(), "HFID_PATH=chaos", "HFID_LISTEN="+listen, "HFID_DATA_DIR="+data,
		"HFID_REPLICA_ID=by-environment", "HFID_DRIFT=heal", "HFID_ETCD_PREFIX=/environment", "HFID_LOG_LEVEL=warn", "HFID_ETCD_LISTEN=127.0.0.1:0")
	var log bytes.Buffer
	command.Stderr = &log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	stop := func() error {
		_ = command.Process.Signal(os.Interrupt)
		select {
		case err := <-ended:
			return err
		case <-time.After(hfidtest.WaitLimit):
			_ = command.Process.Kill()
			return errors.New("it did not end")
		}
	}
	answer := pollURL(t, "http://"+listen+"/v1/status", `"Synced"`)
	for _, part := range []string{hash, `"by-environment"`, `"path":"chaos"`, `"mode":"heal"`} {
		if !strings.Contains(strings.ReplaceAll(answer, `": `, `":`), part) {
			t.Errorf("%s is not in the status:\n%s", part, answer)
		}
	}
	address, err := os.ReadFile(filepath.Join(data, "etcd-client-address"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ctl(t, strings.TrimSpace(string(address)), "get", "/", "--prefix", "--keys-only")
	if err != nil || !strings.Contains(keys, "/flag/policies/a") || strings.Contains(keys, "/environment") {
		t.Errorf("etcd's keys (%v): %s", err, keys)
	}
	if err := stop(); err != nil {
		t.Errorf("interrupted, hfid exited with %v:\n%s", err, log.String())
	}
	if log.Len() > 0 {
		t.Errorf("with --log-level warn and nothing wrong it logged\n%s", log.String())
	}
}

// A second daemon on the same data folder, or on a port in use, exits at once with
// an error and does not affect the first.
func TestFolderAndPortInUse(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	hash := commit(repo, "One", files(5, "a"))
	d := hfidtest.Run(t, repo.Bare())
	d.WaitSynced(hash)

	began := time.Now()
	out := refused(t, 1, nil, "--repo", repo.Bare(), "--listen", "127.0.0.1:0", "--data-dir", d.DataDir)
	if !strings.Contains(out, d.DataDir) || !strings.Contains(out, "in use by another hfid") || !strings.Contains(out, strconv.Itoa(d.PID())) {
		t.Errorf("a second daemon in the folder of process %d says\n%s", d.PID(), out)
	}
	address := strings.TrimPrefix(d.URL(), "http://")
	out = refused(t, 1, nil, "--repo", repo.Bare(), "--listen", address, "--data-dir", t.TempDir())
	if !strings.Contains(out, address) || !strings.Contains(out, "address already in use") {
		t.Errorf("a daemon on a port in use says\n%s", out)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the errors took %s", took)
	}
	next := commit(repo, "Two", files(5, "a", "b"))
	d.WaitSynced(next)
}

// SIGTERM ends the daemon with exit code 0, although clients wait and a CUE package
// was evaluated in a child process. No process is left, and nothing in the data
// folder prevents the next start.
func TestTermination(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	all := files(5, "a")
	all["policies/cue.mod/module.cue"] = "module: \"example.com/policies\"\nlanguage: version: \"v0.17.0\"\n"
	all["policies/many/many.cue"] = "package many\n\npolicies: [string]: {...}\nfor i in [1, 2] {policies: \"made-\\(i)\": {metadata: name: \"made-\\(i)\", spec: rules: [{fault: delay_ms: i}]}}\n"
	hash := commit(repo, "One", all)
	d := hfidtest.Run(t, repo.Bare())
	d.WaitSynced(hash)
	wantNames(t, "served", servedNames(d), "a", "made-1", "made-2")

	waiting := make(chan struct{})
	etag := d.Policies("").ETag
	go func() {
		defer close(waiting)
		_, _ = d.Ask(t.Context(), "GET", "/v1/policies?wait=60s", map[string][]string{"If-None-Match": {etag}})
	}()
	pid := d.PID()
	began := time.Now()
	d.Stop()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("stopping took %s", took)
	}
	select {
	case <-waiting:
	case <-time.After(hfidtest.WaitLimit):
		t.Error("a client still waits for a daemon that has exited")
	}
	if left := childrenOf(pid, d.DataDir); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	for range 3 {
		d.Start()
		d.WaitSynced(hash)
		d.Stop()
	}
}

// childrenOf returns the processes that a process started, or whose arguments name its data folder.
func childrenOf(pid int, folder string) (left []string) {
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // It has just exited.
		}
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		_, rest, _ := strings.Cut(string(text), ") ")
		state := strings.Fields(rest)
		if len(state) > 2 && (state[1] == strconv.Itoa(pid) || state[2] == strconv.Itoa(pid) || bytes.Contains(command, []byte(folder))) {
			left = append(left, string(bytes.ReplaceAll(command, []byte{0}, []byte(" "))))
		}
	}
	return left
}
