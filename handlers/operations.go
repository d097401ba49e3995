package handlers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"cvmguard/internal/customhandler"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/reconcile"
	"cvmguard/internal/remedy"
)

const (
	exampleDES       = `"des":"/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/providers/Microsoft.Compute/diskEncryptionSets/des1"`
	exampleOperation = `{"kind":"rotate-key",` + exampleDES + `}`
	exampleRecreate  = `{"kind":"recreate-vm","vm":"` + exampleVM + `"`
)

// operationExamples are, by the field that is wrong, what would be right.
var operationExamples = map[string]string{
	"kind": exampleOperation, "body": exampleOperation,
	"des":    exampleOperation,
	"key":    `{"kind":"rotate-key",` + exampleDES + `,"key":"https://kv-cvm.vault.azure.net/keys/os/0123456789abcdef0123456789abcdef"}`,
	"wave":   `{"kind":"rotate-key",` + exampleDES + `,"wave":10}`,
	"vm":     exampleRecreate + `}`,
	"image":  exampleRecreate + `,"image":"Canonical:ubuntu-24_04-lts:cvm:latest"}`,
	"size":   exampleRecreate + `,"size":"Standard_DC4as_v5"}`,
	"record": `{"kind":"undo","record":"00000000-0000-0000-0000-000000000000-abcdefghijklmnopqrstuvwxyz/00000007"}`,
	"plan":   `{"kind":"undo","plan":"<the 64 hex digits of a re-creation's plan>"}`,
	"hash":   "POST /api/operations/<the plan's 64 hex digits>/approve",
}

// maxOperationBody is the longest body that is read, in bytes.
const maxOperationBody = 16 << 10

// maxOperations bounds a page of the listing: each costs two reads.
const maxOperations = 200

// OperationView is an operation as the API shows it.
type OperationView struct {
	Hash       string               `json:"hash"`
	Key        string               `json:"key"` // of its records
	Kind       remedy.OperationKind `json:"kind"`
	Object     string               `json:"object"`
	Why        string               `json:"why"`
	Made       time.Time            `json:"made,omitzero"` // not known where the plan can't be read
	MadeBy     string               `json:"madeBy,omitempty"`
	State      string               `json:"state"` // a code, such as operation-waiting
	Text       string               `json:"text"`
	Approved   *time.Time           `json:"approved,omitempty"`
	ApprovedBy string               `json:"approvedBy,omitempty"`
	Paused     bool                 `json:"paused,omitempty"`
	Stopped    bool                 `json:"stopped,omitempty"`
	Braked     string               `json:"braked,omitempty"`
	Steps      []OperationStepView  `json:"steps"`
	// Operation is the plan itself, where one operation is asked for.
	Operation *remedy.Operation `json:"operation,omitempty"`
}

// OperationStepView is one of its steps as it stands.
type OperationStepView struct {
	Step     remedy.Kind      `json:"step"`
	Target   string           `json:"target"`
	State    remedy.StepState `json:"state"`
	Does     string           `json:"does"`
	Why      string           `json:"why,omitempty"`
	Disturbs remedy.Disturbs  `json:"disturbs"`
	Retry    *time.Time       `json:"retry,omitempty"` // it failed, and is tried again then
	// Record names the record of its last outcome, where one operation is asked for; an
	// undo takes it.
	Record string `json:"record,omitempty"`
}

type operationBody struct {
	Kind   string `json:"kind"`
	DES    string `json:"des"`
	Key    string `json:"key"`
	Wave   int    `json:"wave"`
	VM     string `json:"vm"`
	Image  string `json:"image"`
	Size   string `json:"size"`
	Record string `json:"record"`
	Plan   string `json:"plan"`
}

