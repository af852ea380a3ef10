//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Environment variables that this package sets for its child process.
const (
	// enabledVariable enables the tests that need the lab.
	enabledVariable = "HFI_ISTIO"
	// folderVariable is set in the isolated process: the lab's folder.
	folderVariable = "HFI_ISTIO_FOLDER"
)

// Main runs the tests of a package with a lab; TestMain passes its result to
// os.Exit. The tests run in a child process that is process 1 of a new PID
// namespace: when it ends, in any way, the kernel ends everything that the lab
// started. Without HFI_ISTIO=1 they run in this process, and skip: see Require.
func Main(m *testing.M) int {
	if len(os.Args) == 3 && os.Args[1] == containerCommand {
		fmt.Fprintln(os.Stderr, "starting a container:", runContainer(os.Args[2]))
		return 127
	}
	if os.Getenv(enabledVariable) != "1" {
		return m.Run()
	}
	if os.Getenv(folderVariable) != "" {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "preparing the lab's namespaces:", err)
			return 1
		}
		return m.Run()
	}
	code, err := isolate()
	if err != nil {
		fmt.Fprintln(os.Stderr, "isolating the lab:", err)
		return 1
	}
	return code
}

// Require skips a test that needs the lab unless HFI_ISTIO=1 is set.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv(enabledVariable) != "1" {
		t.Skipf("a mesh of real servers takes minutes to build: run make test-istio, which sets %s=1", enabledVariable)
	}
}

// isolate runs this program again in new namespaces, and returns its exit code. On
// failure it prints the ends of the lab's logs and keeps the files.
func isolate() (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("it makes network namespaces and needs to be root")
	}
	folder, err := os.MkdirTemp("", "hfi-istio-")
	if err != nil {
		return 1, err
	}
	// Daemons that do not run as root have files below it.
	if err := os.Chmod(folder, 0o755); err != nil {
		return 1, err
	}
	// The kernel sends Pdeathsig when the thread that started the child ends.
	runtime.LockOSThread()
	child := exec.Command("/proc/self/exe", os.Args[1:]...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.Env = append(os.Environ(), folderVariable+"="+folder)
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := child.Start(); err != nil {
		return 1, err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for range signals {
			_ = child.Process.Kill()
		}
	}()
	// The exit status is in its state.
	_ = child.Wait()
	signal.Stop(signals)
	close(signals)
	if child.ProcessState.Success() {
		return 0, os.RemoveAll(folder)
	}
	showLogs(filepath.Join(folder, "logs"))
	fmt.Fprintf(os.Stderr, "the lab's files are kept in %s\n", folder)
	return 1, nil
}

// prepare prepares the namespaces from within.
func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keeping mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc for the process namespace: %w", err)
	}
	// iproute2 keeps its handles of network namespaces here.
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run/netns", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mounting /run/netns: %w", err)
	}
	return nil
}

// shownBytes is the length of each log's end that is printed on failure.
const shownBytes = 3000

func showLogs(folder string) {
	logs, _ := filepath.Glob(filepath.Join(folder, "*.log"))
	for _, path := range logs {
		text, err := os.ReadFile(path)
		if err != nil || len(text) == 0 {
			continue
		}
		if cut := len(text) - shownBytes; cut > 0 {
			text = text[cut:]
		}
		fmt.Fprintf(os.Stderr, "== %s\n%s\n", filepath.Base(path), strings.TrimSpace(string(text)))
	}
}
