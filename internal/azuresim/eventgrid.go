package azuresim

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"
)

// The system topics. Custom topics have names of their own (AddTopic).
const (
	TopicSubscription = "subscription" // Resource Manager's events
	TopicKeyVault     = "key-vault"    // Key Vault's
)

// TopicSpec is a custom topic to make.
type TopicSpec struct {
	Name        string
	Location    string // "": the simulator's
	CloudEvents bool   // input schema CloudEvents 1.0; else Event Grid's
	// StandIn lets events keep the topic that the publisher gave them, as if a
	// system topic had published them. A real custom topic sets its own id and
	// refuses another.
	StandIn bool
}

// Topic is a custom topic that was made.
type Topic struct {
	Endpoint string // https://<name>.<location>-1.eventgrid.azure.net/api/events
	Key      string // for aeg-sas-key
}

type topic struct {
	TopicSpec
	id, key string
}

// Delivery is how events are delivered. The zero value is: each once, in order of
// publication as far as parallel deliveries are, retries a thousand times quicker
// than Azure's.
type Delivery struct {
	Copies     int           // how often each event is delivered; 0: once
	LoseEvery  int           // every n-th publication to a subscription is never delivered; 0: none
	Shuffle    bool          // the deliveries of one publication in random order
	Spread     time.Duration // deliveries are begun at random moments within this time
	RetryScale float64       // of the real retry schedule; 0: 0.001
	Parallel   int           // deliveries at once; 0: 8
}

// DeliveryCounts is what became of events so far.
type DeliveryCounts struct {
	Published    int `json:"published"` // events times matching subscriptions
	Lost         int `json:"lost"`
	Duplicated   int `json:"duplicated"`
	Attempts     int `json:"attempts"`
	Delivered    int `json:"delivered"`
	DeadLettered int `json:"deadLettered"`
	Dropped      int `json:"dropped"` // given up without a dead-letter destination
}

type eventGrid struct {
	s      *Sim
	client *http.Client

	mu      sync.Mutex
	topics  map[string]*topic // by host
	subs    []*subscription
	how     Delivery
	count   DeliveryCounts
	rnd     *rand.Rand
	gate    chan struct{}
	pending int
	idle    chan struct{} // closed when pending becomes 0
}

func newEventGrid(s *Sim, r *rand.Rand) *eventGrid {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	return &eventGrid{
		s: s, rnd: r, topics: map[string]*topic{}, gate: make(chan struct{}, 8), idle: make(chan struct{}),
		client: &http.Client{Transport: t, Timeout: 30 * time.Second}, // Event Grid waits 30 s for an answer
	}
}

// AddTopic makes a custom topic.
func (s *Sim) AddTopic(spec TopicSpec) Topic {
	loc := region(orElse(spec.Location, s.opt.Location))
	host := strings.ToLower(spec.Name) + "." + loc + "-1.eventgrid.azure.net"
	t := &topic{
		TopicSpec: spec,
		id:        "/subscriptions/" + s.opt.Subscription + "/resourceGroups/rg-events/providers/" + typeTopic + "/" + spec.Name,
		key:       base64.StdEncoding.EncodeToString(s.sign("topic " + host)),
	}
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	s.events.topics[host] = t
	return Topic{Endpoint: "https://" + host + "/api/events", Key: t.key}
}

// SetDelivery changes how events are delivered, from the next publication on.
func (s *Sim) SetDelivery(d Delivery) {
	g := s.events
	g.mu.Lock()
	defer g.mu.Unlock()
	g.how = d
	if n := d.Parallel; n > 0 && n != cap(g.gate) {
		g.gate = make(chan struct{}, n)
	}
}

// Deliveries counts what became of events so far.
func (s *Sim) Deliveries() DeliveryCounts {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	return s.events.count
}

