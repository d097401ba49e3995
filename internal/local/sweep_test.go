package local_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/ledger"
	"cvmguard/internal/local"
)

// TestTheSweepFindsWhatEventsLost loses every event, and leaves a dead letter of
// Event Grid's: the sweep puts both VMs on the loop.
func TestTheSweepFindsWhatEventsLost(t *testing.T) {
	w := world(t, local.Options{Mode: "observe"})
	var ids []string
	for _, name := range []string{"vm-lost", "vm-given-up"} {
		id, err := w.Sim.AddVM(azuresim.VMSpec{Name: name, Kind: "standard-gen2", Created: time.Now().Add(-time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	w.Sim.SetDelivery(azuresim.Delivery{LoseEvery: 1})
	if err := w.Publish(t.Context(), []azuresim.Event{w.Sim.VMEvent(ids[0], "write", true)}); err != nil {
		t.Fatal(err)
	}
	event := w.Sim.VMEvent(ids[1], "write", true).EventGrid()
	event["deadLetterReason"], event["deliveryAttempts"] = "MaxDeliveryAttemptsExceeded", 30
	body, err := json.Marshal([]any{event})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Storage.Blobs().Create(t.Context(), ledger.ContainerDeadLetter, "CVMGUARD/2026/1/2/3/a.json", body); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(w.Host().URL()+"/admin/functions/sweep", "application/json", strings.NewReader(`{"input":""}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("starting the sweep by hand: %d", resp.StatusCode)
	}
	rest(t, w, ids)
	left := 0
	if err := w.Storage.Blobs().List(t.Context(), ledger.ContainerDeadLetter, "", func(string) bool { left++; return true }); err != nil {
		t.Fatal(err)
	}
	if left != 0 {
		t.Errorf("%d dead letters are left", left)
	}
}
