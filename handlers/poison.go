package handlers

import (
	"context"
	"fmt"
	"time"

	"cvmguard/internal/customhandler"
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
		if err != nil {
			l.Reason = err.Error()
		} else {
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
	if err != nil {
		return ""
	}
	e, err := a.Tables.Get(ctx, o.Table, o.PK, o.RK)
	if err != nil || e.Cols["lastError"] == "" {
		return "; its row says nothing of why, see the log"
	}
	return "; the last error: " + e.Cols["lastError"]
}
