package azure

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"cvmguard/internal/config"
)

// emulator is one Azurite for all tests of this package, started by the first
// that asks. It speaks TLS and takes tokens as well as the account's key, so that
// both ways run the code of a deployment.
type emulator struct {
	cmd               *exec.Cmd
	blob, queue, tbl  string
	caFile, dir, skip string
}

var (
	startAzurite = sync.OnceValues(launchAzurite)
	azuriteUsed  bool
)

func TestMain(m *testing.M) {
	code := m.Run()
	if azuriteUsed {
		if e, err := startAzurite(); err == nil && e.cmd != nil {
			// The tests are over: nothing that it holds is wanted.
			if err := e.cmd.Process.Signal(syscall.SIGKILL); err != nil {
				fmt.Fprintln(os.Stderr, "stopping Azurite:", err)
			}
			if err := e.cmd.Wait(); err == nil {
				fmt.Fprintln(os.Stderr, "Azurite had ended before")
			}
			if err := os.RemoveAll(e.dir); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
	os.Exit(code)
}

// azuriteScript is where npm put it, or where AZURITE_JS says.
func azuriteScript() string {
	if p := os.Getenv("AZURITE_JS"); p != "" {
		return p
	}
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	return filepath.Join(dir, "node_modules", "azurite", "dist", "src", "azurite.js")
}

func launchAzurite() (*emulator, error) {
	script := azuriteScript()
	node, lookErr := exec.LookPath("node")
	if _, err := os.Stat(script); err != nil || lookErr != nil {
		return &emulator{skip: "Azurite is not here (npm ci brings it, node runs it): " + script}, nil
	}
	dir, err := os.MkdirTemp("", "azurite-test-")
	if err != nil {
		return nil, err
	}
	e := &emulator{dir: dir, caFile: filepath.Join(dir, "cert.pem")}
	certPEM, leaf := authority(nopTB{})
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		return nil, err
	}
	keyFile := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(e.caFile, certPEM, 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600); err != nil {
		return nil, err
	}
	e.cmd = exec.Command(node, script, "--blobHost", "127.0.0.1", "--queueHost", "127.0.0.1", "--tableHost", "127.0.0.1",
		"--blobPort", "0", "--queuePort", "0", "--tablePort", "0", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent",
		"--oauth", "basic", "--cert", e.caFile, "--key", keyFile)
	e.cmd.Dir = dir
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	e.cmd.Stderr = e.cmd.Stdout
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	listening := regexp.MustCompile(`Azurite (Blob|Queue|Table) service is successfully listening at (https://127\.0\.0\.1:\d+)`)
	lines := bufio.NewScanner(out)
	stop := time.AfterFunc(60*time.Second, func() {
		if err := e.cmd.Process.Kill(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping Azurite:", err)
		}
	})
	defer stop.Stop()
	said := ""
	for lines.Scan() {
		said += lines.Text() + "\n"
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			switch m[1] {
			case "Blob":
				e.blob = m[2]
			case "Queue":
				e.queue = m[2]
			case "Table":
				e.tbl = m[2]
			}
		}
		if e.blob != "" && e.queue != "" && e.tbl != "" {
			go func() {
				if _, err := io.Copy(io.Discard, out); err != nil {
					return // it was stopped
				}
			}()
			return e, nil
		}
	}
	return nil, fmt.Errorf("the emulator did not start:\n%s", said)
}

// nopTB lets authority run outside a test.
type nopTB struct{ testing.TB }

func (nopTB) Helper()           {}
func (nopTB) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// account is the emulator's account, by key or by token.
func account(t testing.TB, byKey bool) *Client {
	t.Helper()
	azuriteUsed = true
	e, err := startAzurite()
	if err != nil {
		t.Fatal(err)
	}
	if e.skip != "" {
		t.Skip(e.skip)
	}
	const name = "devstoreaccount1"
	cfg := config.Config{DevCA: e.caFile, Storage: config.Storage{Account: name,
		BlobURL: e.blob + "/" + name, QueueURL: e.queue + "/" + name, TableURL: e.tbl + "/" + name}}
	if byKey {
		cfg.Storage.Key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
	}
	c := New(cfg, nil)
	c.credential = func() (azcore.TokenCredential, error) { return testCred{}, nil }
	t.Cleanup(func() { closeIdle(t, c) })
	return c
}

func ctxFor(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
