package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"cvmguard/internal/ledger"
)

// verifyCmds verify what was kept.
type verifyCmds struct {
	Record verifyRecordCmd `cmd:"" help:"Verify record files: their form, their verdicts and how they hang together."`
}

type verifyRecordCmd struct {
	Files []string `arg:"" name:"file" help:"Records as files, all of a chain or any part, of one object or several."`
	output
}

// Help is kong's.
func (verifyRecordCmd) Help() string {
	return `Nothing is asked of anybody: what the files alone show is checked, and what they can't show is listed. The name of a file is checked too where it is a record's, KEY/00000001.json.

Exit status: 0 nothing is wrong, 1 something is, 2 a file can't be read.`
}

// Run verifies.
func (cmd verifyRecordCmd) Run(c *console) error {
	var files []ledger.RecordFile
	var unreadable []error
	for _, name := range cmd.Files {
		body, err := readFile(name, ledger.MaxRecord+1)
		if err != nil {
			unreadable = append(unreadable, fmt.Errorf("reading a record: %w; give files that you may read", err))
			continue
		}
		files = append(files, ledger.RecordFile{Name: name, Body: body})
	}
	if len(unreadable) > 0 {
		return errors.Join(unreadable...)
	}
	rep := ledger.VerifyFiles(files...)
	if cmd.json() {
		if err := c.json(struct {
			OK bool `json:"ok"`
			ledger.Report
		}{rep.OK(), rep}); err != nil {
			return err
		}
	} else {
		tellReport(c, rep)
	}
	if !rep.OK() {
		c.say("%s found in %s; find out who wrote to container records", plural(len(rep.Faults), "fault"), plural(rep.Records, "record"))
		return exitStatus(exitNot)
	}
	return nil
}

func tellReport(c *console, rep ledger.Report) {
	chains := c.grid("chain", "records", "links that hold", "verdict", "open steps", "head", "object")
	for _, r := range rep.Chains {
		span := fmt.Sprintf("%d to %d", r.First, r.Last)
		if r.First == r.Last {
			span = fmt.Sprint(r.First)
		}
		chains.add(r.Chain, span, r.Links, r.Verdict, strings.Trim(fmt.Sprint(r.Open), "[]"), r.Head, r.Object)
	}
	chains.print(c)
	faults := c.grid("file", "record", "check", "wrong")
	for _, f := range rep.Faults {
		faults.add(f.Name, f.Seq, f.Check, f.Text)
	}
	if faults.rows > 0 && chains.rows > 0 {
		c.line("")
	}
	faults.print(c)
	for _, list := range []struct {
		title string
		lines []string
	}{{"Could not be checked with these files:", rep.Unchecked}, {"Is never checked here:", rep.Limits}} {
		if len(list.lines) == 0 {
			continue
		}
		c.line("")
		c.line("%s", list.title)
		for _, l := range list.lines {
			c.line("  %s", clean(l))
		}
	}
}

// readFile reads at most max bytes of a file.
func readFile(name string, max int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, max))
}