// Operations plans operations, shows where they stand, and takes a person's word on
// them. What is planned is carried out only once it is approved by its hash.
func Operations(source Source) customhandler.HTTPFunc {
	return func(ctx context.Context, c customhandler.HTTPCall) customhandler.HTTPAnswer {
		hash, word := strings.ToLower(c.Params["hash"]), c.Params["word"]
		var known []string
		if c.Method == http.MethodGet && hash == "" {
			known = []string{"after"}
		}
		if p := only(c.Query, known...); p != nil {
			return refuse(http.StatusBadRequest, *p)
		}
		after := c.Query.Get("after")
		if _, _, ok := ledger.SplitChain(after); !ok && c.Query.Has("after") {
			return refuse(http.StatusBadRequest, problem{Field: "after", Given: after, Message: "it must be an operation's key, as next of the page before gives it", Example: "?after=00000000-0000-0000-0000-000000000000-abcdefghijklmnopqrstuvwxyz"})
		}
		switch {
		case c.Method == http.MethodGet && word != "", c.Method == http.MethodPost && hash != "" && word == "":
			return refuse(http.StatusNotFound, problem{Message: "there is nothing here", Example: "POST /api/operations/<hash>/approve"})
		case c.Method == http.MethodPost && word != "" && !slices.Contains(reconcile.OperationWords(), word):
			return refuse(http.StatusNotFound, problem{Field: "word", Given: word, Message: "it must be one of " + strings.Join(reconcile.OperationWords(), ", "), Example: "POST /api/operations/<hash>/approve"})
		}
		var body operationBody
		if c.Method == http.MethodPost && hash == "" {
			if c.Chunked {
				return bodyLost(exampleOperation)
			}
			var p *problem
			if body, p = decodeOperation(c.Body); p != nil {
				return refuse(http.StatusBadRequest, *p)
			}
		}
		app, err := source(ctx)
		if err != nil {
			return failed(err)
		}
		switch {
		case c.Method == http.MethodPost && hash == "":
			return app.planOperation(ctx, body, c.Caller)
		case c.Method == http.MethodPost:
			return app.sayToOperation(ctx, c, hash, word)
		case hash != "":
			now, err := app.Loop.OperationNow(ctx, hash)
			if err != nil {
				return operationFailed(err, "hash", hash)
			}
			v := viewOfOperation(now)
			v.Operation = &now.Op
			return answer(http.StatusOK, v)
		}
		return app.listOperations(ctx, after)
	}
}

// listOperations gives a page of what was planned, the newest of it first. One whose
// plan can't be used is there as well and says so.
func (a *App) listOperations(ctx context.Context, after string) customhandler.HTTPAnswer {
	out := struct {
		Operations []OperationView `json:"operations"`
		Next       string          `json:"next,omitempty"`
	}{Operations: []OperationView{}}
	list, next, err := a.Loop.Operations(ctx, after, maxOperations)
	if err != nil {
		return failed(err)
	}
	for _, now := range list {
		out.Operations = append(out.Operations, viewOfOperation(now))
	}
	slices.SortStableFunc(out.Operations, func(a, b OperationView) int { return b.Made.Compare(a.Made) })
	out.Next = next
	return answer(http.StatusOK, out)
}

func (a *App) planOperation(ctx context.Context, b operationBody, by string) customhandler.HTTPAnswer {
	hash, op, err := a.Loop.PlanOperation(ctx, reconcile.OperationAsk{Kind: remedy.OperationKind(b.Kind), DES: cvm.DESID(b.DES), Key: cvm.KeyID(b.Key), Wave: b.Wave,
		VM: cvm.VMID(b.VM), Recreation: remedy.RecreationOptions{Image: b.Image, Size: b.Size, DES: cvm.DESID(b.DES)}, Record: b.Record, Plan: b.Plan, By: by})
	if err != nil {
		field := "kind"
		var ask *reconcile.AskError
		if errors.As(err, &ask) {
			field = ask.Field
		}
		return operationFailed(err, field, map[string]string{"kind": b.Kind, "des": b.DES, "key": b.Key, "wave": strconv.Itoa(b.Wave), "vm": b.VM, "image": b.Image,
			"size": b.Size, "record": b.Record, "plan": b.Plan}[field])
	}
	return answer(http.StatusOK, map[string]any{"hash": hash, "operation": op})
}

func (a *App) sayToOperation(ctx context.Context, c customhandler.HTTPCall, hash, word string) customhandler.HTTPAnswer {
	now, err := a.Loop.SayToOperation(ctx, hash, word, c.Caller)
	if err != nil {
		return operationFailed(err, "hash", hash)
	}
	return look(c, "/api/operations/"+now.Hash, map[string]any{"hash": now.Hash, "word": word, "key": now.Chain})
}

