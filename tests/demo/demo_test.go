//go:build linux

// Package demo runs the demo and the commands of the README.
package demo

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/child"
	"github.com/boifi/hfi/internal/testtool"
)

// makeDemo returns the command, in a new process group, with a folder for temporary
// files that the test can check.
func makeDemo(t *testing.T, temp string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	testtool.NoteSources(t)
	testtool.Path(t, "etcdctl")
	testtool.Path(t, "envoy")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	command := exec.CommandContext(ctx, "make", append([]string{"--no-print-directory", "demo"}, args...)...)
	command.Dir = testtool.Root()
	command.Env = append(os.Environ(), "TMPDIR="+temp, "MAKEFLAGS=", "MAKELEVEL=")
	child.OwnGroup(command)
	command.Cancel = func() error { return child.KillGroup(command.Process.Pid) }
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	return command, &output
}

func leavesNothing(t *testing.T, temp string, group int) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(temp, "hfi-demo-*")); len(left) > 0 {
		t.Errorf("the demo left %v", left)
	}
	if err := syscall.Kill(-group, 0); err != syscall.ESRCH {
		t.Errorf("processes of the demo are left in group %d: %v", group, err)
	}
}

// In the demo a push changes the responses of requests, an invalid commit does not,
// a revert restores them, a foreign write to etcd is reported and not served, and
// in the end git, etcd and every sidecar agree. The demo itself fails if a request
// gets a wrong response.
func TestDemoScript(t *testing.T) {
	testtool.SlowOnly(t)
	temp := t.TempDir()
	command, output := makeDemo(t, temp, "SCRIPT=1")
	if err := command.Run(); err != nil {
		t.Fatalf("make demo SCRIPT=1: %v\n%s", err, output)
	}
	for _, step := range []string{"0. ", "1. ", "2. ", "3. ", "4. ", "5. ", "6. ", "Done: "} {
		if !strings.Contains(output.String(), "\n"+step) {
			t.Errorf("the demo did not print %q:\n%s", step, output)
		}
	}
	// The result of each push, in the order of the steps.
	said := regexp.MustCompile(`(?m)^  status: (\w+); git is at (\w+), etcd has (\w+), drift: None; 4 of 4 sidecars enforce it$`).FindAllStringSubmatch(output.String(), -1)
	if len(said) != 4 {
		t.Fatalf("the demo printed the status after %d of its four pushes:\n%s", len(said), output)
	}
	for i, sync := range []string{"Synced", "Synced", "OutOfSync", "Synced"} {
		if said[i][1] != sync || (said[i][2] == said[i][3]) != (sync == "Synced") {
			t.Errorf("after push %d the status was %q, want %s", i+1, said[i][0], sync)
		}
	}
	leavesNothing(t, temp, command.Process.Pid)
}

// The interactive demo runs until it is interrupted, and cleans up.
func TestDemoRunsUntilInterrupted(t *testing.T) {
	testtool.SlowOnly(t)
	temp := t.TempDir()
	command, _ := makeDemo(t, temp)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	command.Stdout, command.Stderr = write, write
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	var said strings.Builder
	buffer := make([]byte, 4096)
	for !strings.Contains(said.String(), "Ctrl-C ends the demo") {
		n, err := read.Read(buffer)
		said.Write(buffer[:n])
		if err != nil {
			t.Fatalf("the demo ended unexpectedly: %v\n%s", err, said.String())
		}
	}
	if err := syscall.Kill(-command.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait() // make prints that it was interrupted
	leavesNothing(t, temp, command.Process.Pid)
}
