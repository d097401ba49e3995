package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// maxAsk is how long Azure is asked for a VM that a person named: they wait for the
// answer, and the VM's own turn asks again.
const maxAsk = 10 * time.Second

// Named finds out whether there is a VM of an id that a person gave, so that a
// mistyped one doesn't stay in the estate. One that has a row is known, be it
// deleted; of any other Azure is asked, once. Its error is fault.NotFound: Azure says
// that there is none. Where that can't be said now there is no error: the VM's turn
// finds out.
func (l *Loop) Named(ctx context.Context, o Object) error {
	_, err := l.Tables.Get(ctx, o.Table, o.PK, o.RK)
	if fault.Is(err, fault.NotFound) {
		ask, cancel := context.WithTimeout(ctx, maxAsk)
		defer cancel()
		if _, err = l.Azure.VM(ask, cvm.VMID(o.ID)); fault.Is(err, fault.NotFound) {
			return fmt.Errorf("looking for the VM that a person named: %w", err)
		}
	}
	if err != nil {
		l.log().Warn("nobody can say now whether there is a VM that a person named; its turn finds out", slog.String(logObject, o.ID), slog.String(logError, err.Error()))
	}
	return nil
}
