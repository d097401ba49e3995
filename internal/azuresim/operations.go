package azuresim

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// operation is a long-running operation of Resource Manager.
type operation struct {
	id        string
	action    string
	target    string // resource id
	sub, loc  string
	method    string
	principal string
	create    bool

	start, end time.Time
	status     string // InProgress, Succeeded, Failed
	code, text string

	lock   *resource // released at the end
	apply  func() *opError
	undo   func() // after a failure without effect
	fault  *fault
	timer  *time.Timer
	manual bool // ended by finish, not by the clock
}

// opError ends an operation as Failed.
type opError struct{ code, text string }

// begin starts the operation that the request asked for and sets the headers of
// the answer, which has been given already. Under Sim.mu.
func (x *exchange) begin(op *operation) *operation {
	s := x.s
	op.id, op.method, op.status, op.start = s.id(), x.r.Method, "InProgress", s.now()
	op.action = orElse(op.action, x.action)
	op.fault = x.opFault
	if x.principal != nil {
		op.principal = x.principal.Name
	}
	if p, err := parseARM(op.target); err == nil {
		op.sub = p.sub
	}
	if op.lock != nil {
		op.lock.busy = op
	}
	s.operations[op.id] = op
	base := fmt.Sprintf("https://%s/subscriptions/%s/providers/Microsoft.Compute/locations/%s/operations/%s?p=%s&api-version=%s",
		x.host, op.sub, region(op.loc), op.id, guid("poll", op.id), url.QueryEscape(x.query("api-version")))
	x.header.Set("Azure-AsyncOperation", base+"&monitor=false")
	if x.status == http.StatusAccepted {
		x.header.Set("Location", base+"&monitor=true")
	}
	retryAfter(x.header, s.pollEvery())
	if !op.manual {
		s.after(s.durationOf(op.action), op)
	}
	return op
}

// after ends an operation after a while, at once for 0. Under Sim.mu.
func (s *Sim) after(d time.Duration, op *operation) {
	if d <= 0 {
		s.finish(op)
		return
	}
	op.timer = time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.closed {
			s.finish(op)
		}
	})
}

func (s *Sim) pollEvery() time.Duration {
	if s.knobs.RetryAfter > 0 {
		return s.knobs.RetryAfter
	}
	return time.Second
}

func (s *Sim) durationOf(action string) time.Duration {
	for pattern, d := range s.knobs.Operations {
		if match(pattern, action) {
			return d
		}
	}
	return s.knobs.Operation
}

// finish ends an operation: applies its effect, unless a fault says otherwise,
// lets go of what it held and publishes its event. Under Sim.mu.
func (s *Sim) finish(op *operation) {
	if op.status != "InProgress" {
		return
	}
	if op.lock != nil && op.lock.busy == op {
		op.lock.busy = nil
	}
	var err *opError
	if op.fault == nil || op.fault.When == OperationAfter {
		err = op.apply()
	}
	if err == nil && op.fault != nil {
		err = &opError{orElse(op.fault.Code, "InternalExecutionError"), orElse(op.fault.Message, "a fault that was injected into the simulator")}
		if op.fault.When == Operation && op.undo != nil {
			op.undo()
		}
	} else if err != nil && op.undo != nil {
		op.undo()
	}
	op.end, op.status = s.now(), "Succeeded"
	if err != nil {
		op.status, op.code, op.text = "Failed", err.code, err.text
	}
	s.emit(armEvent{
		action: op.action, target: op.target, method: op.method, principal: op.principal,
		create: op.create, failed: err != nil, correlation: op.id,
	})
}

// begunBy says whether a principal began an operation: who did may always poll
// it (our choice), others need the action. Not under Sim.mu.
func (s *Sim) begunBy(p *principal, id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.operations[id]
	return op != nil && op.principal == p.Name
}

func (x *exchange) getOperation(p armPath) {
	op := x.s.operations[p.name()]
	if op == nil || !same(op.sub, p.sub) {
		x.fail(http.StatusNotFound, "OperationNotFound", "The operation '"+p.name()+"' was not found.")
		return
	}
	monitor := strings.EqualFold(x.query("monitor"), "true")
	if op.status == "InProgress" {
		retryAfter(x.header, x.s.pollEvery())
		if monitor {
			x.header.Set("Location", "https://"+x.host+x.r.URL.RequestURI())
			x.reply(http.StatusAccepted, nil)
			return
		}
		x.reply(http.StatusOK, doc{"startTime": stamp(op.start), "status": op.status, "name": op.id})
		return
	}
	body := doc{"startTime": stamp(op.start), "endTime": stamp(op.end), "status": op.status, "name": op.id}
	if op.status == "Failed" {
		body["error"] = doc{"code": op.code, "message": op.text}
	}
	if monitor && op.status == "Succeeded" {
		if r := x.s.resources[fold(op.target)]; r != nil && op.method != http.MethodPost && op.method != http.MethodDelete {
			x.reply(http.StatusOK, x.shown(r))
			return
		}
		x.reply(http.StatusOK, nil)
		return
	}
	x.reply(http.StatusOK, body)
}

// held answers 409 when an operation holds the resource.
func (x *exchange) held(r *resource) bool {
	if r.busy == nil {
		return false
	}
	x.fail(http.StatusConflict, "Conflict", fmt.Sprintf(
		"The request failed due to conflict with a concurrent request: operation '%s' (%s) on '%s' is in progress.", r.busy.id, r.busy.action, r.id))
	return true
}

// stale answers 412 when If-Match or If-None-Match does not hold.
func (x *exchange) stale(r *resource) bool {
	want, none := x.r.Header.Get("If-Match"), x.r.Header.Get("If-None-Match")
	now := ""
	if r != nil {
		now = str(r.body, "etag")
	}
	ok := (want == "" || want == "*" && r != nil || want == now) && (none == "" || none == "*" && r == nil || none != "*" && none != now)
	if !ok {
		x.fail(http.StatusPreconditionFailed, "PreconditionFailed", "The condition of the request's If-Match or If-None-Match does not hold: the resource's present ETag is "+orElse(now, "none")+".")
	}
	return !ok
}
