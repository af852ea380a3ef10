//go:build unix

package child

import (
	"os/exec"
	"syscall"
)

// OwnGroup makes a command that is not started yet the first of a group of
// processes, which KillGroup ends.
func OwnGroup(command *exec.Cmd) { command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// KillGroup kills all processes of the group that began with a process.
func KillGroup(pid int) error { return syscall.Kill(-pid, syscall.SIGKILL) }
