package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"cvmguard/internal/customhandler"
	"cvmguard/internal/fault"
	"cvmguard/internal/fleet"
	"cvmguard/internal/ledger"
	"cvmguard/internal/reconcile"
)

const exampleVM = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1"

const exampleRerun = `{"vm":"` + exampleVM + `"}`

// maxRerunBody is the longest body of a rerun, in bytes.
const maxRerunBody = 16 << 10

type rerunBody struct {
	VM           *string `json:"vm"`
	Group        *string `json:"group"`
	Subscription *string `json:"subscription"`
	Query        *string `json:"query"`
}

// Rerun puts a VM, a resource group, a subscription or what a query finds on the
// loop, and answers 202 with where to look.
func Rerun(source Source) customhandler.HTTPFunc {
	return func(ctx context.Context, c customhandler.HTTPCall) customhandler.HTTPAnswer {
		if p := only(c.Query, "dryrun"); p != nil {
			p.Example = "?dryrun=true"
			return refuse(http.StatusBadRequest, *p)
		}
		dry, p := flag(c.Query, "dryrun")
		if p != nil {
			return refuse(http.StatusBadRequest, *p)
		}
		if c.Chunked {
			return bodyLost(exampleRerun)
		}
		body, p := decodeRerun(c.Body)
		if p != nil {
			return refuse(http.StatusBadRequest, *p)
		}
		app, err := source(ctx)
		if err != nil {
			return failed(err)
		}
		now := app.Now()
		cause := ledger.Cause{Kind: "rerun", At: now, ID: c.Invocation, By: c.Caller, Fresh: !dry}
		if body.VM != nil {
			return app.rerunVM(ctx, c, *body.VM, cause, dry)
		}
		scope, p := body.scope()
		if p != nil {
			return refuse(http.StatusBadRequest, *p)
		}
		n, err := app.Fleet.Rerun(ctx, scope, cause, dry)
		if field, given := body.scopeField(); fault.Is(err, fault.Invalid) {
			return refuse(http.StatusBadRequest, problem{Field: field, Given: given, Message: err.Error(), Code: string(fault.Invalid), Example: exampleRerun})
		}
		if err != nil {
			return failed(err)
		}
		return look(c, "/api/vms", map[string]any{"enqueued": n, "dryrun": dry})
	}
}

func (a *App) rerunVM(ctx context.Context, c customhandler.HTTPCall, id string, cause ledger.Cause, dry bool) customhandler.HTTPAnswer {
	o, err := reconcile.VMObject(id)
	if err != nil {
		return refuse(http.StatusBadRequest, problem{Field: "vm", Given: id, Message: err.Error(), Example: exampleRerun})
	}
	if err := a.Loop.Named(ctx, o); err != nil {
		return refuse(http.StatusNotFound, problem{Field: "vm", Given: id, Code: string(fault.NotFound), Example: exampleRerun,
			Message: "no VM was found: Azure has none of this id; check subscription, resource group and name (one that was just created may take a moment: say it again)"})
	}
	m := reconcile.Message{VM: o.ID, Cause: cause, DryRun: dry}
	if err := a.Queue.Enqueue(ctx, ledger.QueueReconcile, m.Encode(), 0); err != nil {
		return failed(err)
	}
	return look(c, "/api/vms/"+o.Chain(), map[string]any{"enqueued": 1, "dryrun": dry, "vm": o.ID, "key": o.Chain()})
}

// look is the 202 that says where to look.
func look(c customhandler.HTTPCall, path string, said map[string]any) customhandler.HTTPAnswer {
	said["look"] = c.Base + path
	out := answer(http.StatusAccepted, said)
	out.Header["Location"] = path
	return out
}

func decodeRerun(body []byte) (rerunBody, *problem) {
	bad := func(given, format string, args ...any) (rerunBody, *problem) {
		return rerunBody{}, &problem{Field: "body", Given: given, Message: fmt.Sprintf(format, args...), Example: exampleRerun}
	}
	if len(body) > maxRerunBody {
		return bad(strconv.Itoa(len(body))+" bytes", "the body is too long: the most is %d bytes", maxRerunBody)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return bad("", "a JSON body is needed")
	}
	var b rerunBody
	if err := decodeBody(body, &b); err != nil {
		return bad(string(body), "the body can't be read: %s; it has one of vm, group, subscription, query", unreadable(err))
	}
	n := 0
	for _, f := range []*string{b.VM, b.Query, b.Group} {
		if f != nil {
			n++
		}
	}
	if b.Subscription != nil && b.Group == nil {
		n++
	}
	if n != 1 {
		return bad(string(body), "exactly one of vm, group, subscription and query must be given (a group may name its subscription)")
	}
	return b, nil
}

// unreadable says what is wrong with a body in the words of JSON: the decoder's own
// text names types of this program.
func unreadable(err error) string {
	var wrong *json.UnmarshalTypeError
	switch {
	case !errors.As(err, &wrong):
		return strings.TrimPrefix(err.Error(), "json: ")
	case wrong.Field == "":
		return "it is JSON of type " + wrong.Value + ", a JSON object is needed"
	default:
		return wrong.Field + " is of type " + wrong.Value + ", a text is needed"
	}
}

func (b rerunBody) scope() (fleet.Scope, *problem) {
	var s fleet.Scope
	if b.Subscription != nil {
		if !isGUID(*b.Subscription) {
			return s, &problem{Field: "subscription", Given: *b.Subscription, Message: "it must be a subscription's id, a GUID", Example: "00000000-0000-0000-0000-000000000000"}
		}
		s.Subscriptions = []string{*b.Subscription}
	}
	switch {
	case b.Group != nil:
		sub, group, ok := groupID(*b.Group)
		if !ok {
			group = *b.Group
		}
		if group == "" || strings.ContainsAny(group, "/'\"\\|;\r\n") || len(group) > 90 {
			return s, &problem{Field: "group", Given: *b.Group, Message: "it must be a resource group's name or id", Example: "rg-confidential"}
		}
		if ok && b.Subscription != nil && !strings.EqualFold(sub, *b.Subscription) {
			return s, &problem{Field: "group", Given: *b.Group, Message: "it is in another subscription than subscription names", Example: "rg-confidential"}
		}
		if ok {
			s.Subscriptions = []string{sub}
		}
		s.Group = group
	case b.Query != nil:
		if strings.TrimSpace(*b.Query) == "" || strings.ContainsAny(*b.Query, "|;\r\n") || len(*b.Query) > 2000 {
			return s, &problem{Field: "query", Given: *b.Query, Message: "it must be one Resource Graph where-clause on one line, without a pipe or semicolon", Example: "tags.env =~ 'prod'"}
		}
		s.Where = *b.Query
	}
	return s, nil
}

// scopeField is the member that names the scope, and what it holds.
func (b rerunBody) scopeField() (field, given string) {
	switch {
	case b.Group != nil:
		return "group", *b.Group
	case b.Query != nil:
		return "query", *b.Query
	case b.Subscription != nil:
		return "subscription", *b.Subscription
	}
	return "vm", ""
}

// groupID reads a resource group's ARM id.
func groupID(s string) (sub, group string, ok bool) {
	p := strings.Split(s, "/")
	if len(p) != 5 || p[0] != "" || !strings.EqualFold(p[1], "subscriptions") || !isGUID(p[2]) || !strings.EqualFold(p[3], "resourceGroups") || p[4] == "" {
		return "", "", false
	}
	return p[2], p[4], true
}

func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, r := range s {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (r == '-') {
			return false
		} else if !dash && !strings.ContainsRune("0123456789abcdefABCDEF", r) {
			return false
		}
	}
	return true
}
