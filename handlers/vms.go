package handlers

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"cvmguard/internal/azurepolicy"
	"cvmguard/internal/customhandler"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
)

// Bounds of the listings.
const (
	maxVMs     = 1000
	maxRecords = 500
)

// VMView is a VM as the API shows it.
type VMView struct {
	Key     string       `json:"key"`
	ID      string       `json:"id"`
	Name    string       `json:"name"`
	Region  string       `json:"region,omitempty"`
	Kind    cvm.Kind     `json:"kind,omitempty"`
	TEE     cvm.TEE      `json:"tee,omitempty"`
	Verdict policy.Value `json:"verdict"`
	Shadow  policy.Value `json:"shadow,omitempty"` // the shadow policy's verdict, where one is set
	// WouldBeRefused is what an Azure Policy initiative made from the policy would have
	// refused of the VM.
	WouldBeRefused []azurepolicy.Refusal `json:"wouldBeRefused,omitempty"`
	CompliantSince *time.Time            `json:"compliantSince,omitempty"`
	Findings       []ledger.RowFinding   `json:"findings"`
	Plan           []ledger.RowStep      `json:"plan"`
	Attestation    *AttestationView      `json:"attestation,omitempty"`
	Running        string                `json:"running,omitempty"` // the open step
	Braked         string                `json:"braked,omitempty"`  // the brake that holds its steps
	Stopped        []cvm.Contest         `json:"stopped,omitempty"` // steps that aren't taken until a person says so
	LastSeen       *time.Time            `json:"lastSeen,omitempty"`
	NextLook       *time.Time            `json:"nextLook,omitempty"`
	LastEventAt    *time.Time            `json:"lastEventAt,omitempty"` // of the newest event, in Azure's time
	LastError      string                `json:"lastError,omitempty"`
	Head           HeadView              `json:"head"`
	Cut            []string              `json:"cut,omitempty"` // parts that the record alone has whole
	// Shared is what it is where it is no VM but an object that VMs share, or an operation.
	Shared      cvm.SharedKind `json:"shared,omitempty"`
	Development bool           `json:"development,omitempty"`
}

// AttestationView is the newest judged evidence in short.
type AttestationView struct {
	MAA         cvm.Outcome `json:"maa"`
	Evidence    cvm.Outcome `json:"evidence"`
	JudgedAt    time.Time   `json:"judgedAt"`
	NonceIssued time.Time   `json:"nonceIssued"`
	Bundle      string      `json:"bundle"`
}

// HeadView is the end of a chain.
type HeadView struct {
	Seq  int    `json:"seq"`
	Hash string `json:"hash"`
}