// WaitDelivered waits until no delivery and no retry is under way.
func (s *Sim) WaitDelivered(ctx context.Context) error {
	g := s.events
	for {
		g.mu.Lock()
		n, idle := g.pending, g.idle
		g.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d event deliveries: %w", n, ctx.Err())
		case <-s.ctx.Done():
			return fmt.Errorf("waiting for %d event deliveries: the simulator was closed", n)
		}
	}
}

// Publish publishes events to a topic from within the process: what a scene does
// that has no publisher of its own.
func (s *Sim) Publish(topicName string, events ...Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events.publish(topicName, events)
}

func (s *Sim) routePublish(x *exchange) {
	s.events.mu.Lock()
	t := s.events.topics[x.host]
	s.events.mu.Unlock()
	if t == nil {
		x.fail(http.StatusNotFound, "NotFound", "no topic answers at "+x.host)
		return
	}
	x.action, x.scope, x.data, x.write = "Microsoft.EventGrid/events/send/action", t.id, true, true
	if key := x.r.Header.Get("aeg-sas-key"); key != "" {
		if subtle.ConstantTimeCompare([]byte(key), []byte(t.key)) != 1 {
			x.fail(http.StatusUnauthorized, "Unauthorized", "The request authorization key is not authorized for this topic.")
			return
		}
		x.free = true
	} else {
		p, why := x.bearer("https://eventgrid.azure.net")
		if p == nil {
			x.fail(http.StatusUnauthorized, "Unauthorized", "Request must contain one of the following authorization signature: aeg-sas-token, aeg-sas-key; "+why+".")
			return
		}
		x.principal = p
	}
	if x.r.Method != http.MethodPost || x.path != "/api/events" {
		x.fail(http.StatusNotFound, "NotFound", "events are published by POST /api/events")
		return
	}
	if len(x.body) > 1<<20 {
		x.fail(http.StatusRequestEntityTooLarge, "PayloadTooLarge", "The maximum size (1048576) has been exceeded.")
		return
	}
	x.exec = func() {
		events, why := t.decode(x.r.Header.Get("Content-Type"), x.body)
		if why != "" {
			x.fail(http.StatusBadRequest, "BadRequest", why)
			return
		}
		s.events.publish(t.Name, events)
		x.reply(http.StatusOK, nil)
	}
}

// decode reads a publication in the topic's schema; why is what is wrong with it.
func (t *topic) decode(contentType string, body []byte) (out []Event, why string) {
	cloud := strings.Contains(contentType, "cloudevents")
	if cloud != t.CloudEvents {
		return nil, "This resource is configured to receive events in the other schema than the content type '" + contentType + "' says."
	}
	var raw []doc
	if err := json.Unmarshal(body, &raw); err != nil {
		var one doc
		if json.Unmarshal(body, &one) != nil || !cloud {
			return nil, "The events are not a JSON array: " + err.Error()
		}
		raw = []doc{one}
	}
	for _, d := range raw {
		e := Event{ID: str(d, "id"), Subject: str(d, "subject"), Type: str(d, "eventType"), Topic: str(d, "topic"), DataVersion: str(d, "dataVersion")}
		when := str(d, "eventTime")
		if cloud {
			e.Type, e.Topic, when = str(d, "type"), str(d, "source"), str(d, "time")
		}
		e.Data, _ = d["data"].(doc)
		at, err := time.Parse(time.RFC3339Nano, when)
		e.Time = at
		switch {
		case e.ID == "" || e.Type == "":
			return nil, "An event lacks its id or its type."
		case cloud && (e.Topic == "" || str(d, "specversion") != "1.0"):
			return nil, "A CloudEvent lacks its source, or its specversion is not 1.0."
		case !cloud && (e.Subject == "" || d["dataVersion"] == nil || err != nil):
			return nil, "An event lacks its subject, dataVersion or eventTime."
		case !cloud && !t.StandIn && e.Topic != "" && !same(e.Topic, t.id):
			return nil, "The topic property of an event must be empty or '" + t.id + "'."
		case !cloud && !t.StandIn:
			e.Topic = t.id
		}
		out = append(out, e)
	}
	return out, ""
}
