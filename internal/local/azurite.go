package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"
)

// The account that Azurite publishes for everybody.
const (
	account    = "devstoreaccount1"
	accountKey = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// Azurite is a running storage emulator that keeps everything in memory.
type Azurite struct {
	Blob, Queue, Table string // base URLs

	cmd  *exec.Cmd
	done chan struct{}
}

var listening = regexp.MustCompile(`Azurite (Blob|Queue|Table) service is successfully listening at (http://\S+)`)

// StartAzurite starts the script (node_modules/azurite/dist/src/azurite.js) on
// free ports and returns when all three services listen.
func StartAzurite(ctx context.Context, script string) (*Azurite, error) {
	if _, err := os.Stat(script); err != nil {
		return nil, fmt.Errorf("starting Azurite: %w; install it with npm ci", err)
	}
	a := &Azurite{done: make(chan struct{})}
	a.cmd = exec.Command("node", script, "--blobHost", "127.0.0.1", "--queueHost", "127.0.0.1", "--tableHost", "127.0.0.1",
		"--blobPort", "0", "--queuePort", "0", "--tablePort", "0", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent")
	a.cmd.SysProcAttr = withParent()
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var errs strings.Builder
	a.cmd.Stderr = &errs
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting Azurite: %w", err)
	}
	ready := make(chan error, 1)
	go a.watch(out, ready, &errs)
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(60 * time.Second):
		err = errors.New("it does not listen after 60 s")
	}
	if err != nil {
		a.Close()
		return nil, fmt.Errorf("starting Azurite: %w", err)
	}
	return a, nil
}

func (a *Azurite) watch(out io.Reader, ready chan<- error, errs *strings.Builder) {
	defer close(a.done)
	told := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		m := listening.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		url := m[2] + "/" + account
		switch m[1] {
		case "Blob":
			a.Blob = url
		case "Queue":
			a.Queue = url
		case "Table":
			a.Table = url
		}
		if !told && a.Blob != "" && a.Queue != "" && a.Table != "" {
			told = true
			ready <- nil
		}
	}
	err := a.cmd.Wait()
	if !told {
		ready <- fmt.Errorf("it ended: %w: %s", err, strings.TrimSpace(errs.String()))
	}
}

// Connection is the connection string.
func (a *Azurite) Connection() string {
	return fmt.Sprintf("DefaultEndpointsProtocol=http;AccountName=%s;AccountKey=%s;BlobEndpoint=%s;QueueEndpoint=%s;TableEndpoint=%s;",
		account, accountKey, a.Blob, a.Queue, a.Table)
}

var closing sync.Mutex

// Close stops Azurite; what it held is gone.
func (a *Azurite) Close() {
	closing.Lock()
	defer closing.Unlock()
	if a.cmd.Process == nil {
		return
	}
	if err := a.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return
	}
	<-a.done
}
