//go:build !release

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// errNoProc says that this system doesn't show processes as Linux does.
var errNoProc = errors.New("no such child process in /proc: memory and CPU time are measured on Linux alone")

// child finds the newest child process of this one whose program's base name is
// given.
func child(program string) (pid int, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if ppid, _ := statOf(string(text)); ppid != os.Getpid() {
			continue
		}
		exe, err := os.Readlink(filepath.Join(filepath.Dir(path), "exe"))
		if err != nil || filepath.Base(strings.TrimSuffix(exe, " (deleted)")) != program {
			continue
		}
		if n, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pid = max(pid, n)
		}
	}
	if pid == 0 {
		return 0, fmt.Errorf("looking for %s: %w", program, errNoProc)
	}
	return pid, nil
}

// tick is the unit of CPU times in /proc, the same on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// statOf reads the parent and the CPU time, user and system, of a line of
// /proc/<pid>/stat. The program's name in it may hold anything.
func statOf(line string) (ppid int, cpu time.Duration) {
	f := strings.Fields(line[strings.LastIndex(line, ")")+1:])
	if len(f) < 13 {
		return 0, 0
	}
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0
		}
		return n
	}
	return number(f[1]), time.Duration(number(f[11])+number(f[12])) * tick
}

// cpuTime is what a process has used of processors so far, to 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, cpu := statOf(string(text))
	return cpu, nil
}

// memory is what a process has of physical memory, in bytes.
type memory struct {
	resident float64
	anon     float64 // of it: heap and stacks; the rest is the program file's pages, which the system may take back
	peak     float64 // the highest resident since its start
}

func memoryOf(pid int) (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	s := string(text)
	return memory{kilobytes(s, "VmRSS"), kilobytes(s, "RssAnon"), kilobytes(s, "VmHWM")}, nil
}

// kilobytes reads a line "name: 123 kB" (of 1,024 bytes) as bytes; 0 if absent.
func kilobytes(status, name string) float64 {
	for line := range strings.Lines(status) {
		rest, ok := strings.CutPrefix(line, name+":")
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
		if err != nil {
			return 0
		}
		return n * 1024
	}
	return 0
}

// watch reads a process's anonymous memory every 20 ms until stop, which gives
// the highest.
func watch(pid int) (stop func() float64) {
	var highest samples
	done, ended := make(chan struct{}), sync.WaitGroup{}
	ended.Go(func() {
		t := time.NewTicker(20 * time.Millisecond)
		defer t.Stop()
		for {
			if m, err := memoryOf(pid); err == nil {
				highest.add(m.anon)
			}
			select {
			case <-t.C:
			case <-done:
				return
			}
		}
	})
	return func() float64 { close(done); ended.Wait(); return highest.highest() }
}
