package child

import (
	"os"
	"os/exec"
)

// EndWithParent has no effect: only Linux ends a process with its parent.
func EndWithParent(*exec.Cmd, bool) {}

// OwnGroup has no effect: Windows has no groups that KillGroup could end.
func OwnGroup(*exec.Cmd) {}

// KillGroup kills one process.
func KillGroup(pid int) error {
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return process.Kill()
}
