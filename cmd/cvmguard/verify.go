package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
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
	return `Nothing is asked of anybody: what the files alone show is checked, and what they can't show is listed. A chain may be given from any record to any other, without a gap between them. The name of a file is checked too where it is a record's, KEY/00000001.json.

Exit status: 0 nothing is wrong, 1 something is or a record between those given is missing, 2 a file can't be read.`
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
	runs := runsOf(files)
	missing := gaps(rep, runs)
	ok := rep.OK() && len(missing) == 0
	if cmd.json() {
		if err := c.json(struct {
			OK bool `json:"ok"`
			ledger.Report
			Gaps []gap `json:"gaps"`
		}{ok, rep, missing}); err != nil {
			return err
		}
	} else {
		tellReport(c, rep, runs)
	}
	if !rep.OK() {
		c.say("%s found in %s; find out who wrote to container records", plural(len(rep.Faults), "fault"), plural(rep.Records, "record"))
	}
	for _, g := range missing {
		c.say("%s of chain %s isn't among the files, so what stands on both sides of it was not verified as one chain; give it too", g.span, g.Chain)
	}
	if !ok {
		return exitStatus(exitNot)
	}
	return nil
}

// span are the numbers of records that follow each other.
type span struct {
	First int `json:"first"`
	Last  int `json:"last"`
}

// String is "record 2", or "records 2 to 4".
func (s span) String() string {
	if s.First == s.Last {
		return "record " + s.numbers()
	}
	return "records " + s.numbers()
}

func (s span) numbers() string {
	if s.First == s.Last {
		return strconv.Itoa(s.First)
	}
	return fmt.Sprintf("%d to %d", s.First, s.Last)
}

// gap are records that are missing between others of their chain.
type gap struct {
	Chain string `json:"chain"`
	span
}

// runsOf gives the numbers that the files have of each chain. A file that isn't a
// record has none: that it can't be read is a fault already.
func runsOf(files []ledger.RecordFile) map[string][]span {
	numbers := map[string][]int{}
	for _, f := range files {
		if rec, err := ledger.DecodeRecord(f.Body); err == nil && rec.Seq > 0 {
			numbers[rec.Chain] = append(numbers[rec.Chain], rec.Seq)
		}
	}
	runs := map[string][]span{}
	for chain, all := range numbers {
		slices.Sort(all)
		var of []span
		for _, n := range all {
			if last := len(of) - 1; last >= 0 && n <= of[last].Last+1 {
				of[last].Last = n
			} else {
				of = append(of, span{n, n})
			}
		}
		runs[chain] = of
	}
	return runs
}

// gaps are what lies between the runs of each chain that was verified.
func gaps(rep ledger.Report, runs map[string][]span) []gap {
	out := []gap{}
	for _, r := range rep.Chains {
		of := runs[r.Chain]
		for i := 1; i < len(of); i++ {
			out = append(out, gap{r.Chain, span{of[i-1].Last + 1, of[i].First - 1}})
		}
	}
	return out
}

func tellReport(c *console, rep ledger.Report, runs map[string][]span) {
	chains := c.grid("chain", "records", "links that hold", "verdict", "open steps", "head", "object")
	for _, r := range rep.Chains {
		var given []string
		for _, s := range runs[r.Chain] {
			given = append(given, s.numbers())
		}
		chains.add(r.Chain, strings.Join(given, ", "), r.Links, r.Verdict, strings.Trim(fmt.Sprint(r.Open), "[]"), r.Head, r.Object)
	}
	chains.print(c)
	faults := c.grid("file", "record", "check", "wrong")
	for _, f := range rep.Faults {
		number := ""
		if f.Seq > 0 { // else it isn't a record
			number = strconv.Itoa(f.Seq)
		}
		faults.add(f.Name, number, f.Check, f.Text)
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
