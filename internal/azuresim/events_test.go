package azuresim

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/messaging"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/eventgrid/azeventgrid"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

// hook is a webhook that keeps what it gets and answers as told.
type hook struct {
	mu     sync.Mutex
	got    []doc
	head   []http.Header
	status func(n int) int
	url    string
}

func newHook(t *testing.T, status func(n int) int) *hook {
	t.Helper()
	h := &hook{status: status}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	h.url = srv.URL
	return h
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if r.Method == http.MethodOptions {
		w.Header().Set("WebHook-Allowed-Origin", r.Header.Get("WebHook-Request-Origin"))
		return
	}
	var e doc
	if json.Unmarshal(b, &e) != nil {
		var a []doc
		if json.Unmarshal(b, &a) != nil || len(a) != 1 {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		e = a[0]
	}
	if r.Header.Get("aeg-event-type") == "SubscriptionValidation" {
		if err := json.NewEncoder(w).Encode(doc{"validationResponse": str(e, "data", "validationCode")}); err != nil {
			panic(err)
		}
		return
	}
	h.mu.Lock()
	h.got, h.head = append(h.got, e), append(h.head, r.Header)
	n := len(h.got)
	h.mu.Unlock()
	if h.status != nil {
		w.WriteHeader(h.status(n))
	}
}

func (h *hook) events() []doc { h.mu.Lock(); defer h.mu.Unlock(); return append([]doc{}, h.got...) }

func (h *hook) ids() string {
	var out []string
	for _, e := range h.events() {
		out = append(out, str(e, "id"))
	}
	return strings.Join(out, " ")
}

func publisher(t *testing.T, s *Sim, tp Topic) *azeventgrid.Client {
	t.Helper()
	c, err := azeventgrid.NewClientWithSharedKeyCredential(tp.Endpoint, azcore.NewKeyCredential(tp.Key), &azeventgrid.ClientOptions{ClientOptions: s.testOptions(t).ClientOptions})
	ok(t, err)
	return c
}

func TestPublishedEventsAreDeliveredInBothSchemas(t *testing.T) {
	s := start(t, Options{Location: "northeurope"})
	w := small(t, s)
	for _, cloud := range []bool{false, true} {
		name := map[bool]string{false: "eg", true: "ce"}[cloud]
		h := newHook(t, nil)
		topic := s.AddTopic(TopicSpec{Name: name, CloudEvents: cloud, StandIn: true})
		ok(t, s.Subscribe(ctx(t), Subscription{Name: name, Topic: name, URL: h.url, CloudEvents: cloud}))
		e := s.VMEvent(w.vm, "write", true)
		c := publisher(t, s, topic)
		if cloud {
			ce, err := e.ForCloudPublisher()
			ok(t, err)
			_, err = c.PublishCloudEvents(ctx(t), []messaging.CloudEvent{ce}, nil)
			ok(t, err)
		} else {
			_, err := c.PublishEvents(ctx(t), []azeventgrid.Event{e.ForPublisher()}, nil)
			ok(t, err)
		}
		ok(t, s.WaitDelivered(ctx(t)))
		got := h.events()
		if len(got) != 1 || str(got[0], "id") != e.ID || str(got[0], "subject") != e.Subject {
			t.Fatalf("%s: got %v", name, got)
		}
		h.mu.Lock()
		head := h.head[0]
		h.mu.Unlock()
		if head.Get("aeg-event-type") != "Notification" || head.Get("aeg-delivery-count") != "0" || strings.Contains(head.Get("Content-Type"), "cloudevents") != cloud {
			t.Fatalf("%s: headers %v", name, head)
		}
		suffix := map[bool]string{false: ".eventgrid.json", true: ".cloudevents.json"}[cloud]
		sameShape(t, got[0], vector(t, "event-vm-write-success"+suffix))
		_, err := publisher(t, s, Topic{Endpoint: topic.Endpoint, Key: "wrong"}).PublishEvents(ctx(t), []azeventgrid.Event{e.ForPublisher()}, nil)
		wantError(t, err, 401, "Unauthorized")
	}
	_, err := publisher(t, s, Topic{Endpoint: "https://eg.northeurope-1.eventgrid.azure.net/api/events", Key: s.AddTopic(TopicSpec{Name: "eg"}).Key}).PublishEvents(ctx(t),
		[]azeventgrid.Event{{ID: to.Ptr("1"), Subject: to.Ptr("s"), EventType: to.Ptr("t"), EventTime: to.Ptr(clock), DataVersion: to.Ptr("1"), Topic: to.Ptr("/another"), Data: doc{}}}, nil)
	wantError(t, err, 400, "BadRequest")
	_, err = publisher(t, s, s.AddTopic(TopicSpec{Name: "ce", CloudEvents: true})).PublishEvents(ctx(t), []azeventgrid.Event{s.VMEvent(w.vm, "write", true).ForPublisher()}, nil)
	wantError(t, err, 400, "BadRequest")
}

func TestEventBodiesOfAllVectors(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	key := func(kind string) Event { e, _ := s.KeyEvent(w.key, kind); return e }
	ext := s.resourceEvent(armEvent{action: typeExtension + "/write", target: w.vm + "/extensions/GuestAttestation", method: "PUT", create: true})
	failed := s.resourceEvent(armEvent{action: typeVM + "/write", target: w.vm, method: "PUT", failed: true})
	for name, e := range map[string]Event{
		"vm-write-success": s.VMEvent(w.vm, "write", true), "vm-write-success-update": s.VMEvent(w.vm, "write", false), "vm-delete-success": s.VMEvent(w.vm, "delete", false),
		"vm-action-restart": s.VMEvent(w.vm, "restart", false), "vm-action-start": s.VMEvent(w.vm, "start", false), "vm-action-deallocate": s.VMEvent(w.vm, "deallocate", false),
		"vm-extension-write-success": ext, "vm-write-failure": failed, "des-write-success": s.DESEvent(w.des),
		"key-expired": key("KeyExpired"), "key-nearexpiry": key("KeyNearExpiry"), "key-newversion": key("KeyNewVersionCreated"),
	} {
		t.Run(name, func(t *testing.T) {
			for suffix, got := range map[string]doc{".eventgrid.json": e.EventGrid(), ".cloudevents.json": e.CloudEvent()} {
				want := vector(t, "event-"+name+suffix)
				sameShape(t, got, want)
				for _, p := range [][]string{{"eventType"}, {"type"}, {"dataVersion"}, {"data", "operationName"}, {"data", "status"}} {
					if at(got, p...) != at(want, p...) {
						t.Errorf("%s: %v is %v, want %v", suffix, p, at(got, p...), at(want, p...))
					}
				}
				if strings.Contains(str(want, "subject"), "/resourcegroups/") != strings.Contains(str(got, "subject"), "/resourcegroups/") {
					t.Errorf("the subject is spelled %s", str(got, "subject"))
				}
				if (at(want, "data", "httpRequest") == nil) != (at(got, "data", "httpRequest") == nil) {
					t.Error("httpRequest")
				}
			}
		})
	}
}

// The events that the simulator does not make itself pass through a topic whole.
func TestForeignEventsPassThrough(t *testing.T) {
	s := start(t, Options{})
	h := newHook(t, nil)
	topic := s.AddTopic(TopicSpec{Name: "eg", StandIn: true})
	ok(t, s.Subscribe(ctx(t), Subscription{Name: "eg", Topic: "eg", URL: h.url}))
	names := []string{"arn-health-annotated", "arn-health-availability", "arn-vm-createdorupdated", "arn-vm-deleted", "key-nearexpiry-docs-quirks"}
	for _, n := range names {
		status, _, body := call(t, s, "", "POST", topic.Endpoint+"?api-version=2018-01-01", []any{vector(t, "event-"+n+".eventgrid.json")}, "aeg-sas-key", topic.Key, "Content-Type", "application/json")
		if status != 200 {
			t.Fatalf("%s: %d %v", n, status, body)
		}
		ok(t, s.WaitDelivered(ctx(t)))
		got := h.events()
		sameShape(t, got[len(got)-1], vector(t, "event-"+n+".eventgrid.json"))
	}
	c := newHook(t, nil)
	cloud := s.AddTopic(TopicSpec{Name: "ce", CloudEvents: true})
	ok(t, s.Subscribe(ctx(t), Subscription{Name: "ce", Topic: "ce", URL: c.url, CloudEvents: true}))
	for _, n := range names {
		status, _, body := call(t, s, "", "POST", cloud.Endpoint+"?api-version=2018-01-01", vector(t, "event-"+n+".cloudevents.json"), "aeg-sas-key", cloud.Key, "Content-Type", "application/cloudevents+json")
		if status != 200 {
			t.Fatalf("%s: %d %v", n, status, body)
		}
	}
	ok(t, s.WaitDelivered(ctx(t)))
	if len(c.events()) != len(names) {
		t.Fatalf("%d of %d", len(c.events()), len(names))
	}
}

func TestHandshake(t *testing.T) {
	s := start(t, Options{})
	var first doc
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var a []doc
		if err := json.NewDecoder(r.Body).Decode(&a); err == nil {
			first = a[0]
		}
		w.WriteHeader(http.StatusOK)
	}))
	defer srv.Close()
	if err := s.Subscribe(ctx(t), Subscription{Name: "x", Topic: TopicSubscription, URL: srv.URL}); err == nil || !strings.Contains(err.Error(), "handshake") {
		t.Fatal(err)
	}
	sameShape(t, first, vector(t, "event-subscription-validation.eventgrid.json"))
	if err := s.Subscribe(ctx(t), Subscription{Name: "x", Topic: TopicSubscription, URL: srv.URL, CloudEvents: true}); err == nil {
		t.Fatal("a webhook that allows no origin was subscribed")
	}
	if err := s.Subscribe(ctx(t), Subscription{Name: "x", URL: "::"}); err == nil {
		t.Fatal("a bad URL")
	}
}