// operationFailed answers for an error of an operation's: a doubt is a conflict, and
// what it says is for the person who asked.
func operationFailed(err error, field, given string) customhandler.HTTPAnswer {
	p := problem{Field: field, Given: given, Message: err.Error(), Code: string(fault.KindOf(err))}
	var f *fault.Error
	if errors.As(err, &f) && strings.EqualFold(f.Object, given) && strings.HasPrefix(p.Message, f.Op) {
		cause := *f
		cause.Op, cause.Object = "", "" // the field and what was given say it
		p.Message = cause.Error()
	}
	switch fault.KindOf(err) {
	case fault.Invalid:
		p.Example = operationExamples[field]
		return refuse(http.StatusBadRequest, p)
	case fault.Blocked, fault.Denied:
		return refuse(http.StatusConflict, p)
	case fault.NotFound:
		return refuse(http.StatusNotFound, p)
	}
	return failed(err)
}

func decodeOperation(body []byte) (operationBody, *problem) {
	bad := func(field, given, format string, args ...any) (operationBody, *problem) {
		return operationBody{}, &problem{Field: field, Given: given, Message: fmt.Sprintf(format, args...), Example: operationExamples[field]}
	}
	if len(body) > maxOperationBody {
		return bad("body", strconv.Itoa(len(body))+" bytes", "the body is too long: the most is %d bytes", maxOperationBody)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return bad("body", "", "a JSON body is needed")
	}
	var b operationBody
	if err := decodeBody(body, &b); err != nil {
		return bad("body", string(body), "the body can't be read: %s; it has a kind (rotate-key, recreate-vm, undo) and what it is about", unreadable(err))
	}
	given := map[string]bool{"des": b.DES != "", "key": b.Key != "", "wave": b.Wave != 0, "vm": b.VM != "", "image": b.Image != "", "size": b.Size != "", "record": b.Record != "", "plan": b.Plan != ""}
	allowed := map[string][]string{
		string(remedy.RotateKeyOperation): {"des", "key", "wave"},
		string(remedy.RecreateOperation):  {"vm", "image", "size", "des"},
		string(remedy.UndoOperation):      {"record", "plan"},
	}
	may, ok := allowed[b.Kind]
	if !ok {
		return bad("kind", b.Kind, "it must be rotate-key, recreate-vm or undo")
	}
	for _, name := range []string{"des", "key", "wave", "vm", "image", "size", "record", "plan"} {
		if given[name] && !slices.Contains(may, name) {
			return bad(name, "", "it doesn't go with the kind %s, which has %s", b.Kind, strings.Join(may, ", "))
		}
	}
	switch {
	case b.Kind == string(remedy.UndoOperation) && given["record"] == given["plan"]:
		return bad("record", b.Record, "give either the record of the step that is to be undone, or the plan of the re-creation that is to be gone back on")
	case b.Kind != string(remedy.UndoOperation) && !given[may[0]]:
		return bad(may[0], "", "it is needed with the kind %s", b.Kind)
	}
	return b, nil
}

func viewOfOperation(n reconcile.OperationNow) OperationView {
	v := OperationView{Hash: n.Hash, Key: n.Chain, Kind: n.Op.Kind, Object: n.Op.Object, Why: n.Op.Why, Made: n.Op.Made, MadeBy: n.Op.MadeBy, State: n.Code, Text: n.Text,
		Approved: timeOrNil(n.State.Approved), ApprovedBy: n.State.ApprovedBy, Paused: n.State.Paused, Stopped: n.State.Stopped, Braked: n.Braked, Steps: []OperationStepView{}}
	for _, s := range n.Plan.Steps {
		step := OperationStepView{Step: s.Kind, Target: s.Target, State: s.State, Does: s.Does, Why: s.Why, Disturbs: s.Disturbs, Record: n.Records[ledger.SendKey(s)]}
		if s.State != remedy.Done {
			if step.Retry = timeOrNil(n.Retry(s)); step.Retry != nil {
				step.Why = n.Failed[ledger.SendKey(s)]
			}
		}
		v.Steps = append(v.Steps, step)
	}
	return v
}
