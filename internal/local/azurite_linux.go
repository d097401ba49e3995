package local

import "syscall"

// withParent has the kernel end Azurite when this process ends, however it does.
func withParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
