package azuresim

import (
	"net/http"
	"strings"
	"time"
)

// Knobs change how the simulated Azure behaves. The zero value is a fast, sound
// and patient Azure.
type Knobs struct {
	Latency   time.Duration // added to every call
	Operation time.Duration // how long long-running operations take; 0: done when the first answer is sent
	// Operations overrides Operation by action pattern, for instance
	// "Microsoft.Compute/virtualMachines/deallocate/action".
	Operations map[string]time.Duration
	RetryAfter time.Duration // what operations tell their pollers to wait; 0: 1 s
	Throttle   bool          // ARM's and Compute's own limits
	EmitEvents bool          // Resource Manager events for control-plane writes
}

// Knobs is a copy of the present knobs.
func (s *Sim) Knobs() Knobs {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.knobs
	k.EmitEvents = s.opt.EmitEvents
	return k
}

// SetKnobs changes the knobs, from the next call on.
func (s *Sim) SetKnobs(f func(*Knobs)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.knobs
	k.EmitEvents = s.opt.EmitEvents
	f(&k)
	s.knobs, s.opt.EmitEvents = k, k.EmitEvents
	if !k.Throttle {
		s.buckets = map[string]*bucket{}
	}
}

// When says at which point a Fault strikes.
type When string

// The points. Before: nothing was done. After: it was done, the answer is the
// fault's. Operation: the long operation that the call begins ends as Failed,
// nothing done. OperationAfter: it ends as Failed although it was done.
const (
	Before         When = "before"
	After          When = "after"
	Operation      When = "operation"
	OperationAfter When = "operation-after"
)

// Fault makes calls fail. Empty fields match everything; Action may hold "*",
// Path is a part of host and path, case aside.
type Fault struct {
	Principal string
	Method    string
	Action    string
	Path      string

	Nth   int  // the first matching call that is hit, from 1; 0: 1
	Times int  // how many from there on; 0: 1, -1: all
	When  When // "": Before

	Drop       bool   // cut the connection instead of answering
	Status     int    // 0: 500
	Code       string // "": InternalServerError
	Message    string
	RetryAfter time.Duration // > 0: with a Retry-After
}

type fault struct {
	Fault
	seen, hits int
}

// FaultRef is a fault that was injected.
type FaultRef struct {
	s *Sim
	f *fault
}

// Inject adds a fault. Of several that match one call the first injected wins.
func (s *Sim) Inject(f Fault) FaultRef {
	if f.When == "" {
		f.When = Before
	}
	if f.Nth == 0 {
		f.Nth = 1
	}
	if f.Times == 0 {
		f.Times = 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &fault{Fault: f}
	s.faults = append(s.faults, p)
	return FaultRef{s, p}
}

// Hits is how often the fault struck.
func (r FaultRef) Hits() int {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	return r.f.hits
}

// ClearFaults removes all faults.
func (s *Sim) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// strike finds the faults that hit this call. Under Sim.mu.
func (s *Sim) strike(x *exchange) (before, after, op *fault) {
	for _, f := range s.faults {
		if !f.matches(x) {
			continue
		}
		f.seen++
		if f.seen < f.Nth || (f.Times > 0 && f.seen >= f.Nth+f.Times) {
			continue
		}
		slot := &before
		switch f.When {
		case After:
			slot = &after
		case Operation, OperationAfter:
			slot = &op
		}
		if *slot == nil {
			*slot = f
			f.hits++
		}
	}
	return before, after, op
}

func (f *fault) matches(x *exchange) bool {
	return (f.Principal == "" || x.principal != nil && x.principal.Name == f.Principal) &&
		(f.Method == "" || strings.EqualFold(f.Method, x.r.Method)) &&
		(f.Action == "" || match(f.Action, x.action)) &&
		(f.Path == "" || strings.Contains(strings.ToLower(x.host+x.path), strings.ToLower(f.Path)))
}

func (x *exchange) applyFault(f *fault) {
	if f.Drop {
		x.dropped, x.status = true, http.StatusInternalServerError
		return
	}
	if f.RetryAfter > 0 {
		retryAfter(x.header, f.RetryAfter)
	}
	status := f.Status
	if status == 0 {
		status = http.StatusInternalServerError
	}
	if status == http.StatusTooManyRequests && x.plane == PlaneARM && f.Code == "" {
		x.tooMany("Injected", f.RetryAfter)
		return
	}
	x.fail(status, orElse(f.Code, "InternalServerError"), orElse(f.Message, "a fault that was injected into the simulator"))
}

// delay waits for the knob's latency or the caller's end.
func (s *Sim) delay(x *exchange) {
	s.mu.Lock()
	d := s.knobs.Latency
	s.mu.Unlock()
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-x.r.Context().Done():
	case <-s.ctx.Done():
	}
}

// SetCapacity says whether a size can be allocated in a location. Without
// capacity a start or a creation ends as a failed operation with code
// ("" is AllocationFailed; ZonalAllocationFailed and SkuNotAvailable are others).
func (s *Sim) SetCapacity(size, location string, available bool, code string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := fold(size) + "@" + region(location)
	if available {
		delete(s.exhausted, k)
		return
	}
	s.exhausted[k] = orElse(code, "AllocationFailed")
}
