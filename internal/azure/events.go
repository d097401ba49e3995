package azure

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/eventgrid/azsystemevents"

	"cvmguard/internal/fault"
)

// MaxEvent is how long an event may be, in bytes: what is as long as Event Grid's
// own bound is not read.
const MaxEvent = 1 << 20

// Schema is the envelope that an event came in.
type Schema string

// The schemas.
const (
	SchemaEventGrid   Schema = "eventgrid"
	SchemaCloudEvents Schema = "cloudevents-1.0"
)

// Event is what cvmguard takes of an event. Who caused it (the claims in its
// data) is left behind: it is personal data and of no use here.
type Event struct {
	Schema      Schema
	ID          string
	Type        string
	Subject     string
	Topic       string    // topic, or source
	Time        time.Time // zero if the event has none that can be read
	Operation   string    // data.operationName
	ResourceURI string    // data.resourceUri
	Status      string    // data.status
	Key         *KeyEvent // for Key Vault's key events
	DeadLetter  *DeadLetter
}

// KeyEvent is what Key Vault says of a key's version.
type KeyEvent struct {
	ID, Vault, Name, Version string
	NotBefore, Expires       time.Time // zero if it has none
}

// DeadLetter is what Event Grid adds to an event that it could not deliver.
type DeadLetter struct {
	Reason, LastOutcome    string
	Attempts               int
	Published, LastAttempt time.Time
}

// The reasons, as codes, for which ParseEvent refuses.
const (
	EventTooLong       = "event-too-long"
	EventNotJSON       = "event-not-json"
	EventUnknownSchema = "event-unknown-schema"
	EventNoSubject     = "event-no-subject"
)

// flexible takes a text or a number as text and null as "": the documentation's
// samples show texts where the service sends numbers.
type flexible string

func (f *flexible) UnmarshalJSON(b []byte) error {
	var s string
	switch {
	case len(b) > 0 && b[0] == '"':
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
	case bytes.Equal(b, []byte("null")), len(b) > 0 && (b[0] == '{' || b[0] == '['):
	default:
		s = string(b)
	}
	*f = flexible(strings.TrimSpace(s))
	return nil
}

// envelope is both schemas at once; members are compared without regard to case,
// which also brings the two spellings of the dead-letter members together.
type envelope struct {
	SpecVersion flexible        `json:"specversion"`
	ID          flexible        `json:"id"`
	Subject     flexible        `json:"subject"`
	EventType   flexible        `json:"eventType"`
	Type        flexible        `json:"type"`
	Topic       flexible        `json:"topic"`
	Source      flexible        `json:"source"`
	EventTime   flexible        `json:"eventTime"`
	Time        flexible        `json:"time"`
	Data        json.RawMessage `json:"data"`
	DataBase64  []byte          `json:"data_base64"`

	DeadLetterReason        flexible `json:"deadLetterReason"`
	DeliveryAttempts        flexible `json:"deliveryAttempts"`
	LastDeliveryOutcome     flexible `json:"lastDeliveryOutcome"`
	PublishTime             flexible `json:"publishTime"`
	LastDeliveryAttemptTime flexible `json:"lastDeliveryAttemptTime"`
}

// SplitEvents takes a delivery apart: the events of an array, or the one object.
func SplitEvents(raw []byte) ([]json.RawMessage, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || raw[0] != '[' {
		return []json.RawMessage{raw}, nil
	}
	var out []json.RawMessage
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, refuseEvent(EventNotJSON, "the array of events is not JSON, or was cut short")
	}
	return out, nil
}

