package azure

import (
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/eventgrid/azsystemevents"

	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
)

// Decision is what an event asks for: to look at a VM, at whatever hangs on a
// key, or at nothing. Exactly one of VM, Key and Drop is set.
type Decision struct {
	VM   cvm.VMID  // spelled as it came
	Key  cvm.KeyID // without a version, lower case
	Drop string    // why nothing is to be looked at: one of the codes below
	Why  string    // for Drop: one sentence

	// Cause goes with the message. Its At is the event's time, zero if the event
	// has none. Fresh is set for what means a new boot.
	Cause ledger.Cause
}

// The reasons for which an event is dropped.
const (
	DropOtherEvent    = "other-event-type"
	DropOtherResource = "other-resource-type"
	DropRunCommand    = "run-command-echo"
	DropScaleSet      = "scale-set"
	DropMalformedID   = "malformed-id"
	DropMalformedKey  = "malformed-key"
)

// family is which kind of event a type is.
type family int

const (
	otherFamily    family = iota
	armFamily             // a write, action or delete through Resource Manager, whatever became of it
	resourceFamily        // Resource Notifications of created, updated and deleted resources
	healthFamily          // Resource Notifications of health
	keyFamily             // Key Vault's key events
)

var families = map[string]family{
	azsystemevents.TypeResourceWriteSuccess: armFamily, azsystemevents.TypeResourceWriteFailure: armFamily, azsystemevents.TypeResourceWriteCancel: armFamily,
	azsystemevents.TypeResourceActionSuccess: armFamily, azsystemevents.TypeResourceActionFailure: armFamily, azsystemevents.TypeResourceActionCancel: armFamily,
	azsystemevents.TypeResourceDeleteSuccess: armFamily, azsystemevents.TypeResourceDeleteFailure: armFamily, azsystemevents.TypeResourceDeleteCancel: armFamily,

	azsystemevents.TypeResourceNotificationsResourceManagementCreatedOrUpdated: resourceFamily,
	azsystemevents.TypeResourceNotificationsResourceManagementDeleted:          resourceFamily,

	azsystemevents.TypeResourceNotificationsHealthResourcesAvailabilityStatusChanged: healthFamily,
	azsystemevents.TypeResourceNotificationsHealthResourcesAnnotated:                 healthFamily,

	azsystemevents.TypeKeyVaultKeyNewVersionCreated: keyFamily,
	azsystemevents.TypeKeyVaultKeyNearExpiry:        keyFamily,
	azsystemevents.TypeKeyVaultKeyExpired:           keyFamily,
}

// Classify says what an event asks for. A VM that the event names is never
// dropped but where the event is the echo of a run command, such as our own.
func Classify(e Event) Decision {
	d := Decision{Cause: ledger.Cause{Kind: "event", At: e.Time, ID: e.ID}}
	switch families[e.Type] {
	case keyFamily:
		return d.key(e)
	case healthFamily:
		d.Cause.Kind, d.Cause.Fresh = "health", true
		return d.vm(e)
	case resourceFamily:
		return d.vm(e)
	case armFamily:
		if boots(e) {
			d.Cause.Kind, d.Cause.Fresh = "start", true
		}
		return d.vm(e)
	default:
		if of := d.vm(e); of.VM != "" {
			return of // a type that isn't known, about a VM: looking does no harm
		}
		return d.drop(DropOtherEvent, "events of type "+quote(e.Type)+" ask for nothing")
	}
}

// boots says whether the event means that a VM was booted.
func boots(e Event) bool {
	if e.Type != azsystemevents.TypeResourceActionSuccess {
		return false
	}
	// Instances of uniform scale sets have the same actions under another type.
	switch strings.Replace(strings.ToLower(e.Operation), "/virtualmachinescalesets/virtualmachines/", "/virtualmachines/", 1) {
	case "microsoft.compute/virtualmachines/start/action", "microsoft.compute/virtualmachines/restart/action",
		// On another host, and with an OS disk made anew.
		"microsoft.compute/virtualmachines/redeploy/action", "microsoft.compute/virtualmachines/reimage/action":
		return true
	}
	return false
}

func (d Decision) drop(code, why string) Decision {
	d.Drop, d.Why = code, why
	return d
}

// vm finds the VM at the head of the subject, else of the data's resource.
func (d Decision) vm(e Event) Decision {
	first := d.head(e.Subject)
	if first.VM != "" || e.ResourceURI == "" || strings.EqualFold(e.ResourceURI, e.Subject) || first.Drop != DropMalformedID {
		return first
	}
	if second := d.head(e.ResourceURI); second.VM != "" {
		return second
	}
	return first
}

func (d Decision) head(id string) Decision {
	vm, child, err := cvm.VMIDAtHead(strings.TrimRight(id, "/"))
	if err != nil {
		lower := strings.ToLower(id)
		switch {
		case strings.Contains(lower, "/providers/microsoft.compute/virtualmachinescalesets/"):
			return d.drop(DropScaleSet, "about a scale set, not about an instance of it: "+quote(id))
		case strings.Contains(lower, "/providers/microsoft.compute/virtualmachines"):
			return d.drop(DropMalformedID, "not a VM's id: "+quote(id))
		case !strings.HasPrefix(lower, "/subscriptions/"):
			return d.drop(DropMalformedID, "not a resource's id: "+quote(id))
		}
		return d.drop(DropOtherResource, "not about a VM: "+quote(id))
	}
	kind, _, _ := strings.Cut(strings.ToLower(child), "/")
	switch {
	case child == "", kind == "extensions":
	case strings.HasPrefix(strings.ToLower(child), "providers/microsoft.resourcehealth/"):
	case kind == "runcommands":
		return d.drop(DropRunCommand, "the echo of a run command: "+quote(id))
	default:
		return d.drop(DropOtherResource, "about something under a VM, not about it: "+quote(id))
	}
	d.VM = vm
	return d
}

func (d Decision) key(e Event) Decision {
	d.Cause.Kind = "key-event"
	given := ""
	if e.Key != nil {
		given = e.Key.keyURL()
	}
	id, err := cvm.ParseKeyID(given)
	if err != nil {
		return d.drop(DropMalformedKey, "the event names no key: "+quote(given))
	}
	d.Key = cvm.KeyID(strings.ToLower(string(id.Versionless())))
	return d
}

// quote shows a text of others, cut to a length that a log bears.
func quote(s string) string {
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return `"` + strings.Map(func(r rune) rune {
		if r < ' ' || r == '"' || r == 0x7f {
			return '?'
		}
		return r
	}, s) + `"`
}
