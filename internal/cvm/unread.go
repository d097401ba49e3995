package cvm

import "fmt"

// UnreadError is how a reader says why it can't give a fact, in the truth table's
// own words: "not-captured" where a body isn't among the files of a captured
// estate, "not-asked" where there was nothing to ask. What it gives beside the error
// is a part of the fact and counts as no more.
type UnreadError struct {
	Object string // its id
	Why    Unknown
}

// Error is one line.
func (e *UnreadError) Error() string {
	return fmt.Sprintf("reading %q: %s (%s)", e.Object, e.Why.Detail, e.Why.Code)
}
