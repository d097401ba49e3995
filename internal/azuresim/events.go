package azuresim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/messaging"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/eventgrid/azeventgrid"
)

// Event is one event in neither schema.
type Event struct {
	ID          string
	Topic       string // the source's resource id
	Subject     string
	Type        string // Microsoft.Resources.ResourceWriteSuccess …
	Time        time.Time
	Data        map[string]any
	DataVersion string
}

// eventTime is how Event Grid writes times: UTC, seven digits.
const eventTime = "2006-01-02T15:04:05.0000000Z"

// EventGrid is the event in Event Grid's own schema, as the object of a webhook's
// array.
func (e Event) EventGrid() map[string]any {
	return doc{
		"id": e.ID, "topic": e.Topic, "subject": e.Subject, "eventType": e.Type, "eventTime": e.Time.UTC().Format(eventTime),
		"data": copyOf(e.Data), "dataVersion": e.DataVersion, "metadataVersion": "1",
	}
}

// CloudEvent is the event in the CloudEvents 1.0 schema.
func (e Event) CloudEvent() map[string]any {
	return doc{
		"id": e.ID, "source": e.Topic, "subject": e.Subject, "type": e.Type, "time": e.Time.UTC().Format(eventTime),
		"data": copyOf(e.Data), "specversion": "1.0",
	}
}

// ForPublisher is the event as azeventgrid's PublishEvents takes it.
func (e Event) ForPublisher() azeventgrid.Event {
	return azeventgrid.Event{
		ID: to.Ptr(e.ID), Topic: to.Ptr(e.Topic), Subject: to.Ptr(e.Subject), EventType: to.Ptr(e.Type),
		EventTime: to.Ptr(e.Time), Data: e.Data, DataVersion: to.Ptr(e.DataVersion),
	}
}

// ForCloudPublisher is the event as azeventgrid's PublishCloudEvents takes it.
func (e Event) ForCloudPublisher() (messaging.CloudEvent, error) {
	t := e.Time
	data, err := json.Marshal(e.Data)
	if err != nil {
		return messaging.CloudEvent{}, fmt.Errorf("writing the data of event %s: %w", e.ID, err)
	}
	return messaging.CloudEvent{
		ID: e.ID, Source: e.Topic, Subject: to.Ptr(e.Subject), Type: e.Type, Time: &t, SpecVersion: "1.0",
		DataContentType: to.Ptr("application/json"), Data: json.RawMessage(data),
	}, nil
}

// armEvent is a control-plane write to tell about.
type armEvent struct {
	action, target, method string
	principal, correlation string
	create, failed         bool
}

// emitDone publishes the success of a write that was no long operation.
func (x *exchange) emitDone(target string, create bool) {
	x.s.emit(armEvent{action: x.action, target: target, method: x.r.Method, principal: x.principal.Name, create: create, correlation: x.s.id()})
}

// emit publishes a Resource Manager event to the subscription's system topic, if
// the simulator is asked to. Under Sim.mu.
func (s *Sim) emit(e armEvent) {
	s.logActivity(e)
	if !s.opt.EmitEvents {
		return
	}
	s.events.publish(TopicSubscription, []Event{s.resourceEvent(e)})
}

