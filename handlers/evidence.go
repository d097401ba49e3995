package handlers

import (
	"bytes"
	"context"
	"encoding/base64"
	"net/http"

	"cvmguard/internal/attest"
	"cvmguard/internal/customhandler"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/reconcile"
)

// Bounds of the guest's push.
const (
	maxBundle      = 2 << 20
	noncesPerHour  = 6
	maxNonceAsking = 4 << 10
)

// Evidence is the guest's push. Without a nonce it issues one for a VM that the
// loop knows; with one it stores the bundle, consumes the nonce and puts the VM
// on the loop. The same push again answers the same.
func Evidence(source Source) customhandler.HTTPFunc {
	return func(ctx context.Context, c customhandler.HTTPCall) customhandler.HTTPAnswer {
		if p := only(c.Query); p != nil {
			p.Given = "" // it may be a nonce in the wrong place
			return refuse(http.StatusBadRequest, *p)
		}
		if c.Chunked {
			return bodyLost("")
		}
		app, err := source(ctx)
		if err != nil {
			return failed(err)
		}
		if c.Params["nonce"] == "" {
			return app.issueNonce(ctx, c)
		}
		return app.takeEvidence(ctx, c)
	}
}

func (a *App) issueNonce(ctx context.Context, c customhandler.HTTPCall) customhandler.HTTPAnswer {
	var b struct {
		VM string `json:"vm"`
	}
	if len(c.Body) > maxNonceAsking || decodeBody(c.Body, &b) != nil {
		return refuse(http.StatusBadRequest, problem{Field: "body", Message: "it must be a JSON object with vm alone", Example: exampleRerun})
	}
	o, err := reconcile.VMObject(b.VM)
	if err != nil {
		return refuse(http.StatusBadRequest, problem{Field: "vm", Given: b.VM, Message: err.Error(), Example: exampleVM})
	}
	row, err := a.rowByKey(ctx, o.Chain())
	if fault.Is(err, fault.NotFound) || err == nil && row.UniqueID == "" {
		return refuse(http.StatusNotFound, problem{Field: "vm", Given: b.VM, Message: "the loop has not seen this VM yet; rerun it first"})
	}
	if err != nil {
		return failed(err)
	}
	now := a.Now()
	if err := a.Nonces.TakeQuota(ctx, vmID(row), now, noncesPerHour); err != nil {
		return failed(err)
	}
	nonce, n, err := a.Nonces.IssueNonce(ctx, a.Rand, now, a.NonceLife, ledger.NonceRow{VM: vmID(row), UniqueID: row.UniqueID, Cause: "push", Way: ledger.WayPush})
	if err != nil {
		return failed(err)
	}
	return answer(http.StatusCreated, map[string]any{"nonce": base64.RawURLEncoding.EncodeToString(nonce), "expires": n.Expires, "vmId": row.UniqueID})
}

func (a *App) takeEvidence(ctx context.Context, c customhandler.HTTPCall) customhandler.HTTPAnswer {
	given := c.Params["nonce"]
	// Strictly: a nonce has one spelling.
	nonce, err := base64.RawURLEncoding.Strict().DecodeString(given)
	if err != nil || len(nonce) != ledger.NonceSize || len(given) != base64.RawURLEncoding.EncodedLen(ledger.NonceSize) {
		return refuse(http.StatusNotFound, problem{Field: "nonce", Message: "it isn't a nonce of ours: 32 bytes in base64url without padding", Code: "nonce.unknown"})
	}
	if len(c.Body) > maxBundle {
		return refuse(http.StatusRequestEntityTooLarge, problem{Field: "body", Message: "a bundle has at most 2 MiB", Code: "bundle.malformed"})
	}
	b, err := attest.Decode(c.Body)
	if err != nil {
		return refuse(http.StatusBadRequest, problem{Field: "body", Message: err.Error(), Code: "bundle.malformed"})
	}
	if !bytes.Equal(b.Nonce, nonce) {
		return refuse(http.StatusBadRequest, problem{Field: "nonce", Message: "the bundle is over another nonce than the URL's", Code: "nonce.mismatch"})
	}
	hash := ledger.NonceHash(nonce)
	row, err := a.Nonces.ByHash(ctx, hash)
	if fault.Is(err, fault.NotFound) {
		return refuse(http.StatusNotFound, problem{Field: "nonce", Message: "it was never issued; ask for one by POST /api/evidence", Code: "nonce.unknown"})
	}
	if err != nil {
		return failed(err)
	}
	now := a.Now()
	state, row, sha, err := a.Nonces.Consume(ctx, nonce, row.VM, c.Body, now)
	if err != nil {
		return failed(err)
	}
	switch state {
	case ledger.NonceExpired:
		return refuse(http.StatusGone, problem{Field: "nonce", Message: "its time is over; ask for another", Code: "nonce.expired"})
	case ledger.NonceReused:
		return refuse(http.StatusConflict, problem{Field: "nonce", Message: "it was used for other evidence; ask for another", Code: "nonce.reused"})
	case ledger.NonceUnknown:
		return refuse(http.StatusNotFound, problem{Field: "nonce", Message: "it was never issued; ask for one by POST /api/evidence", Code: "nonce.unknown"})
	}
	m := reconcile.Message{VM: string(row.VM), Cause: ledger.Cause{Kind: "evidence", At: now, Nonce: hash, ID: sha}}
	if err := a.Queue.Enqueue(ctx, ledger.QueueReconcile, m.Encode(), 0); err != nil {
		return failed(err)
	}
	return answer(http.StatusAccepted, map[string]any{"bundle": sha})
}