// ParseEvent reads one event in either schema, or an array with one event. It
// refuses (fault.Invalid, with one of the reasons above as its code) what can't
// be an event; it does not say whether the event matters, Classify does.
func ParseEvent(raw []byte) (Event, error) {
	if len(raw) >= MaxEvent {
		return Event{}, refuseEvent(EventTooLong, "it is "+strconv.Itoa(len(raw))+" bytes long")
	}
	parts, err := SplitEvents(raw)
	if err != nil {
		return Event{}, err
	}
	if len(parts) != 1 {
		return Event{}, refuseEvent(EventUnknownSchema, "an array of "+strconv.Itoa(len(parts))+" events where one is expected")
	}
	raw = bytes.TrimSpace(parts[0])
	if !json.Valid(raw) {
		return Event{}, refuseEvent(EventNotJSON, "it is not JSON, or was cut short")
	}
	if raw[0] != '{' {
		return Event{}, refuseEvent(EventUnknownSchema, "it is not a JSON object")
	}
	var e envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		return Event{}, refuseEvent(EventUnknownSchema, "its members are not an event's")
	}
	var ev Event
	switch {
	case e.SpecVersion != "" && !strings.HasPrefix(string(e.SpecVersion), "1."):
		return Event{}, refuseEvent(EventUnknownSchema, "its specversion is "+quote(string(e.SpecVersion))+", not 1.0")
	case e.SpecVersion != "" && isName(e.Type):
		ev = Event{Schema: SchemaCloudEvents, Type: string(e.Type), Topic: string(e.Source), Time: eventTime(e.Time)}
	case isName(e.EventType):
		ev = Event{Schema: SchemaEventGrid, Type: string(e.EventType), Topic: string(e.Topic), Time: eventTime(e.EventTime)}
	default:
		return Event{}, refuseEvent(EventUnknownSchema, "it has neither an eventType nor a specversion and type")
	}
	ev.ID, ev.Subject = string(e.ID), string(e.Subject)
	if ev.Subject == "" && ev.Type != azsystemevents.TypeSubscriptionValidation {
		return Event{}, refuseEvent(EventNoSubject, "it has no subject")
	}
	data := []byte(e.Data)
	if len(data) == 0 {
		data = e.DataBase64
	}
	ev.readData(data)
	if e.DeadLetterReason != "" {
		n, err := strconv.Atoi(string(e.DeliveryAttempts))
		if err != nil {
			n = 0
		}
		ev.DeadLetter = &DeadLetter{Reason: string(e.DeadLetterReason), LastOutcome: string(e.LastDeliveryOutcome), Attempts: n,
			Published: eventTime(e.PublishTime), LastAttempt: eventTime(e.LastDeliveryAttemptTime)}
	}
	return ev, nil
}

// isName says whether an event's type could be one: a name, not a number or a flag.
func isName(t flexible) bool {
	return t != "" && t != "true" && t != "false" && (t[0] < '0' || t[0] > '9') && t[0] != '-'
}

func refuseEvent(code, why string) error {
	return &fault.Error{Kind: fault.Invalid, Op: "reading an event", Code: code, Err: &cause{text: why},
		Next: "look at its bytes in the inbox, and at what the subscription sends"}
}

// eventTime reads a time; one that isn't within the years 1 to 9999 in UTC is
// unknown, as JSON and a row's columns can't hold it.
func eventTime(s flexible) time.Time {
	t, err := time.Parse(time.RFC3339Nano, string(s))
	if t = t.UTC(); err != nil || t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

// readData takes what it knows of an event's data. Data of another shape leaves
// the members empty: the subject alone is enough to look at a VM.
func (e *Event) readData(data []byte) {
	if len(data) > 0 && data[0] == '"' { // an object sent as text
		var s string
		if json.Unmarshal(data, &s) == nil {
			data = []byte(s)
		}
	}
	var m map[string]json.RawMessage
	if json.Unmarshal(data, &m) != nil {
		return
	}
	members := make(map[string]string, len(m))
	for name, v := range m {
		var f flexible
		if f.UnmarshalJSON(v) == nil {
			members[strings.ToLower(strings.TrimSpace(name))] = string(f) // a sample's names have stray spaces
		}
	}
	e.Operation, e.ResourceURI, e.Status = members["operationname"], members["resourceuri"], members["status"]
	switch e.Type {
	case azsystemevents.TypeKeyVaultKeyNewVersionCreated, azsystemevents.TypeKeyVaultKeyNearExpiry, azsystemevents.TypeKeyVaultKeyExpired:
		e.Key = &KeyEvent{ID: members["id"], Vault: members["vaultname"], Name: members["objectname"], Version: members["version"],
			NotBefore: unixSeconds(members["nbf"]), Expires: unixSeconds(members["exp"])}
		if e.Key.Name == "" {
			e.Key.Name = e.Subject
		}
	}
}

func unixSeconds(s string) time.Time {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f > 0 && f < 253402300800) { // the year 10000
		return time.Time{}
	}
	return time.Unix(int64(f), 0).UTC()
}

// keyURL is the key's URL as the event gives it, "" if it gives none.
func (k *KeyEvent) keyURL() string {
	if u, err := url.Parse(k.ID); err == nil && u.Host != "" {
		return k.ID
	}
	if k.Vault != "" && k.Name != "" && !strings.ContainsAny(k.Vault+k.Name, "/.:?#@") {
		return "https://" + strings.ToLower(k.Vault) + ".vault.azure.net/keys/" + k.Name
	}
	return ""
}
