package guest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// scriptWorld is a folder with a fake curl, which serves tool for the right URL
// given on standard input, and an environment.
type scriptWorld struct {
	dir string
	env map[string]string
}

const toolText = `#!/bin/sh
echo "ran $* with $NONCE $OUT_URL $VM_ID and <${TOOL_URL-}>"
exit 3
`

func newScriptWorld(t *testing.T) *scriptWorld {
	t.Helper()
	for _, program := range []string{"sh", "sha256sum", "mktemp"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s here", program)
		}
	}
	w := &scriptWorld{dir: t.TempDir(), env: map[string]string{
		"NONCE": "n", "TOOL_URL": "https://store/tools/x?sig=s", "OUT_URL": "https://store/out?sig=o", "VM_ID": testUID, "CAUSE": "c"}}
	w.env["TMPDIR"] = filepath.Join(w.dir, "tmp")
	w.env["PATH"] = filepath.Join(w.dir, "bin") + ":" + os.Getenv("PATH")
	for _, d := range []string{"tmp", "bin"} {
		if err := os.Mkdir(filepath.Join(w.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w.write(t, "tool", toolText)
	w.write(t, "bin/curl", `#!/bin/sh
for a in "$@"; do case "$a" in *sig=*) echo "the SAS is on the command line" >&2; exit 9;; esac; done
while [ $# -gt 0 ]; do case "$1" in --output) out=$2; shift;; esac; shift; done
read -r line
[ "$line" = 'url = "https://store/tools/x?sig=s"' ] || exit 22
cat "`+w.dir+`/tool" >"$out"
`)
	return w
}

func (w *scriptWorld) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
}

func (w *scriptWorld) run(t *testing.T, script string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.Command("sh", "-s")
	cmd.Stdin = strings.NewReader(script)
	for k, v := range w.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var out, errText strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errText
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	left, err := os.ReadDir(w.env["TMPDIR"])
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	return out.String(), errText.String(), cmd.ProcessState.ExitCode()
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestScript(t *testing.T) {
	w := newScriptWorld(t)
	out, errText, status := w.run(t, Script(digest(toolText)))
	want := "ran collect --from-env with n https://store/out?sig=o " + testUID + " and <>\n"
	if out != want || status != 3 || errText != "" {
		t.Errorf("status %d, out %q, err %q; want the tool's own status 3 and %q", status, out, errText, want)
	}
}

func TestScriptRefusals(t *testing.T) {
	tests := map[string]struct {
		change func(t *testing.T, w *scriptWorld)
		script string
		say    string
		status int
	}{
		"another tool":     {func(t *testing.T, w *scriptWorld) { w.write(t, "tool", toolText+"# evil") }, Script(digest(toolText)), "another SHA-256", 1},
		"no digest":        {func(*testing.T, *scriptWorld) {}, Script(""), "another SHA-256", 1},
		"digest with code": {func(*testing.T, *scriptWorld) {}, Script(`"; echo ran; "`), "another SHA-256", 1},
		"wrong URL":        {func(_ *testing.T, w *scriptWorld) { w.env["TOOL_URL"] = "https://other/?sig=t" }, Script(digest(toolText)), "fetching the collector failed", 1},
		"nonce missing":    {func(_ *testing.T, w *scriptWorld) { delete(w.env, "NONCE") }, Script(digest(toolText)), "parameter NONCE is not set", 2},
		"VM id empty":      {func(_ *testing.T, w *scriptWorld) { w.env["VM_ID"] = "" }, Script(digest(toolText)), "parameter VM_ID is not set", 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newScriptWorld(t)
			tt.change(t, w)
			out, errText, status := w.run(t, tt.script)
			if out != "" || status != tt.status || !strings.Contains(errText, tt.say) {
				t.Errorf("status %d, out %q, err %q; want status %d and %q", status, out, errText, tt.status, tt.say)
			}
			if strings.Contains(errText, "sig=") {
				t.Errorf("stderr shows a SAS: %q", errText)
			}
		})
	}
}

// TestScriptWithWget hides curl: a PATH of the few programs needed, and a wget.
func TestScriptWithWget(t *testing.T) {
	w := newScriptWorld(t)
	bin := filepath.Join(w.dir, "only")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"sh", "mktemp", "sha256sum", "chmod", "rm", "cat"} {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Skipf("no %s here", program)
		}
		if err := os.Symlink(path, filepath.Join(bin, program)); err != nil {
			t.Fatal(err)
		}
	}
	w.env["PATH"] = bin
	if _, errText, status := w.run(t, Script(digest(toolText))); status != 1 || !strings.Contains(errText, "neither curl nor wget") {
		t.Errorf("status %d, err %q", status, errText)
	}
	w.write(t, "only/wget", `#!/bin/sh
while [ $# -gt 0 ]; do case "$1" in -O) out=$2; shift;; esac; shift; done
read -r line
[ "$line" = 'https://store/tools/x?sig=s' ] || exit 4
cat "`+w.dir+`/tool" >"$out"
`)
	if out, errText, status := w.run(t, Script(digest(toolText))); status != 3 || !strings.HasPrefix(out, "ran collect") {
		t.Errorf("status %d, out %q, err %q", status, out, errText)
	}
}
