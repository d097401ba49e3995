package ledger

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf16"

	"cvmguard/internal/fault"
)

// MaxColumn is the longest column that a row takes, in UTF-16 units: Azure
// allows 64 KiB of them, two bytes each; a little is left free.
const MaxColumn = 32_000

// columnUnits is a text's length as table storage counts it, in UTF-16 units.
func columnUnits(s string) int {
	n := 0
	for _, r := range s {
		n += max(1, utf16.RuneLen(r))
	}
	return n
}

// columns reads the text columns of one row. The first column that can't be
// read is kept in err, a fault.Bug that names it; later reads give zero values.
type columns struct {
	op, object string
	cols       map[string]string
	next       string // what to do about a column that can't be read; "" is to rebuild the row
	err        error
}

func (c *columns) bad(col string, err error) {
	if c.err == nil {
		next := c.next
		if next == "" {
			next = "write the row anew from its records with `cvmguard rebuild`"
		}
		c.err = &fault.Error{Kind: fault.Bug, Op: c.op, Object: c.object, Err: fmt.Errorf("column %s holds %.80q: %w", col, c.cols[col], err),
			Next: next}
	}
}

// number reads a whole number of 0 or more; an absent or empty column is 0.
func (c *columns) number(col string) int {
	s := c.cols[col]
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err == nil && (n < 0 || strconv.Itoa(n) != s) {
		err = fmt.Errorf("it isn't a whole number of 0 or more, plainly written")
	}
	if err != nil {
		c.bad(col, err)
		return 0
	}
	return n
}

// moment reads a time as TimeText writes it; an absent or empty column is the
// zero time.
func (c *columns) moment(col string) time.Time {
	t, err := ParseTime(c.cols[col])
	if err == nil && TimeText(t) != c.cols[col] {
		err = fmt.Errorf("it isn't a time in UTC with nine digits of seconds")
	}
	if err != nil {
		c.bad(col, err)
		return time.Time{}
	}
	return t
}

// flag reads "true" or "false"; an absent or empty column is false.
func (c *columns) flag(col string) bool {
	switch c.cols[col] {
	case "", "false":
		return false
	case "true":
		return true
	}
	c.bad(col, fmt.Errorf("it is neither true nor false"))
	return false
}

// document reads a JSON column into v, strictly; an absent or empty column
// leaves v alone.
func (c *columns) document(col string, v any) {
	s := c.cols[col]
	if s == "" {
		return
	}
	d := json.NewDecoder(bytes.NewReader([]byte(s)))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, e := d.Token(); e != io.EOF {
			err = fmt.Errorf("there is text after the JSON value")
		}
	}
	if err != nil {
		c.bad(col, err)
	}
}