func TestRetriesAndDeadLetters(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	s.SetDelivery(Delivery{RetryScale: 1e-6})
	flaky := newHook(t, func(n int) int {
		if n < 3 {
			return 503
		}
		return 200
	})
	dead := newHook(t, func(int) int { return 404 })
	refusing := newHook(t, func(int) int { return 400 })
	var mu sync.Mutex
	letters := map[string]DeadLetter{}
	keep := func(d DeadLetter) { mu.Lock(); defer mu.Unlock(); letters[d.Subscription] = d }
	ok(t, s.Subscribe(ctx(t), Subscription{Name: "flaky", Topic: TopicSubscription, URL: flaky.url, DeadLetter: keep}))
	ok(t, s.Subscribe(ctx(t), Subscription{Name: "dead", Topic: TopicSubscription, URL: dead.url, MaxAttempts: 4, DeadLetter: keep}))
	ok(t, s.Subscribe(ctx(t), Subscription{Name: "refusing", Topic: TopicSubscription, URL: refusing.url, CloudEvents: true, DeadLetter: keep}))
	ok(t, s.Subscribe(ctx(t), Subscription{Name: "none", Topic: TopicSubscription, URL: refusing.url}))
	ok(t, s.Subscribe(ctx(t), Subscription{Name: "filtered", Topic: TopicSubscription, URL: refusing.url, Operations: []string{"Microsoft.Compute/disks/write"}}))
	s.Publish(TopicSubscription, s.VMEvent(w.vm, "write", true))
	ok(t, s.WaitDelivered(ctx(t)))
	if n := len(flaky.events()); n != 3 {
		t.Fatalf("flaky got %d deliveries", n)
	}
	if d := letters["dead"]; d.Attempts != 4 || d.Reason != "MaxDeliveryAttemptsExceeded" || d.Outcome != "NotFound" || len(dead.events()) != 4 {
		t.Fatalf("%+v", d)
	}
	if d := letters["refusing"]; d.Attempts != 1 || len(refusing.events()) != 2 {
		t.Fatalf("%+v", d)
	}
	sameShape(t, letters["dead"].Body, vector(t, "deadletter-vm-write.eventgrid.json"))
	sameShape(t, letters["refusing"].Body, vector(t, "deadletter-vm-write.cloudevents.json"))
	if c := s.Deliveries(); c != (DeliveryCounts{Published: 4, Attempts: 9, Delivered: 1, DeadLettered: 2, Dropped: 1}) {
		t.Fatalf("%+v", c)
	}
}

