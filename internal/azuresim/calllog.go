package azuresim

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// The planes of the simulated Azure.
const (
	PlaneARM    = "arm"
	PlaneKeys   = "keys"
	PlaneEvents = "events"
	PlaneAttest = "attest"
	PlaneLogin  = "login"
)

// Call is one request that came in over TLS. It holds no token, no query and no
// body.
type Call struct {
	N         int       `json:"n"` // from 1, never reused
	Time      time.Time `json:"time"`
	Principal string    `json:"principal,omitempty"`
	Plane     string    `json:"plane"`
	Method    string    `json:"method"`
	Path      string    `json:"path"` // host and path
	Action    string    `json:"action,omitempty"`
	Status    int       `json:"status"`         // 0: the connection was cut
	Code      string    `json:"code,omitempty"` // the error's code
	Kind      string    `json:"kind"`           // "read" or "write"
	Accepted  bool      `json:"accepted"`       // a write that took effect, or was begun; true too where the answer was then lost on purpose
}

// The kinds of a call: PUT, PATCH, DELETE and POST that change something are
// writes; POSTs that only ask (Resource Graph, attest, tokens) are reads.
const (
	KindRead  = "read"
	KindWrite = "write"
)

func (s *Sim) record(x *exchange, start time.Time) {
	c := Call{
		Time: start, Plane: x.plane, Method: x.r.Method, Path: x.host + x.path,
		Action: x.action, Status: x.status, Kind: KindRead, Accepted: x.effect,
	}
	if x.write {
		c.Kind = KindWrite
	}
	if x.principal != nil {
		c.Principal = x.principal.Name
	}
	if x.dropped {
		c.Status = 0
	} else if x.status >= 400 {
		c.Code = errorCode(x.answer)
	}
	s.mu.Lock()
	s.callSeq++
	c.N = s.callSeq
	s.calls = append(s.calls, c)
	s.mu.Unlock()
	s.log.Debug("call", "n", c.N, "principal", c.Principal, "method", c.Method, "path", c.Path, "status", c.Status, "code", c.Code)
}

func errorCode(body []byte) string {
	var e struct {
		Code  string `json:"code"`
		Error struct {
			Code string `json:"code"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &e) != nil {
		return ""
	}
	return orElse(e.Error.Code, e.Code)
}

// Calls is the log so far, oldest first.
func (s *Sim) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call{}, s.calls...)
}

// Writes is the log's accepted writes to Resource Manager and the key plane by
// one principal ("" is anyone's).
func (s *Sim) Writes(principal string) []Call {
	var out []Call
	for _, c := range s.Calls() {
		if c.Kind == KindWrite && c.Accepted && (c.Plane == PlaneARM || c.Plane == PlaneKeys) &&
			(principal == "" || c.Principal == principal) {
			out = append(out, c)
		}
	}
	return out
}

// Reset empties the call log. Numbers go on.
func (s *Sim) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = nil
}

// WriteCalls writes the log as one JSON array.
func (s *Sim) WriteCalls(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(s.Calls()); err != nil {
		return fmt.Errorf("writing the call log: %w", err)
	}
	return nil
}
