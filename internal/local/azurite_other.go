//go:build !linux

package local

import "syscall"

// withParent does nothing here: a killed parent leaves Azurite behind.
func withParent() *syscall.SysProcAttr { return nil }
