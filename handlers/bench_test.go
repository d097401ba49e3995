package handlers_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"cvmguard/internal/ledger"
)

// discard is a queue that takes everything: what is left is the handler's own work.
type discard struct{}

var _ ledger.Queue = discard{}

// Enqueue implements ledger.Queue.
func (discard) Enqueue(context.Context, string, []byte, time.Duration) error { return nil }

// BenchmarkVMEvent is one event from the host's call to its acknowledgement,
// storage and network aside, beside the floor: the same call to a function of a
// handler that only reads it.
func BenchmarkVMEvent(b *testing.B) {
	e := eventOf("Microsoft.Resources.ResourceWriteSuccess", vmNamed("vm1"), "")
	body := fmt.Appendf(nil, `{"Data":{"event":%s},"Metadata":{"data":{},"sys":{"MethodName":"vm-event"}}}`, e)
	w := newWorld(b)
	w.app.Queue = discard{}
	for name, h := range map[string]http.Handler{"handler": w.mux, "floor": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := new(bytes.Buffer).ReadFrom(r.Body); err != nil {
			b.Error(err)
		}
		fmt.Fprint(w, "{}")
	})} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/vm-event", bytes.NewReader(body)))
				if rec.Code != http.StatusOK {
					b.Fatal(rec.Code, rec.Body)
				}
			}
		})
	}
}
