//go:build linux

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// containerCommand is the argument with which this program starts a container.
const containerCommand = "lab-container"

// containerPlan is the configuration with which a process becomes a container.
type containerPlan struct {
	Network  string // of a pod, by its name under /run/netns
	Hostname string
	Root     string
	ReadOnly bool
	Mounts   []mount
	UID, GID int
	Groups   []int
	// Bare drops all capabilities, and prevents gaining any.
	Bare    bool
	Dir     string
	Env     []string
	Command []string
}

// mount is a file or folder of this machine that is mounted in the container.
type mount struct {
	Source, Target string
	ReadOnly       bool
}

// runContainer turns this process into a container, and returns only on failure.
func runContainer(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var plan containerPlan
	if err := json.Unmarshal(text, &plan); err != nil {
		return err
	}
	// The namespaces are those of this thread; after exec it is the only one.
	runtime.LockOSThread()
	network, err := os.Open("/run/netns/" + plan.Network)
	if err != nil {
		return err
	}
	if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering the pod's network: %w", err)
	}
	network.Close()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("leaving the host's mounts: %w", err)
	}
	if err := unix.Sethostname([]byte(plan.Hostname)); err != nil {
		return err
	}
	if err := plan.mount(); err != nil {
		return err
	}
	if err := unix.Chroot(plan.Root); err != nil {
		return err
	}
	if err := os.Chdir(plan.Dir); err != nil {
		return fmt.Errorf("entering the container's folder: %w", err)
	}
	if err := plan.drop(); err != nil {
		return fmt.Errorf("becoming user %d: %w", plan.UID, err)
	}
	os.Clearenv()
	for _, setting := range plan.Env {
		name, value, _ := strings.Cut(setting, "=")
		os.Setenv(name, value)
	}
	program, err := exec.LookPath(plan.Command[0])
	if err != nil {
		return err
	}
	return syscall.Exec(program, plan.Command, plan.Env)
}

func (p *containerPlan) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount(p.Root, p.Root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting the root: %w", err)
	}
	mounts := append([]mount{{"/proc", "/proc", false}, {"/dev", "/dev", false}, {"/sys", "/sys", false}}, p.Mounts...)
	for _, m := range mounts {
		target := filepath.Join(p.Root, m.Target)
		if err := mountPoint(m.Source, target); err != nil {
			return fmt.Errorf("preparing to mount %s: %w", m.Target, err)
		}
		if err := unix.Mount(m.Source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mounting %s at %s: %w", m.Source, m.Target, err)
		}
		if m.ReadOnly {
			if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
				return fmt.Errorf("making %s read-only: %w", m.Target, err)
			}
		}
	}
	if p.ReadOnly {
		if err := unix.Mount("", p.Root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("making the root read-only: %w", err)
		}
	}
	return nil
}

// mountPoint creates a folder or an empty file as a mount point.
func mountPoint(source, target string) error {
	about, err := os.Stat(source)
	if err != nil {
		return err
	}
	if about.IsDir() {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return file.Close()
}

// drop drops the privileges that the container does not have. The system calls of
// package syscall apply to all threads.
func (p *containerPlan) drop() error {
	if p.Bare {
		for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				return err
			}
		}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
	}
	if err := syscall.Setgroups(p.Groups); err != nil {
		return err
	}
	if err := syscall.Setgid(p.GID); err != nil {
		return err
	}
	return syscall.Setuid(p.UID)
}
