package azuresim

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Of several writers with one ETag one wins; the world stays whole while it is
// read, listed, changed and closed.
func TestManyCallersAtOnce(t *testing.T) {
	s := start(t, Options{EmitEvents: true, PageSize: 2})
	w := small(t, s)
	h := newHook(t, nil)
	ok(t, s.Subscribe(ctx(t), Subscription{Name: "a", Topic: TopicSubscription, URL: h.url}))
	s.SetGuests(func(VMInfo) Guest { return &fakeGuest{} })
	s.SetKnobs(func(k *Knobs) { k.Operation = 200 * time.Microsecond })
	for round := range 5 {
		var wg sync.WaitGroup
		var won atomic.Int32
		vm, _ := s.Resource(w.vm)
		for i := range 8 {
			wg.Go(func() {
				status, _, _ := call(t, s, HandlerPrincipal, "PATCH", armURL(w.vm), doc{"tags": doc{"n": fmt.Sprint(round, i)}}, "If-Match", str(vm, "etag"))
				if status == 200 {
					won.Add(1)
				}
				call(t, s, HandlerPrincipal, "PUT", runURL(w.vm, fmt.Sprint("rc", i)), runBody(fmt.Sprint(round)))
				call(t, s, HandlerPrincipal, "GET", "https://management.azure.com/subscriptions/"+s.Subscription()+"/providers/Microsoft.Compute/virtualMachines"+computeAPI, nil)
				if err := s.RestartVM(w.vm); err != nil {
					t.Error(err)
				}
				s.VMs()
				s.Writes("")
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("round %d: %d writers won", round, won.Load())
		}
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			if vm, _ := s.Resource(w.vm); str(vm, "properties", "provisioningState") == "Succeeded" {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the VM stays in transition")
			}
		}
	}
	ok(t, s.WaitDelivered(ctx(t)))
}

// Close ends everything, with guests running and deliveries failing.
func TestCloseLeavesNothingBehind(t *testing.T) {
	base := goleak.IgnoreCurrent()
	s, err := Start(Options{EmitEvents: true})
	ok(t, err)
	w := small(t, s)
	h := newHook(t, func(int) int { return 503 })
	ok(t, s.Subscribe(t.Context(), Subscription{Name: "a", Topic: TopicSubscription, URL: h.url}))
	s.SetDelivery(Delivery{RetryScale: 1})
	s.SetGuest(w.vm, &fakeGuest{hold: make(chan struct{})})
	call(t, s, HandlerPrincipal, "PUT", runURL(w.vm, "rc"), runBody("1"))
	s.SetKnobs(func(k *Knobs) { k.Operation = time.Hour })
	call(t, s, HandlerPrincipal, "PATCH", armURL(w.vm), doc{"tags": doc{}})
	ok(t, s.RestartVM(w.vm))
	ok(t, s.Close())
	goleak.VerifyNone(t, base, goleak.IgnoreTopFunction("net/http/httptest.(*Server).goServe.func1"), goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"))
}
