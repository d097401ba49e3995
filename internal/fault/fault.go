// Package fault is cvmguard's one closed, append-only set of error kinds.
//
// The kind alone decides what the loop does with an error: refuse, read again,
// wait, back off or ask a person. An error that reaches a person ends with the
// next step (Next). The package promises that KindOf never guesses: an error
// that nobody classified is Transient, which is retried and then dead-lettered,
// never taken for success. It knows nothing of Azure; internal/azure maps
// Azure's codes onto these kinds.
package fault

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind is what the loop decides by.
type Kind string

// The kinds. Append only: they are written into records.
const (
	Invalid   Kind = "invalid"   // the input is wrong: tell the caller, change nothing
	Denied    Kind = "denied"    // a permission is missing: record, name the action
	NotFound  Kind = "notfound"  // it is not there
	Conflict  Kind = "conflict"  // somebody else was first: read again, retry at once
	Throttled Kind = "throttled" // after RetryAfter
	Transient Kind = "transient" // back off and try again
	Blocked   Kind = "blocked"   // a person is needed
	Bug       Kind = "bug"       // this program is wrong
)

// Error carries what was being done (Op), to what (Object), the service's code
// if there was one, the missing Azure action for Denied, the wait for
// Throttled, and the next step for a person.
type Error struct {
	Kind       Kind
	Op         string        // "reading disk"
	Object     string        // the id, quoted in the text
	Code       string        // the service's own code, "" if none
	Action     string        // the Azure action that is missing (Denied)
	RetryAfter time.Duration // 0 if the service named none
	Next       string        // what a person does next, one sentence
	Err        error
}

// Error is one line: op "object": cause (code); next step.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Object != "" {
		fmt.Fprintf(&b, " %q", e.Object)
	}
	if e.Err != nil {
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(e.Err.Error())
	}
	if e.Code != "" {
		fmt.Fprintf(&b, " (%s)", e.Code)
	}
	if e.Action != "" {
		fmt.Fprintf(&b, "; missing action %s", e.Action)
	}
	if e.Next != "" {
		b.WriteString("; " + e.Next)
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error of a kind with a formatted cause.
func New(k Kind, op, object, format string, args ...any) *Error {
	return &Error{Kind: k, Op: op, Object: object, Err: fmt.Errorf(format, args...)}
}

// KindOf is the kind of the outermost Error in err's chain, Transient for an
// error that nobody classified, "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Transient
}

// Is says whether err is of kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// RetryAfter is the wait that err asks for, 0 if it names none.
func RetryAfter(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// Action is the missing Azure action that err names, "" if none.
func Action(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Action
	}
	return ""
}

// Code is the service's code that err carries, "" if none.
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