// resourceEvent makes the event of Microsoft.Resources for a write. A creation
// has no httpRequest; that of a VM spells the group's segment in lower case.
func (s *Sim) resourceEvent(e armEvent) Event {
	verb := map[string]string{http.MethodPost: "Action", http.MethodDelete: "Delete"}[e.method]
	if verb == "" {
		verb = "Write"
	}
	outcome, status := "Success", "Succeeded"
	if e.failed {
		outcome, status = "Failure", "Failed"
	}
	id := e.target
	if e.create && e.action == typeVM+"/write" {
		id = strings.Replace(id, "/resourceGroups/", "/resourcegroups/", 1)
	}
	sub := s.opt.Subscription
	if p, err := parseARM(e.target); err == nil && p.sub != "" {
		sub = p.sub
	}
	oid, app := "00000000-0000-0000-0000-0000000000c2", "00000000-0000-0000-0000-0000000000c1"
	if p := s.principals[e.principal]; p != nil {
		oid, app = p.ObjectID, p.ClientID
	}
	provider, _, _ := strings.Cut(e.action, "/")
	now := s.now()
	iss := "https://sts.windows.net/" + s.opt.Tenant + "/"
	data := doc{
		"authorization": doc{"scope": id, "action": e.action, "evidence": doc{
			"role": "Contributor", "roleAssignmentScope": "/subscriptions/" + sub,
			"roleAssignmentId": "00000000000000000000000000000001", "roleDefinitionId": "b24988ac618042a0ab8820f7382dd24c",
			"principalId": strings.ReplaceAll(oid, "-", ""), "principalType": "ServicePrincipal",
		}},
		"claims": doc{
			"aud": "https://management.core.windows.net/", "iss": iss, "iat": fmt.Sprint(now.Unix()), "nbf": fmt.Sprint(now.Unix()),
			"exp": fmt.Sprint(now.Add(tokenLife).Unix()), "aio": "example", "appid": app, "appidacr": "1",
			"http://schemas.microsoft.com/identity/claims/identityprovider":        iss,
			"http://schemas.microsoft.com/identity/claims/objectidentifier":        oid,
			"http://schemas.xmlsoap.org/ws/2005/05/identity/claims/nameidentifier": oid,
			"http://schemas.microsoft.com/identity/claims/tenantid":                s.opt.Tenant,
			"uti": "example", "ver": "1.0",
		},
		"correlationId": e.correlation, "resourceProvider": provider, "resourceUri": id, "operationName": e.action,
		"status": status, "subscriptionId": sub, "tenantId": s.opt.Tenant,
	}
	if !e.create {
		data["httpRequest"] = doc{
			"clientRequestId": guid("request", e.correlation), "clientIpAddress": "203.0.113.10", "method": e.method,
			"url": "https://management.azure.com" + e.target + "?api-version=2026-04-01",
		}
	}
	return Event{
		ID: s.id(), Topic: "/subscriptions/" + sub, Subject: id, Type: "Microsoft.Resources.Resource" + verb + outcome,
		Time: now, Data: data, DataVersion: "2",
	}
}

// VMEvent makes the event of a write, action or deletion on a VM, for a scene to
// publish: operation is "write", "delete", "start", "restart" or "deallocate".
func (s *Sim) VMEvent(vmID, operation string, create bool) Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := armEvent{target: vmID, create: create, correlation: s.id()}
	switch operation {
	case "write":
		e.action, e.method = typeVM+"/write", http.MethodPut
	case "delete":
		e.action, e.method = typeVM+"/delete", http.MethodDelete
	default:
		e.action, e.method = typeVM+"/"+operation+"/action", http.MethodPost
	}
	return s.resourceEvent(e)
}

// DESEvent makes the event of a write on a disk encryption set.
func (s *Sim) DESEvent(id string) Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resourceEvent(armEvent{action: typeDES + "/write", target: id, method: http.MethodPatch, correlation: s.id()})
}

// emitKey publishes a Key Vault event to the vault's system topic, if the
// simulator is asked to. A Managed HSM has none. Under Sim.mu.
func (s *Sim) emitKey(v *vault, k *keyVersion, kind string) {
	if s.opt.EmitEvents && !v.hsm {
		s.events.publish(TopicKeyVault, []Event{s.keyEvent(v, k, kind)})
	}
}

func (s *Sim) keyEvent(v *vault, k *keyVersion, kind string) Event {
	return Event{
		ID: s.id(), Topic: v.res.id, Subject: k.name, Type: "Microsoft.KeyVault." + kind, Time: s.now(), DataVersion: "1",
		Data: doc{
			"Id": str(k.body, "key", "kid"), "VaultName": v.res.name, "ObjectType": "Key", "ObjectName": k.name, "Version": k.version,
			"NBF": at(k.body, "attributes", "nbf"), "EXP": at(k.body, "attributes", "exp"),
		},
	}
}

// KeyEvent makes the event KeyNewVersionCreated, KeyNearExpiry or KeyExpired for
// a key; ok is false where there is no such key in a vault.
func (s *Sim) KeyEvent(keyURL, kind string) (e Event, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, k := s.keyByURL(keyURL)
	if k == nil {
		return Event{}, false
	}
	return s.keyEvent(v, k, kind), true
}
