package reconcile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
)

// Message is what the queue `reconcile` carries: an object to look at, why, and
// for a look-again the `next look` that it stands for.
type Message struct {
	VM     string       `json:"vm,omitempty"`
	Shared string       `json:"shared,omitempty"`
	Cause  ledger.Cause `json:"cause"`
	Due    time.Time    `json:"due,omitzero"`
	DryRun bool         `json:"dryrun,omitempty"`
}

// maxMessage is the longest message that is read, in bytes.
const maxMessage = 48 << 10

// anyCause is a cause as somebody else may write it: it decides little, so what is
// unknown in it is passed over, and its time may be called time.
type anyCause ledger.Cause

// UnmarshalJSON reads a cause leniently.
func (c *anyCause) UnmarshalJSON(b []byte) error {
	var wide struct {
		ledger.Cause
		Time time.Time `json:"time"`
	}
	if err := json.Unmarshal(b, &wide); err != nil {
		return fmt.Errorf("its cause: %w", err)
	}
	if wide.At.IsZero() {
		wide.At = wide.Time
	}
	*c = anyCause(wide.Cause)
	return nil
}

// DecodeMessage reads a message strictly but for its cause: unknown members, two
// objects or none, and malformed ids are fault.Invalid.
func DecodeMessage(text []byte) (Message, error) {
	const op = "reading a queue message"
	if len(text) > maxMessage {
		return Message{}, fault.New(fault.Invalid, op, "", "it has %d bytes, the most is %d", len(text), maxMessage)
	}
	var wire struct {
		Message
		Cause anyCause `json:"cause"` // in the place of Message's
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&wire); err != nil {
		return Message{}, fault.New(fault.Invalid, op, "", "%w; a message is {\"vm\":\"/subscriptions/…\",\"cause\":{\"kind\":\"rerun\"}}", err)
	}
	m := wire.Message
	m.Cause = ledger.Cause(wire.Cause)
	if _, err := d.Token(); err != io.EOF {
		return Message{}, fault.New(fault.Invalid, op, "", "there is text after the JSON object")
	}
	if _, err := objectOf(m); err != nil {
		return Message{}, err
	}
	// Rows keep times in UTC, where the year must have four digits too.
	for member, t := range map[string]*time.Time{"cause.at": &m.Cause.At, "due": &m.Due} {
		*t = t.UTC()
		if y := t.Year(); y < 1 || y > 9999 {
			return Message{}, fault.New(fault.Invalid, op, "", "%s is in the year %d of UTC; give a time of the years 1 to 9999", member, y)
		}
	}
	return m, nil
}

// Encode gives the message's text.
func (m Message) Encode() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("encoding a message of plain fields: %v", err)) // cannot happen
	}
	return b
}

// Object is what the loop turns on: a VM or a shared object.
type Object struct {
	Kind   cvm.SharedKind // "" for a VM
	ID     string         // as the message spells it
	Table  string
	PK, RK string
}

// Chain is the object's key in URLs and in record names.
func (o Object) Chain() string { return o.PK + "-" + o.RK }

// IsVM says whether the object is a VM.
func (o Object) IsVM() bool { return o.Kind == "" }

// message is the object's message for a cause, and for a look-again its time.
func (o Object) message(c ledger.Cause, due time.Time) Message {
	m := Message{Cause: c, Due: due}
	if o.IsVM() {
		m.VM = o.ID
	} else {
		m.Shared = o.ID
	}
	return m
}

func objectOf(m Message) (Object, error) {
	const op = "reading a queue message"
	switch {
	case (m.VM == "") == (m.Shared == ""):
		return Object{}, fault.New(fault.Invalid, op, "", "exactly one of vm and shared must be given")
	case m.VM != "":
		return VMObject(m.VM)
	default:
		return SharedObject(m.Shared)
	}
}

// VMObject is the loop's object for a VM's ARM id.
func VMObject(id string) (Object, error) {
	vm, err := cvm.ParseVMID(id)
	if err != nil {
		return Object{}, err
	}
	return Object{ID: string(vm), Table: ledger.TableVMs, PK: strings.ToLower(vm.Subscription()), RK: cvm.RowKey(id)}, nil
}

// SharedObject is the loop's object for a disk encryption set's or vault's ARM
// id, a key's URL (its version is dropped), <subscription>/regions/<region> or
// <subscription>/operations/<hash>.
func SharedObject(id string) (Object, error) {
	o := Object{ID: id, Table: ledger.TableShared}
	low := strings.ToLower(id)
	switch {
	case strings.HasPrefix(low, "https://"):
		k, err := cvm.ParseKeyID(id)
		if err != nil {
			return Object{}, err
		}
		o.Kind, o.ID, o.PK = cvm.SharedKey, string(k.Versionless()), ledger.KeysPartition
	case strings.Contains(low, "/diskencryptionsets/"):
		d, err := cvm.ParseDESID(id)
		if err != nil {
			return Object{}, err
		}
		o.Kind, o.PK = cvm.SharedDES, strings.ToLower(d.Subscription())
	case strings.Contains(low, "/providers/microsoft.keyvault/"):
		v, err := cvm.ParseVaultID(id)
		if err != nil {
			return Object{}, err
		}
		o.Kind, o.PK = cvm.SharedVault, strings.ToLower(v.Subscription())
	case strings.Contains(low, "/operations/"):
		sub, hash, err := ledger.ParseOperationID(id)
		if err != nil {
			return Object{}, err
		}
		o.Kind, o.PK, o.ID = cvm.SharedOperation, sub, ledger.OperationID(sub, hash)
	default:
		r, err := cvm.ParseRegionID(id)
		if err != nil {
			return Object{}, fault.New(fault.Invalid, "reading a shared object's id", id, "it is neither a disk encryption set, a vault, a key's URL, <subscription>/regions/<region> nor <subscription>/operations/<hash>")
		}
		o.Kind, o.ID, o.PK = cvm.SharedRegion, string(r), r.Subscription()
	}
	o.RK = cvm.RowKey(o.ID)
	return o, nil
}
