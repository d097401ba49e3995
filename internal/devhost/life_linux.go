package devhost

import (
	"os/exec"
	"syscall"
)

// bindLife gives the handler a process group of its own, so that a Ctrl-C in
// the terminal reaches this host alone and it decides, and lets the kernel kill
// the handler if this process dies without a word.
func bindLife(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
