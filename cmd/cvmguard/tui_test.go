package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// full is a disk that takes nothing.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func testConsole() (*console, *bytes.Buffer, *bytes.Buffer) {
	var out, said bytes.Buffer
	return &console{ctx: context.Background(), stdout: &out, stderr: &said, getenv: func(string) string { return "" }, now: time.Now}, &out, &said
}

func TestFinish(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want int
		said []string
	}{
		"done":           {nil, exitOK, nil},
		"not compliant":  {exitStatus(exitNot), exitNot, nil},
		"wrapped":        {fmt.Errorf("x: %w", exitStatus(exitNot)), exitNot, nil},
		"refused":        {&refusal{errors.New("no; give another")}, exitNot, []string{"cvmguard: no; give another"}},
		"could not run":  {errors.New("a\nb"), exitCannot, []string{"cvmguard: a", "cvmguard: b"}},
		"cursor escapes": {errors.New("a\x1b[2Jb\u202e"), exitCannot, []string{`cvmguard: a\u001b[2Jb\u202e`}},
	} {
		t.Run(name, func(t *testing.T) {
			c, out, said := testConsole()
			if got := c.finish(tc.err); got != tc.want {
				t.Errorf("exit status %d, want %d", got, tc.want)
			}
			if got := strings.Join(tc.said, "\n"); strings.TrimSpace(said.String()) != got || out.Len() > 0 {
				t.Errorf("stderr %q, want %q; stdout %q", said, got, out)
			}
		})
	}
}

func TestAnInterruptIsNoResult(t *testing.T) {
	c, _, said := testConsole()
	ctx, stop := context.WithCancel(c.ctx)
	stop()
	c.ctx = ctx
	if got := c.finish(fmt.Errorf("reading: %w", ctx.Err())); got != exitCannot || !strings.HasPrefix(said.String(), "cvmguard: interrupted;") {
		t.Errorf("exit status %d, %q", got, said)
	}
}

func TestALostResultIsNoSuccess(t *testing.T) {
	var said bytes.Buffer
	for _, args := range [][]string{{"version"}, {"version", "-o", "json"}, {"policy", "show"}, {"policy", "schema"}, {"policy", "show", "-o", "yaml"}, {"--help"}} {
		if got := run(args, func(string) string { return "" }, full{}, &said); got != exitCannot || !strings.Contains(said.String(), "no space left") {
			t.Errorf("%v: exit status %d, %q", args, got, said.String())
		}
		said.Reset()
	}
}

func TestGrid(t *testing.T) {
	c, out, _ := testConsole()
	g := c.grid("vm", "verdict")
	g.print(c)
	if out.Len() > 0 {
		t.Errorf("an empty table printed %q", out)
	}
	g.add("a\x1b]0;x\a", policy.Compliant)
	g.add("longer-name", cvm.Fail)
	g.print(c)
	for line := range strings.Lines(out.String()) {
		if line != strings.TrimRight(line, " \n")+"\n" || strings.ContainsAny(line, "\x1b\a") {
			t.Errorf("line %q", line)
		}
	}
	if !strings.HasPrefix(out.String(), "VM ") || !strings.Contains(out.String(), "longer-name") {
		t.Errorf("table %q", out)
	}
	out.Reset()
	painted := c.grid("vm", "verdict")
	painted.colour = true
	painted.add("vm1", policy.NonCompliant)
	painted.print(c)
	if !strings.Contains(out.String(), "\x1b[31mnon-compliant\x1b[0m") {
		t.Errorf("no colour in %q", out)
	}
}

func TestColoursAreForTerminals(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, f := range []*os.File{null, file} {
		if terminal(f) || colours(f, func(string) string { return "" }) {
			t.Errorf("%s counts as a terminal", f.Name())
		}
	}
}

func TestProgressIsQuietWithinASecond(t *testing.T) {
	c, out, said := testConsole()
	p := c.progress("reading")
	p.done.Add(1)
	p.stop()
	if out.Len()+said.Len() > 0 {
		t.Errorf("stdout %q, stderr %q", out, said)
	}
	if got := p.text("reading"); got != "reading …" {
		t.Error(got)
	}
	p.total.Store(3)
	if got := p.text("reading"); got != "reading: 1 of 3" {
		t.Error(got)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[2J\u202eb\n\xff")
	f.Fuzz(func(t *testing.T, s string) {
		if got := clean(s); strings.ContainsFunc(got, unsafeRune) {
			t.Errorf("%q -> %q", s, got)
		}
	})
}
