//go:build unix && !linux

package child

import "os/exec"

// EndWithParent has no effect but that of OwnGroup: only Linux ends a process
// with its parent.
func EndWithParent(command *exec.Cmd, ownGroup bool) {
	if ownGroup {
		OwnGroup(command)
	}
}
