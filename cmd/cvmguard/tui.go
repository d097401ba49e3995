package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"cvmguard/internal/config"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// The house rules for what people read. This file is the one that prints; the
// commands say what, it says how.
//
//   - stdout is for results only, so that `-o json | jq` and `> file` always
//     work. A command that fails has printed nothing on stdout, or whole results.
//   - Every error is one line on stderr, "cvmguard: <what>; <next step>". Where
//     several things are wrong, each has its line. Hints come last.
//   - What a person gave is quoted, with the name of the flag or argument and an
//     example of what is right.
//   - Progress goes to stderr, and only for what takes more than a second.
//   - Colours only on a terminal, and not where NO_COLOR is set or TERM is dumb.
//     A colour never says what the words don't.
//   - Text from elsewhere (Azure, the function app, a file) has its control
//     characters shown as such: it can't move the cursor.
//   - Never a key, a token or a signature, on either.

// console is what a command has of the world. Commands get it from kong by type.
type console struct {
	ctx    context.Context // ends with an interrupt
	getenv func(string) string
	stdout io.Writer
	stderr io.Writer
	now    func() time.Time

	lost error // why stdout didn't take a result
}

// Write is the way to stdout for all that prints results.
func (c *console) Write(p []byte) (int, error) {
	n, err := c.stdout.Write(p)
	if err != nil && c.lost == nil {
		c.lost = err
	}
	return n, err
}

// line prints one line of a result. The format is ours, so it keeps its line
// breaks; the arguments that may come from elsewhere go through clean.
func (c *console) line(format string, args ...any) { fmt.Fprintf(c, format+"\n", args...) }

// json prints one document.
func (c *console) json(v any) error {
	e := json.NewEncoder(c)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("writing the result as JSON: %w", err)
	}
	return nil
}

// say prints one line for a person on stderr.
func (c *console) say(format string, args ...any) {
	fmt.Fprintf(c.stderr, "cvmguard: %s\n", clean(fmt.Sprintf(format, args...)))
}

// fail prints an error, a line for each thing that is wrong.
func (c *console) fail(err error) {
	var settings config.Faults
	if errors.As(err, &settings) {
		for _, f := range settings {
			c.say("setting %s", f)
		}
		return
	}
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" {
			c.say("%s", line)
		}
	}
}

// finish turns what a command gave back into the exit status, and prints it
// where it is an error.
func (c *console) finish(err error) int {
	var status exitStatus
	var refused *refusal
	switch {
	case err == nil:
	case errors.As(err, &status):
		if c.lost == nil {
			return int(status)
		}
	case c.ctx.Err() != nil:
		c.say("interrupted; run it again")
		return exitCannot
	case errors.As(err, &refused):
		c.fail(err)
		return exitNot
	default:
		c.fail(err)
		return exitCannot
	}
	if c.lost != nil {
		c.say("the result could not be written (%v); the output is not whole", c.lost)
		return exitCannot
	}
	return exitOK
}

// exitStatus ends a command whose result has been printed: nothing more is said.
type exitStatus int

// Error is for wrapping; it is never shown.
func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// refusal is an error that says that something isn't as it should be, rather
// than that it couldn't be found out: exit status 1.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// badArgument is an error about what was given on the command line: which flag or
// argument, what stood there, what is wrong, and an example.
func badArgument(name, given, wrong, example string) error {
	return &fault.Error{Kind: fault.Invalid, Op: name, Object: given, Err: errors.New(wrong), Next: "for example " + example}
}

// clean shows control characters in text from elsewhere as escapes.
func clean(s string) string {
	if !strings.ContainsFunc(s, unsafeRune) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unsafeRune(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// unsafeRune takes control characters and those that turn the direction of text.
func unsafeRune(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
}

// grid is a table for people: columns apart by two spaces, no lines.
type grid struct {
	w      table.Writer
	colour bool
	rows   int
}

func (c *console) grid(header ...string) *grid {
	g := &grid{w: table.NewWriter(), colour: colours(c.stdout, c.getenv)}
	g.w.SetStyle(table.Style{Name: "cvmguard",
		Box:     table.BoxStyle{PaddingRight: "  "},
		Format:  table.FormatOptions{Header: text.FormatUpper},
		Options: table.Options{}})
	g.w.SuppressTrailingSpaces()
	row := table.Row{}
	for _, h := range header {
		row = append(row, g.paint(h, text.Bold))
	}
	g.w.AppendHeader(row)
	return g
}

// add appends a row; cells that are a verdict, a state or a severity get their
// colour.
func (g *grid) add(cells ...any) {
	row := table.Row{}
	for _, cell := range cells {
		s := clean(fmt.Sprint(cell))
		row = append(row, g.paint(s, colourOf(cell)...))
	}
	g.w.AppendRow(row)
	g.rows++
}

func (g *grid) paint(s string, colours ...text.Color) string {
	if !g.colour || len(colours) == 0 || s == "" {
		return s
	}
	return text.Colors(colours).Sprint(s)
}

// print prints the table, and nothing where it has no rows.
func (g *grid) print(c *console) {
	if g.rows > 0 {
		c.line("%s", g.w.Render())
	}
}

func colourOf(cell any) []text.Color {
	switch v := cell.(type) {
	case policy.Value:
		switch v {
		case policy.Compliant:
			return []text.Color{text.FgGreen}
		case policy.NonCompliant:
			return []text.Color{text.FgRed}
		case policy.Unknown:
			return []text.Color{text.FgYellow}
		}
	case cvm.State:
		switch v {
		case cvm.Pass:
			return []text.Color{text.FgGreen}
		case cvm.Fail:
			return []text.Color{text.FgRed}
		case cvm.UnknownState:
			return []text.Color{text.FgYellow}
		}
	case policy.Severity:
		if v == policy.Critical || v == policy.High {
			return []text.Color{text.Bold}
		}
	}
	return nil
}

func colours(w io.Writer, getenv func(string) string) bool {
	return terminal(w) && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
}

// terminal says whether a person reads w.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// progress tells on stderr how far something is, once it takes more than a
// second: on a terminal in one line that is overwritten, else in a line every
// ten seconds. stop must be called, and clears the line.
type progress struct {
	total atomic.Int64 // 0: not known yet
	done  atomic.Int64
	end   chan struct{}
	ended chan struct{}
}

func (c *console) progress(what string) *progress {
	p := &progress{end: make(chan struct{}), ended: make(chan struct{})}
	live := terminal(c.stderr)
	go func() {
		defer close(p.ended)
		timer := time.NewTimer(time.Second)
		defer timer.Stop()
		shown := false
		for {
			select {
			case <-p.end:
				if shown && live {
					fmt.Fprint(c.stderr, "\r\x1b[K")
				}
				return
			case <-timer.C:
			}
			shown = true
			if live {
				fmt.Fprintf(c.stderr, "\r\x1b[K%s", p.text(what))
				timer.Reset(200 * time.Millisecond)
			} else {
				c.say("%s", p.text(what))
				timer.Reset(10 * time.Second)
			}
		}
	}()
	return p
}

func (p *progress) text(what string) string {
	if total := p.total.Load(); total > 0 {
		return fmt.Sprintf("%s: %d of %d", what, p.done.Load(), total)
	}
	return what + " …"
}

func (p *progress) stop() {
	close(p.end)
	<-p.ended
}

// headless leaves the header out.
func (g *grid) headless() *grid {
	g.w.ResetHeaders()
	return g
}
