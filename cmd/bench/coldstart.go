//go:build !release

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const noopFloor = "a Go handler that does nothing, built with the same flags and started in turn with cvmguard"

// coldStart measures the time from a process's start to its first HTTP answer, the
// two binaries in turn. One start of each before that brings the files into the
// page cache: this is not the first start after a boot.
func (b *bench) coldStart(ctx context.Context) error {
	var own, floor samples
	for i := range b.starts + 1 {
		for _, s := range []struct {
			into *samples
			args []string
		}{{&floor, []string{b.noop}}, {&own, []string{b.binary, "serve"}}} {
			d, err := b.firstAnswer(ctx, s.args)
			if err != nil {
				return err
			}
			if i > 0 {
				s.into.took(d)
			}
		}
	}
	const name = "cold start to first answer, "
	b.figures = append(b.figures,
		figure(name+"median", "ms", own.percentile(0.5)).beside(floor.percentile(0.5), noopFloor).timesFloorUnder(3).of(len(own)),
		figure(name+"p95", "ms", own.percentile(0.95)).beside(floor.percentile(0.95), noopFloor).under(100).of(len(own)))
	return nil
}

// startLimit is how long a handler may keep its port closed.
const startLimit = 10 * time.Second

// firstAnswer starts a handler, waits for any answer to GET / and ends it.
func (b *bench) firstAnswer(ctx context.Context, args []string) (time.Duration, error) {
	port, err := freePort()
	if err != nil {
		return 0, err
	}
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Dir = filepath.Dir(args[0])
	c.Env = []string{"FUNCTIONS_CUSTOMHANDLER_PORT=" + strconv.Itoa(port), "AzureWebJobsStorage=UseDevelopmentStorage=true"}
	for k, v := range b.env {
		c.Env = append(c.Env, k+"="+v)
	}
	var said strings.Builder
	c.Stderr = &said
	began := time.Now()
	if err := c.Start(); err != nil {
		return 0, fmt.Errorf("starting %s: %w", args[0], err)
	}
	took, err := untilAnswer(port, began)
	if killed := c.Process.Kill(); killed != nil && !errors.Is(killed, os.ErrProcessDone) {
		return 0, killed
	}
	var ended *exec.ExitError
	if waited := c.Wait(); waited != nil && !errors.As(waited, &ended) {
		return 0, waited
	}
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w\n%s", args[0], err, said.String())
	}
	return took, nil
}

// untilAnswer asks every 0.1 ms, which is the figure's resolution.
func untilAnswer(port int, began time.Time) (time.Duration, error) {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for {
		conn, err := net.DialTimeout("tcp4", addr, time.Second)
		switch {
		case err == nil:
			took, err := askOnce(conn, began)
			return took, errors.Join(err, conn.Close())
		case !errors.Is(err, syscall.ECONNREFUSED):
			return 0, err
		case time.Since(began) > startLimit:
			return 0, fmt.Errorf("its port is closed after %s", startLimit)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func askOnce(conn net.Conn, began time.Time) (time.Duration, error) {
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, resp.Body.Close()
}

func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("choosing a port: %w", err)
	}
	defer l.Close()
	_, text, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}