// ViewOf is the view of a row.
func ViewOf(r ledger.Row) VMView {
	v := VMView{Key: r.Chain(), ID: r.ID, Name: cvm.VMID(r.ID).Name(), Region: r.Region, Kind: r.Kind, TEE: r.TEE, Verdict: r.Verdict, Shadow: r.Shadow, Braked: r.Braked, Stopped: r.Contested(), WouldBeRefused: r.WouldBeRefused,
		CompliantSince: timeOrNil(r.CompliantSince), Findings: r.Findings, Plan: r.Plan, LastSeen: timeOrNil(r.LastSeen),
		NextLook: timeOrNil(r.NextLook), LastEventAt: timeOrNil(r.LastEventAt), LastError: r.LastError, Head: HeadView{r.HeadSeq, r.HeadHash}, Cut: r.Cut, Development: r.Development, Shared: r.SharedKind}
	if v.Findings == nil {
		v.Findings = []ledger.RowFinding{}
	}
	if v.Plan == nil {
		v.Plan = []ledger.RowStep{}
	}
	if a := r.Attestation; a != nil {
		v.Attestation = &AttestationView{a.MAA, a.Evidence, a.JudgedAt, a.NonceIssued, a.Bundle}
	}
	if r.Step != nil {
		v.Running = string(r.Step.Step.Kind)
	}
	return v
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// VMs lists VMs, shows one, its records, and whether its proof is fresh. Shared objects
// and operations, which have records too, are shown by their key or id.
func VMs(source Source) customhandler.HTTPFunc {
	return func(ctx context.Context, c customhandler.HTTPCall) customhandler.HTTPAnswer {
		app, err := source(ctx)
		if err != nil {
			return failed(err)
		}
		key, view := c.Params["key"], c.Params["view"]
		if key == "" {
			return app.listVMs(ctx, c.Query)
		}
		given := key
		key, err = app.chainOf(ctx, given)
		var row ledger.Row
		if err == nil {
			row, err = app.rowByKey(ctx, key)
		}
		if fault.Is(err, fault.NotFound) || err == nil && view == "fresh" && row.SharedKind != "" {
			return refuse(http.StatusNotFound, problem{Field: "key", Given: given, Message: nobodyHas(view)})
		}
		if err != nil {
			return failed(err)
		}
		switch view {
		case "":
			if p := only(c.Query); p != nil {
				return refuse(http.StatusBadRequest, *p)
			}
			return answer(http.StatusOK, ViewOf(row))
		case "records":
			return app.records(ctx, row, c.Query)
		case "fresh":
			return app.fresh(row, c.Query)
		}
		return refuse(http.StatusNotFound, problem{Field: "view", Given: view, Message: "there are records and fresh", Example: "/api/vms/" + key + "/records"})
	}
}

func nobodyHas(view string) string {
	if view == "fresh" {
		return "no VM has this key; list them with GET /api/vms"
	}
	return "no VM has this key, no shared object and no plan; list VMs with GET /api/vms"
}

// chainOf is the key of what is asked for by its key, its id or, for an operation, its
// plan's hash. An id has slashes, which come escaped, once or as the host leaves them.
func (a *App) chainOf(ctx context.Context, given string) (string, error) {
	if id, err := url.PathUnescape(given); err == nil && strings.Contains(id, "/") {
		o, err := reconcile.AnyObject(id)
		if err != nil {
			return "", &fault.Error{Kind: fault.NotFound, Op: "looking up", Object: given, Err: err}
		}
		return o.Chain(), nil
	}
	if !ledger.IsHash(strings.ToLower(given)) {
		return given, nil
	}
	return a.Loop.OperationChain(ctx, strings.ToLower(given))
}

func (a *App) rowByKey(ctx context.Context, key string) (ledger.Row, error) {
	pk, rk, ok := ledger.SplitChain(key)
	if !ok {
		return ledger.Row{}, fault.New(fault.NotFound, "looking up", key, "it isn't a key")
	}
	e, err := a.Tables.Get(ctx, ledger.TableVMs, pk, rk)
	if fault.Is(err, fault.NotFound) {
		e, err = a.Tables.Get(ctx, ledger.TableShared, pk, rk)
	}
	if err != nil {
		return ledger.Row{}, err
	}
	return ledger.DecodeRow(e)
}

func (a *App) listVMs(ctx context.Context, q url.Values) customhandler.HTTPAnswer {
	if p := only(q, "verdict", "subscription", "differ", "refused", "after"); p != nil {
		return refuse(http.StatusBadRequest, *p)
	}
	f := ledger.Filter{}
	differ, p := flag(q, "differ")
	if p != nil {
		return refuse(http.StatusBadRequest, *p)
	}
	refused, p := flag(q, "refused")
	if p != nil {
		return refuse(http.StatusBadRequest, *p)
	}
	verdicts, p := verdictsOf(q)
	if p != nil {
		return refuse(http.StatusBadRequest, *p)
	}
	if len(verdicts) == 1 {
		f.Equal = map[string]string{ledger.ColVerdict: verdicts[0]}
	}
	if s := q.Get("subscription"); s != "" {
		if !isGUID(s) {
			return refuse(http.StatusBadRequest, problem{Field: "subscription", Given: s, Message: "it must be a subscription's id, a GUID", Example: "?subscription=00000000-0000-0000-0000-000000000000"})
		}
		f.PK = strings.ToLower(s)
	}
	after := q.Get("after")
	if _, _, ok := ledger.SplitChain(after); !ok && q.Has("after") {
		return refuse(http.StatusBadRequest, problem{Field: "after", Given: after, Message: "it must be a VM's key, as next of the page before gives it", Example: "?after=00000000-0000-0000-0000-000000000000-abcdefghijklmnopqrstuvwxyz"})
	}
	out := struct {
		VMs  []VMView `json:"vms"`
		Next string   `json:"next,omitempty"`
	}{VMs: []VMView{}}
	var bad error
	err := a.Tables.Query(ctx, ledger.TableVMs, f, func(e ledger.Entity) bool {
		if ledger.ChainKey(e.PK, e.RK) <= after || differ && !differs(e) || refused && e.Cols[ledger.ColRefused] == "" || len(verdicts) > 1 && !slices.Contains(verdicts, e.Cols[ledger.ColVerdict]) {
			return true
		}
		if len(out.VMs) == maxVMs {
			out.Next = out.VMs[maxVMs-1].Key
			return false
		}
		row, err := ledger.DecodeRow(e)
		if err != nil {
			bad = err
			return false
		}
		out.VMs = append(out.VMs, ViewOf(row))
		return true
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return failed(err)
	}
	return answer(http.StatusOK, out)
}

// differs says whether a row's shadow policy judges it otherwise.
func differs(e ledger.Entity) bool {
	shadow := e.Cols[ledger.ColShadow]
	return shadow != "" && shadow != e.Cols[ledger.ColVerdict]
}

// verdictsOf reads the verdicts that are asked for, several with commas between
// them; none means all.
func verdictsOf(q url.Values) ([]string, *problem) {
	if !q.Has("verdict") {
		return nil, nil
	}
	given := strings.Split(q.Get("verdict"), ",")
	for _, v := range given {
		switch policy.Value(v) {
		case policy.Gone, policy.NotACVM, policy.NonCompliant, policy.Unknown, policy.Compliant:
		default:
			return nil, &problem{Field: "verdict", Given: q.Get("verdict"), Message: "there are compliant, non-compliant, unknown, not-a-cvm and gone", Example: "?verdict=non-compliant,unknown"}
		}
	}
	return given, nil
}

// RecordView is one record in a listing.
type RecordView struct {
	Name string `json:"name"`
	Hash string `json:"hash"`
	ledger.Record
}

func (a *App) records(ctx context.Context, row ledger.Row, q url.Values) customhandler.HTTPAnswer {
	if p := only(q, "seq", "after"); p != nil {
		return refuse(http.StatusBadRequest, *p)
	}
	if q.Has("seq") && q.Has("after") {
		return refuse(http.StatusBadRequest, problem{Field: "after", Given: q.Get("after"), Message: "it doesn't go with seq, which asks for one record", Example: "?after=10"})
	}
	if q.Has("seq") {
		seq, err := strconv.Atoi(q.Get("seq"))
		if err != nil || seq < 1 {
			return refuse(http.StatusBadRequest, problem{Field: "seq", Given: q.Get("seq"), Message: "it must be a record's number, 1 or more", Example: "?seq=1"})
		}
		_, raw, _, err := a.Chains.Read(ctx, row.Chain(), seq)
		if fault.Is(err, fault.NotFound) && seq > row.HeadSeq {
			return refuse(http.StatusNotFound, problem{Field: "seq", Given: q.Get("seq"), Message: howMany(row), Example: "?seq=1", Code: string(fault.NotFound)})
		}
		if err != nil {
			return failed(err)
		}
		// The bytes as they are: their SHA-256 is the hash that the next record names.
		return customhandler.HTTPAnswer{Status: http.StatusOK, Header: map[string]string{"Content-Type": "application/json"}, Body: raw}
	}
	after := 0
	if q.Has("after") {
		var err error
		if after, err = strconv.Atoi(q.Get("after")); err != nil || after < 0 {
			return refuse(http.StatusBadRequest, problem{Field: "after", Given: q.Get("after"), Message: "it must be a record's number, 0 or more", Example: "?after=10"})
		}
	}
	out := struct {
		Key     string       `json:"key"`
		Head    HeadView     `json:"head"`
		Records []RecordView `json:"records"`
		Next    int          `json:"next,omitempty"`
	}{Key: row.Chain(), Head: HeadView{row.HeadSeq, row.HeadHash}, Records: []RecordView{}}
	for seq := after + 1; seq <= row.HeadSeq; seq++ {
		if len(out.Records) == maxRecords {
			out.Next = seq - 1
			break
		}
		rec, _, hash, err := a.Chains.Read(ctx, row.Chain(), seq)
		if err != nil {
			return failed(err)
		}
		rec.Posture = json.RawMessage(nil) // the facts are in the record itself: ?seq=N
		out.Records = append(out.Records, RecordView{Name: ledger.RecordName(row.Chain(), seq), Hash: hash, Record: rec})
	}
	return answer(http.StatusOK, out)
}

// howMany says how many records an object has, for one who asked for another.
func howMany(row ledger.Row) string {
	who := "the VM"
	if row.SharedKind != "" {
		who = "the " + string(row.SharedKind)
	}
	switch n := row.HeadSeq; n {
	case 0:
		return who + " has no record yet"
	case 1:
		return "there is no such record, " + who + " has one"
	default:
		return fmt.Sprintf("there is no such record, %s has %d, numbered from 1", who, n)
	}
}

// fresh is the gate for others: 200 when the VM is compliant and its proof isn't
// older than max_age, else 412 with the reason.
func (a *App) fresh(row ledger.Row, q url.Values) customhandler.HTTPAnswer {
	if p := only(q, "max_age"); p != nil {
		return refuse(http.StatusBadRequest, *p)
	}
	age, err := time.ParseDuration(q.Get("max_age"))
	if err != nil || age <= 0 {
		return refuse(http.StatusBadRequest, problem{Field: "max_age", Given: q.Get("max_age"), Message: "it is required and must be a duration above zero", Example: "?max_age=24h"})
	}
	out := map[string]any{"fresh": false, "verdict": row.Verdict, "key": row.Chain()}
	if row.Attestation != nil {
		out["attestedAt"] = row.Attestation.NonceIssued
	}
	reason := notFresh(row, age, a.Now())
	if reason == "" && row.Development && (a.Loop == nil || !a.Loop.Development) {
		// Endpoints or roots that weren't the vendors' prove nothing here.
		reason = "its record was made in a development world"
	}
	if reason != "" {
		out["reason"] = reason
		return answer(http.StatusPreconditionFailed, out)
	}
	out["fresh"] = true
	return answer(http.StatusOK, out)
}

func notFresh(row ledger.Row, age time.Duration, now time.Time) string {
	att := row.Attestation
	switch {
	case row.Verdict != policy.Compliant:
		return fmt.Sprintf("the verdict is %q", row.Verdict)
	case att == nil:
		return "the VM has not been attested"
	case att.Evidence.State != cvm.Pass:
		return "its evidence did not pass: " + att.Evidence.Reason
	case att.MAA.State != cvm.Pass && att.MAA.State != cvm.NotApplicable:
		return "Microsoft Azure Attestation did not pass it: " + att.MAA.Reason
	case now.Sub(att.NonceIssued) > age:
		return fmt.Sprintf("it was attested %s ago", now.Sub(att.NonceIssued).Round(time.Second))
	}
	return ""
}
