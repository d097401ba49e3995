package azuresim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Subscription is an event subscription with a webhook behind it.
type Subscription struct {
	Name        string
	Topic       string // a custom topic's name, TopicSubscription or TopicKeyVault
	URL         string // of the webhook; plain http is allowed here
	CloudEvents bool   // delivery schema; else Event Grid's

	EventTypes        []string // empty: all
	SubjectBeginsWith string   // case aside
	Operations        []string // data.operationName is one of these; empty: all

	MaxAttempts int              // 0: 30
	DeadLetter  func(DeadLetter) // nil: events that were given up are dropped
}

// DeadLetter is an event that was given up, as it would be in the blob.
type DeadLetter struct {
	Subscription string
	Reason       string // MaxDeliveryAttemptsExceeded …
	Attempts     int
	Outcome      string         // of the last attempt
	Body         map[string]any // the event with Event Grid's members added
}

type subscription struct {
	Subscription
	seen int
}

// retrySchedule is Event Grid's: the last one repeats.
var retrySchedule = []time.Duration{
	10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour,
}

// Subscribe makes a subscription after the webhook has answered the handshake:
// in Event Grid's schema a SubscriptionValidationEvent whose code it sends back,
// in CloudEvents an OPTIONS request that it allows.
func (s *Sim) Subscribe(ctx context.Context, sub Subscription) error {
	if _, err := url.ParseRequestURI(sub.URL); err != nil {
		return fmt.Errorf("subscribing %q: the webhook's URL: %w", sub.Name, err)
	}
	handshake := s.events.validate
	if sub.CloudEvents {
		handshake = s.events.askOrigin
	}
	if err := handshake(ctx, sub); err != nil {
		return fmt.Errorf("subscribing %q: the webhook did not pass the handshake: %w", sub.Name, err)
	}
	if sub.MaxAttempts <= 0 {
		sub.MaxAttempts = 30
	}
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	s.events.subs = append(s.events.subs, &subscription{Subscription: sub})
	return nil
}

func (g *eventGrid) validate(ctx context.Context, sub Subscription) error {
	code := guid("validation", sub.Name+sub.URL)
	topicID := "/subscriptions/" + g.s.opt.Subscription
	body, err := json.Marshal([]doc{{
		"id": g.s.id(), "topic": topicID, "subject": "", "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
		"eventTime": g.s.now().Format(eventTime), "metadataVersion": "1", "dataVersion": "1",
		"data": doc{"validationCode": code, "validationUrl": "https://rp-" + g.s.opt.Location + ".eventgrid.azure.net/eventsubscriptions/" + sub.Name + "/validate?id=" + code},
	}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, sub.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header["aeg-event-type"] = []string{"SubscriptionValidation"}
	req.Header["aeg-subscription-name"] = []string{strings.ToUpper(sub.Name)}
	resp, err := g.client.Do(req)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	var v struct {
		Response string `json:"validationResponse"`
	}
	if resp.StatusCode != http.StatusOK || json.Unmarshal(answer, &v) != nil || v.Response != code {
		return fmt.Errorf("it answered %d without the validation code", resp.StatusCode)
	}
	return nil
}

func (g *eventGrid) askOrigin(ctx context.Context, sub Subscription) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodOptions, sub.URL, nil)
	if err != nil {
		return err
	}
	req.Header.Set("WebHook-Request-Origin", "eventgrid.azure.net")
	resp, err := g.client.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if o := resp.Header.Get("WebHook-Allowed-Origin"); resp.StatusCode/100 != 2 || o != "*" && o != "eventgrid.azure.net" {
		return fmt.Errorf("it answered %d and allows the origin %q", resp.StatusCode, o)
	}
	return nil
}

func (sub *subscription) wants(topicName string, e Event) bool {
	return strings.EqualFold(sub.Topic, topicName) &&
		(len(sub.EventTypes) == 0 || has(sub.EventTypes, e.Type)) &&
		strings.HasPrefix(strings.ToLower(e.Subject), strings.ToLower(sub.SubjectBeginsWith)) &&
		(len(sub.Operations) == 0 || has(sub.Operations, str(e.Data, "operationName")))
}

