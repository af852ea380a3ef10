package child

import (
	"os/exec"
	"syscall"
)

// EndWithParent has a command that is not started yet killed when this process
// ends, however that does. With ownGroup a Ctrl-C in the terminal does not reach
// it, and KillGroup ends it.
func EndWithParent(command *exec.Cmd, ownGroup bool) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: ownGroup, Pdeathsig: syscall.SIGKILL}
}
