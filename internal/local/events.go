package local

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/eventgrid/azeventgrid"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/ledger"
)

// sceneTopic stands in for the system topics: a person's events go through it.
const sceneTopic = "cvmguard-scene"

// Subscribe makes the topic and the event subscriptions that infra/ makes in
// Azure: VM events to vm-event, key events to key-event, with dead-lettering.
func (w *World) Subscribe(ctx context.Context) error {
	w.topic = w.Sim.AddTopic(azuresim.TopicSpec{Name: sceneTopic, StandIn: true})
	keys := []string{"Microsoft.KeyVault.KeyNewVersionCreated", "Microsoft.KeyVault.KeyNearExpiry", "Microsoft.KeyVault.KeyExpired"}
	vms := []string{}
	for _, what := range []string{"Write", "Action", "Delete"} {
		for _, how := range []string{"Success", "Failure", "Cancel"} {
			vms = append(vms, "Microsoft.Resources.Resource"+what+how)
		}
	}
	subs := []azuresim.Subscription{
		{Name: "vm-event", Topic: sceneTopic, URL: w.Host().WebhookURL("vm-event"), EventTypes: vms},
		{Name: "key-event", Topic: sceneTopic, URL: w.Host().WebhookURL("key-event"), EventTypes: keys},
		{Name: "vm-event-system", Topic: azuresim.TopicSubscription, URL: w.Host().WebhookURL("vm-event"), EventTypes: vms},
		{Name: "key-event-system", Topic: azuresim.TopicKeyVault, URL: w.Host().WebhookURL("key-event"), EventTypes: keys},
	}
	for _, s := range subs {
		s.DeadLetter = w.deadLetter
		if err := w.Sim.Subscribe(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// deadLetter puts what Event Grid gave up where Event Grid puts it.
func (w *World) deadLetter(d azuresim.DeadLetter) {
	body, err := json.Marshal([]any{d.Body})
	name := fmt.Sprintf("%s/%s/%d.json", strings.ToUpper(d.Subscription), time.Now().UTC().Format("2006/1/2/15"), time.Now().UnixNano())
	if err == nil {
		err = w.Storage.Blobs().Create(context.Background(), ledger.ContainerDeadLetter, name, body)
	}
	if err != nil {
		w.opts.Log.Error("a dead letter was lost", "error", err)
	}
}

// Publish sends events to the scene's topic with the SDK's publisher; Event Grid's
// stand-in delivers them to the host's webhook.
func (w *World) Publish(ctx context.Context, events []azuresim.Event) error {
	if len(events) == 0 {
		return nil
	}
	c, err := azeventgrid.NewClientWithSharedKeyCredential(w.topic.Endpoint, azcore.NewKeyCredential(w.topic.Key),
		&azeventgrid.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: &http.Client{Transport: w.Sim.Transport()}}})
	if err != nil {
		return fmt.Errorf("making the publisher: %w", err)
	}
	out := make([]azeventgrid.Event, len(events))
	for i, e := range events {
		out[i] = e.ForPublisher()
	}
	if _, err := c.PublishEvents(ctx, out, nil); err != nil {
		return fmt.Errorf("publishing %d events: %w", len(events), err)
	}
	return nil
}