// publish hands events to the subscriptions that want them. Under Sim.mu, which
// Close takes too: no delivery begins after it.
func (g *eventGrid) publish(topicName string, events []Event) {
	if g.s.closed {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	type job struct {
		sub *subscription
		e   Event
	}
	var jobs []job
	for _, sub := range g.subs {
		for _, e := range events {
			if !sub.wants(topicName, e) {
				continue
			}
			sub.seen++
			g.count.Published++
			if g.how.LoseEvery > 0 && sub.seen%g.how.LoseEvery == 0 {
				g.count.Lost++
				continue
			}
			for n := range max(1, g.how.Copies) {
				if n > 0 {
					g.count.Duplicated++
				}
				jobs = append(jobs, job{sub, e})
			}
		}
	}
	if g.how.Shuffle {
		g.rnd.Shuffle(len(jobs), func(i, j int) { jobs[i], jobs[j] = jobs[j], jobs[i] })
	}
	if g.pending == 0 && len(jobs) > 0 {
		g.idle = make(chan struct{})
	}
	g.pending += len(jobs)
	scale := g.how.RetryScale
	if scale <= 0 {
		scale = 0.001
	}
	// One goroutine hands them out in order; each delivery then runs on its own.
	delays := make([]time.Duration, len(jobs))
	for i := range delays {
		if g.how.Spread > 0 {
			delays[i] = time.Duration(g.rnd.Int64N(int64(g.how.Spread)))
		}
	}
	gate := g.gate
	g.s.wg.Add(len(jobs) + 1)
	go func() {
		defer g.s.wg.Done()
		for i, j := range jobs {
			held := false
			if delays[i] == 0 {
				select {
				case gate <- struct{}{}:
					held = true
				case <-g.s.ctx.Done():
				}
			}
			go func() {
				defer g.s.wg.Done()
				g.deliver(j.sub, j.e, gate, held, delays[i], scale)
				g.done()
			}()
		}
	}()
}

func (g *eventGrid) done() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pending--
	if g.pending == 0 {
		close(g.idle)
	}
}

// pause waits and says whether the simulator is still up.
func (g *eventGrid) pause(d time.Duration) bool {
	if d <= 0 {
		return g.s.ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-g.s.ctx.Done():
		return false
	}
}

// deliver tries until the webhook takes the event, refuses it for good or the
// attempts are used up.
func (g *eventGrid) deliver(sub *subscription, e Event, gate chan struct{}, held bool, wait time.Duration, scale float64) {
	published := g.s.now()
	for attempt := 1; ; attempt++ {
		if !held {
			if !g.pause(wait) {
				return
			}
			select {
			case gate <- struct{}{}:
			case <-g.s.ctx.Done():
				return
			}
		}
		status, outcome := g.post(sub, e, attempt)
		<-gate
		held = false
		g.mu.Lock()
		g.count.Attempts++
		good := status >= 200 && status <= 204
		if good {
			g.count.Delivered++
		}
		g.mu.Unlock()
		if good || g.s.ctx.Err() != nil {
			return
		}
		reason := ""
		switch {
		case status == http.StatusBadRequest, status == http.StatusRequestEntityTooLarge:
			reason = "UndeliverableDueToClientError" // the service's word is not known: our choice
		case attempt >= sub.MaxAttempts:
			reason = "MaxDeliveryAttemptsExceeded"
		}
		if reason != "" {
			g.giveUp(sub, e, reason, outcome, attempt, published)
			return
		}
		wait = time.Duration(float64(retrySchedule[min(attempt, len(retrySchedule))-1]) * scale)
	}
}

func (g *eventGrid) post(sub *subscription, e Event, attempt int) (status int, outcome string) {
	var body any = []any{e.EventGrid()}
	contentType := "application/json; charset=utf-8"
	if sub.CloudEvents {
		body, contentType = e.CloudEvent(), "application/cloudevents+json; charset=utf-8"
	}
	b, err := json.Marshal(body)
	if err != nil {
		return http.StatusBadRequest, "GenericError"
	}
	req, err := http.NewRequestWithContext(g.s.ctx, http.MethodPost, sub.URL, bytes.NewReader(b))
	if err != nil {
		return http.StatusBadRequest, "GenericError"
	}
	req.Header.Set("Content-Type", contentType)
	for k, v := range map[string]string{
		"aeg-event-type": "Notification", "aeg-subscription-name": strings.ToUpper(sub.Name),
		"aeg-delivery-count": strconv.Itoa(attempt - 1), "aeg-data-version": e.DataVersion, "aeg-metadata-version": "1",
	} {
		req.Header[k] = []string{v}
	}
	resp, err := g.client.Do(req)
	if err != nil {
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			return 0, "TimedOut"
		}
		return 0, "GenericError"
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil {
		g.s.log.Debug("webhook's answer not read", "err", err)
	}
	if err := resp.Body.Close(); err != nil {
		g.s.log.Debug("webhook's answer not closed", "err", err)
	}
	return resp.StatusCode, strings.ReplaceAll(http.StatusText(resp.StatusCode), " ", "")
}

func (g *eventGrid) giveUp(sub *subscription, e Event, reason, outcome string, attempts int, published time.Time) {
	g.mu.Lock()
	if sub.DeadLetter == nil {
		g.count.Dropped++
	} else {
		g.count.DeadLettered++
	}
	g.mu.Unlock()
	if sub.DeadLetter == nil {
		return
	}
	now := g.s.now().Format(eventTime)
	added := map[string]any{
		"deadLetterReason": reason, "deliveryAttempts": attempts, "lastDeliveryOutcome": outcome,
		"publishTime": published.Format(eventTime), "lastDeliveryAttemptTime": now,
	}
	body := e.EventGrid()
	if sub.CloudEvents {
		body = e.CloudEvent()
	}
	for k, v := range added {
		if sub.CloudEvents {
			k = strings.ToLower(k)
		}
		body[k] = v
	}
	sub.DeadLetter(DeadLetter{Subscription: sub.Name, Reason: reason, Attempts: attempts, Outcome: outcome, Body: body})
}