func TestLostDoubledAndShuffledDeliveries(t *testing.T) {
	order := func(seed uint64, d Delivery) (string, DeliveryCounts) {
		s := start(t, Options{Seed: seed})
		h := newHook(t, nil)
		ok(t, s.Subscribe(ctx(t), Subscription{Name: "a", Topic: TopicSubscription, URL: h.url}))
		d.Parallel = 1
		s.SetDelivery(d)
		var events []Event
		for _, id := range []string{"1", "2", "3", "4"} {
			events = append(events, Event{ID: id, Subject: "/x", Type: "t", Time: clock, Data: doc{}})
		}
		s.Publish(TopicSubscription, events...)
		ok(t, s.WaitDelivered(ctx(t)))
		return h.ids(), s.Deliveries()
	}
	if got, _ := order(1, Delivery{}); got != "1 2 3 4" {
		t.Fatal(got)
	}
	if got, c := order(1, Delivery{Copies: 2, LoseEvery: 3}); got != "1 1 2 2 4 4" || c.Lost != 1 || c.Duplicated != 3 {
		t.Fatal(got, c)
	}
	a, _ := order(7, Delivery{Copies: 5, Shuffle: true})
	b, _ := order(7, Delivery{Copies: 5, Shuffle: true})
	if a != b || a == "1 1 1 1 1 2 2 2 2 2 3 3 3 3 3 4 4 4 4 4" || len(strings.Fields(a)) != 20 {
		t.Fatalf("%q, %q", a, b)
	}
}

