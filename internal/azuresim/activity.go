package azuresim

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// activityEvent is one line of the Activity Log.
type activityEvent struct {
	at   time.Time
	body doc
}

// activityLife is how long the log keeps an event, and how far back it may be asked.
const activityLife = 90 * 24 * time.Hour

// actionTags is how tags are written without the rest of the resource.
const actionTags = "Microsoft.Resources/tags/write"

// logActivity keeps a control-plane write for the Activity Log. Under Sim.mu.
func (s *Sim) logActivity(e armEvent) {
	data := s.resourceEvent(e).Data
	status, sub := "Succeeded", ""
	if e.failed {
		status, sub = "Failed", "Conflict"
	}
	now := s.now()
	resource := e.target
	if e.action == actionTags {
		resource += "/providers/Microsoft.Resources/tags/default"
	}
	s.activity = append(s.activity, activityEvent{at: now, body: doc{
		"eventDataId": s.id(), "correlationId": e.correlation, "eventTimestamp": now.Format(eventTime), "submissionTimestamp": now.Add(2 * time.Minute).Format(eventTime),
		"operationName": doc{"value": e.action, "localizedValue": e.action}, "status": doc{"value": status, "localizedValue": status},
		"subStatus": doc{"value": sub, "localizedValue": sub}, "resourceId": resource, "claims": data["claims"], "authorization": data["authorization"],
		"category": doc{"value": "Administrative", "localizedValue": "Administrative"}, "level": "Informational",
	}})
}

// SetTagAs sets one of a VM's tags as a principal would, by the tags' own operation.
func (s *Sim) SetTagAs(principal, id, name, value string) error {
	if _, ok := s.Principal(principal); !ok {
		return fmt.Errorf("setting a tag on %q: no principal is named %q", id, principal)
	}
	return s.change(id, typeVM, func(r *resource) error {
		put(r.body, value, "tags", name)
		r.touch()
		s.emit(armEvent{action: actionTags, target: r.id, method: http.MethodPatch, principal: principal, correlation: s.id()})
		return nil
	})
}

// DropTag takes a tag off a VM, by another's hand.
func (s *Sim) DropTag(id, name string) error {
	return s.change(id, typeVM, func(r *resource) error {
		drop(r.body, "tags", name)
		r.touch()
		s.told(r, typeVM+"/write", http.MethodPatch)
		return nil
	})
}

// LoseActivity takes events off the Activity Log: those of a resource ("" is every
// one) that are older than an age. Azure's own goes back 90 days.
func (s *Sim) LoseActivity(id string, age time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.now().Add(-age)
	s.activity = slices.DeleteFunc(s.activity, func(e activityEvent) bool {
		return !e.at.After(before) && (id == "" || strings.HasPrefix(fold(str(e.body, "resourceId")), fold(id)))
	})
}

var activityFilter = regexp.MustCompile(`^eventTimestamp ge '([^']+)'(?: and eventTimestamp le '([^']+)')?(?: and resourceUri eq '((?:[^']|'')+)')?$`)

// listActivity answers with the events that the filter takes, newest first.
func (x *exchange) listActivity(p armPath) {
	bad := func(why string) { x.fail(http.StatusBadRequest, "BadRequest", why) }
	m := activityFilter.FindStringSubmatch(x.query("$filter"))
	if m == nil {
		bad("The $filter is not supported: give eventTimestamp ge '…' [and eventTimestamp le '…'] [and resourceUri eq '…'].")
		return
	}
	from, err := time.Parse(time.RFC3339Nano, m[1])
	now := x.s.now()
	if err != nil || from.Before(now.Add(-activityLife)) {
		bad("The start time cannot be more than 90 days in the past.")
		return
	}
	until := now
	if m[2] != "" {
		if until, err = time.Parse(time.RFC3339Nano, m[2]); err != nil {
			bad("The end time can't be read.")
			return
		}
	}
	var fields []string
	if sel := x.query("$select"); sel != "" {
		fields = strings.Split(sel, ",")
	}
	resource := strings.ReplaceAll(m[3], "''", "'")
	out := []any{}
	for _, e := range slices.Backward(x.s.activity) {
		if e.at.Before(from) || e.at.After(until) || e.at.Before(now.Add(-activityLife)) || resource != "" && !same(str(e.body, "resourceId"), resource) ||
			!within(str(e.body, "resourceId"), "/subscriptions/"+p.sub) {
			continue
		}
		b := doc{}
		for k, v := range e.body {
			if len(fields) == 0 || slices.Contains(fields, k) {
				b[k] = v
			}
		}
		out = append(out, b)
	}
	x.page(out)
}
