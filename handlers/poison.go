package handlers

import (
	"context"
	"fmt"
	"time"

	"cvmguard/internal/customhandler"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/reconcile"
)

// Poison takes over what failed too often: what names an object goes back on the
// loop first, at the slow pace; then the message is in the inbox with its reason.
// Only a failure of storage fails it.
func Poison(source Source) customhandler.QueueFunc {
	return func(ctx context.Context, c customhandler.QueueCall) error {
		app, err := source(ctx)
		if err != nil {
			return err
		}
		l := ledger.Letter{Source: ledger.SourcePoison, Body: c.Text, Tries: c.DequeueCount, At: app.Now()}
		m, err := reconcile.DecodeMessage(c.Text)
		switch {
		case err != nil && c.Problem != "":
			l.Reason = c.Problem
		case err != nil:
			l.Reason = err.Error()
		default:
			m.Due = time.Time{} // the look-again that it may have been is long past
			l.Object = m.VM + m.Shared
			if err := app.Queue.Enqueue(ctx, ledger.QueueReconcile, m.Encode(), app.SlowPace); err != nil {
				return fmt.Errorf("putting %q back on the loop: %w", l.Object, err)
			}
			l.Reason = "every try failed; it is tried again at the slow pace" + app.lastError(ctx, m)
		}
		if _, err := app.Inbox.Keep(ctx, l); err != nil {
			return fmt.Errorf("keeping a poisoned message: %w", err)
		}
		app.Counters.Kept.Add(1)
		return nil
	}
}

// lastError is what the object's row says of its last failure, for a person.
func (a *App) lastError(ctx context.Context, m reconcile.Message) string {
	o, err := reconcile.SharedObject(m.Shared)
	if m.VM != "" {
		o, err = reconcile.VMObject(m.VM)
	}
	if err != nil { // DecodeMessage has taken it
		return "; " + err.Error()
	}
	e, err := a.Tables.Get(ctx, o.Table, o.PK, o.RK)
	if err == nil {
		var row ledger.Row
		if row, err = ledger.DecodeRow(e); err == nil && row.LastError != "" {
			return "; the last error: " + row.LastError
		}
	}
	if err != nil && !fault.Is(err, fault.NotFound) {
		return "; why can't be read from its row: " + err.Error()
	}
	return "; its row says nothing of why, see the log"
}
