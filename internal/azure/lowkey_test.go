package azure

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"cvmguard/internal/config"
)

const (
	// lowkeyHost is the name by which Lowkey Vault is asked: one of Key Vault's own,
	// so that no check of ours on hosts, key ids and challenges is left out.
	lowkeyHost = "kv-lowkey.vault.azure.net"
	// lowkeyAPI is a version of the key plane that Lowkey Vault speaks; ours is newer.
	lowkeyAPI  = "7.4"
	lowkeyWait = 2 * time.Minute // for a JVM on a busy machine
)

// TestKeyLifeInLowkeyVault runs our key client against a Key Vault that others
// wrote. Release policies and Managed HSM it doesn't know.
func TestKeyLifeInLowkeyVault(t *testing.T) {
	addr, ca := startLowkey(t)
	c := New(config.Config{Cloud: config.Public, DevAzure: addr, DevCA: ca, Development: true}, nil)
	c.credential = func() (azcore.TokenCredential, error) { return testCred{}, nil } // Lowkey Vault wants a token and looks at none
	plain := c.transport
	c.transport = sync.OnceValues(func() (*http.Client, error) {
		h, err := plain()
		if err != nil {
			return nil, err
		}
		h.Transport = olderAPI{h.Transport}
		return h, nil
	})
	t.Cleanup(func() { closeIdle(t, c) })
	keyLife(t, c, lowkeyHost, false)
}

// olderAPI asks for the version of the key plane that Lowkey Vault speaks.
type olderAPI struct{ next http.RoundTripper }

func (o olderAPI) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	q := r.URL.Query()
	if q.Get("api-version") != "" {
		q.Set("api-version", lowkeyAPI)
		r.URL.RawQuery = q.Encode()
	}
	return o.next.RoundTrip(r)
}

func (o olderAPI) CloseIdleConnections() {
	if c, ok := o.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// lowkeyJar is where `make lowkey` put it, or where LOWKEY_VAULT_JAR says.
func lowkeyJar(t *testing.T) string {
	if p := os.Getenv("LOWKEY_VAULT_JAR"); p != "" {
		return p
	}
	return filepath.Join(repoRoot(t), "tools", "lowkey", "target", "lowkey-vault-app.jar")
}

// startLowkey starts Lowkey Vault on a free port, under a certificate made for it,
// and gives its address and the file with the certificate. Where Java or the jar
// is missing the test is skipped.
func startLowkey(t *testing.T) (addr, ca string) {
	for _, tool := range []string{"java", "keytool"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("Lowkey Vault needs Java, and there is no %s here", tool)
		}
	}
	jar := lowkeyJar(t)
	if _, err := os.Stat(jar); err != nil {
		t.Skipf("Lowkey Vault isn't here (%v): run make lowkey, or name its jar in LOWKEY_VAULT_JAR", err)
	}
	dir := t.TempDir()
	store, ca := lowkeyCertificate(t, dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var out lockedBuffer
	cmd := exec.Command("java", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-jar", jar,
		"--server.port="+port, "--server.address=127.0.0.1", "--LOWKEY_VAULT_NAMES=name1",
		"--LOWKEY_VAULT_ALIASES=name1.localhost="+lowkeyHost, "--LOWKEY_AUTH_RESOURCE=vault.azure.net",
		"--server.ssl.key-store=file:"+store, "--server.ssl.key-store-type=PKCS12", "--server.ssl.key-store-password="+lowkeyStorePass)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err == nil {
			<-ended
		}
	})
	waitForLowkey(t, addr, ca, ended, &out)
	return addr, ca
}

func waitForLowkey(t *testing.T, addr, ca string, ended chan error, out *lockedBuffer) {
	t.Helper()
	text, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}}
	defer tr.CloseIdleConnections()
	h := &http.Client{Transport: tr, Timeout: 5 * time.Second}
	ctx, cancel := context.WithTimeout(t.Context(), lowkeyWait)
	defer cancel()
	for {
		var last string
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+lowkeyHost+"/ping", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := h.Do(req); err != nil {
			last = err.Error()
		} else {
			last = resp.Status
			if err := resp.Body.Close(); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case err := <-ended:
			ended <- err
			if strings.Contains(out.String(), "UnsupportedClassVersionError") {
				t.Skip("Lowkey Vault was made for a newer Java than the one here")
			}
			t.Fatalf("Lowkey Vault ended: %v\n%s", err, out.String())
		case <-ctx.Done():
			t.Fatalf("Lowkey Vault isn't ready after %v: %s\n%s", lowkeyWait, last, out.String())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

const lowkeyStorePass = "changeit" // of a store that lives as long as the test

// lowkeyCertificate makes a key store with a certificate for Key Vault's names,
// and a file with the certificate: the only one that the test trusts.
func lowkeyCertificate(t *testing.T, dir string) (store, ca string) {
	t.Helper()
	store, ca = filepath.Join(dir, "store.p12"), filepath.Join(dir, "ca.pem")
	common := []string{"-alias", "vault", "-storetype", "PKCS12", "-keystore", store, "-storepass", lowkeyStorePass}
	for _, args := range [][]string{
		{"-genkeypair", "-keyalg", "RSA", "-keysize", "2048", "-validity", "2", "-dname", "CN=lowkey", "-ext", "SAN=dns:*.vault.azure.net"},
		{"-exportcert", "-rfc", "-file", ca},
	} {
		if out, err := exec.Command("keytool", append(args, common...)...).CombinedOutput(); err != nil {
			t.Fatalf("keytool %s: %v\n%s", args[0], err, out)
		}
	}
	return store, ca
}

// The certificate that is made for Lowkey Vault is one that our client takes, for
// Key Vault's names alone.
func TestLowkeyCertificate(t *testing.T) {
	if _, err := exec.LookPath("keytool"); err != nil {
		t.Skip("there is no keytool here, so no Lowkey Vault either")
	}
	_, ca := lowkeyCertificate(t, t.TempDir())
	text, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no certificate was written")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: lowkeyHost}); err != nil {
		t.Error(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost"}); err == nil {
		t.Error("it is good for other names")
	}
}

// lockedBuffer takes a process's output while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	const most = 4 << 10
	s := l.b.String()
	if len(s) > most {
		s = fmt.Sprintf("… (%d bytes before)\n%s", len(s)-most, s[len(s)-most:])
	}
	return s
}