func TestOwnEventsOfControlPlaneWrites(t *testing.T) {
	s := start(t, Options{EmitEvents: true})
	w := small(t, s)
	h, keys := newHook(t, nil), newHook(t, nil)
	ok(t, s.Subscribe(ctx(t), Subscription{Name: "arm", Topic: TopicSubscription, URL: h.url}))
	ok(t, s.Subscribe(ctx(t), Subscription{Name: "kv", Topic: TopicKeyVault, URL: keys.url, CloudEvents: true}))
	s.SetDelivery(Delivery{Parallel: 1})
	s.SetGuest(w.vm, &fakeGuest{})
	_, hd, _ := call(t, s, HandlerPrincipal, "PUT", runURL(w.vm, "rc"), runBody("1"))
	settle(t, s, hd.Get("Azure-AsyncOperation"))
	call(t, s, HandlerPrincipal, "PATCH", armURL(w.vm), doc{"tags": doc{}})
	call(t, s, HandlerPrincipal, "PATCH", armURL(w.vm), doc{"tags": doc{}}, "If-Match", "stale") // refused: no event
	s.Inject(Fault{Action: "*/deallocate/action", When: Operation})
	vms := compute(t, s, HandlerPrincipal).NewVirtualMachinesClient()
	_, err := vms.BeginDeallocate(ctx(t), "rg-cvm", "vm-cvm-cmk", nil)
	ok(t, err)
	_, err = compute(t, s, HandlerPrincipal).NewDiskEncryptionSetsClient().BeginUpdate(ctx(t), "rg-cvm", "des-cvm",
		armcompute.DiskEncryptionSetUpdate{Properties: &armcompute.DiskEncryptionSetUpdateProperties{RotationToLatestKeyVersionEnabled: to.Ptr(false)}}, nil)
	ok(t, err)
	must[string](t)(s.CreateVM(VMSpec{Name: "vm-new", Kind: "standard-gen1"}))
	ok(t, s.ExpireKey(w.key))
	ok(t, s.ExpireKey(w.hsmKey)) // a Managed HSM has no topic
	ok(t, s.WaitDelivered(ctx(t)))
	want := map[string]int{
		"Microsoft.Resources.ResourceWriteSuccess Microsoft.Compute/virtualMachines/runCommands/write":  1,
		"Microsoft.Resources.ResourceWriteSuccess Microsoft.Compute/virtualMachines/write":              2,
		"Microsoft.Resources.ResourceActionFailure Microsoft.Compute/virtualMachines/deallocate/action": 1,
		"Microsoft.Resources.ResourceWriteSuccess Microsoft.Compute/diskEncryptionSets/write":           1,
	}
	got := map[string]int{}
	for _, e := range h.events() {
		got[str(e, "eventType")+" "+str(e, "data", "operationName")]++
	}
	for k, n := range want {
		if got[k] != n {
			t.Errorf("%s: %d, want %d", k, got[k], n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
	if k := keys.events(); len(k) != 1 || str(k[0], "type") != "Microsoft.KeyVault.KeyExpired" || str(k[0], "subject") != "cvm-os-key" {
		t.Fatalf("%v", k)
	}
}
