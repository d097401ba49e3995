package reconcile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
)

func TestDecodeMessage(t *testing.T) {
	vm := string(vmIDOf("vm1"))
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	if m, err := DecodeMessage([]byte(`{"vm":"` + vm + `","cause":{"kind":"rerun","time":"2026-11-01T13:00:00+01:00"}}`)); err != nil || !m.Cause.At.Equal(at) || m.Cause.At.Location() != time.UTC {
		t.Errorf("a cause's time by another name: %+v, %v", m.Cause, err)
	}
	for text, want := range map[string]string{ // "" is accepted
		`{"vm":"` + vm + `","cause":{"kind":"rerun"}}`:                                                     "",
		`{"vm":"` + strings.ToLower(vm) + `","cause":{}}`:                                                  "",
		` {"vm":"` + vm + `","cause":{"kind":"look-again"},"due":"2026-11-01T12:00:00.123456Z"} ` + "\n":   "",
		`{"vm":"` + vm + `","cause":{"kind":"evidence","nonce":"ab","fresh":true,"by":"x"},"dryrun":true}`: "",
		`{"shared":"` + string(desID) + `","cause":{"kind":"shared"}}`:                                     "",
		`{"shared":"` + keyURL + `","cause":{"kind":"key-event"}}`:                                         "",
		`{"shared":"` + vaultID + `","cause":{"kind":"sweep"}}`:                                            "",
		`{"shared":"` + regionID + `","cause":{"kind":"sweep"}}`:                                           "",
		``:              "EOF",
		`null`:          "exactly one of vm and shared",
		`{}`:            "exactly one of vm and shared",
		`[]`:            "a message is {",
		`"text"`:        "a message is {",
		`{"vm":7}`:      "a message is {",
		`{"vm":"` + vm:  "a message is {",
		`{"vm":"a vm"}`: "reading a VM id",
		`{"vm":"` + vm + `","shared":"` + string(desID) + `","cause":{}}`:                      "exactly one of vm and shared",
		`{"vm":"` + vm + `/extensions/x","cause":{}}`:                                          "goes on after the VM's name",
		`{"vm":"` + string(desID) + `","cause":{}}`:                                            "not a virtual machine",
		`{"shared":"` + vm + `","cause":{}}`:                                                   "neither a disk encryption set",
		`{"shared":"https://kv1.vault.azure.net/secrets/x","cause":{}}`:                        "reading a key",
		`{"shared":"somebody/regions/westeurope","cause":{}}`:                                  "neither a disk encryption set",
		`{"shared":"` + sub + `/regions/","cause":{}}`:                                         "neither a disk encryption set",
		`{"shared":"` + sub + `/regions/west/europe","cause":{}}`:                              "neither a disk encryption set",
		`{"shared":"` + strings.Replace(string(desID), "/des1", "", 1) + `/","cause":{}}`:      "disk encryption set",
		`{"shared":"` + strings.Replace(vaultID, "/vaults/", "/secrets/", 1) + `","cause":{}}`: "vault",
		`{"vm":"` + vm + `","cause":{"kind":"rerun"},"step":"tag"}`:                            `unknown field "step"`,
		`{"vm":"` + vm + `","cause":{"kind":"rerun","work":1}}`:                                "",
		`{"vm":"` + vm + `","cause":{"kind":"rerun"}} {}`:                                      "text after the JSON",
		`{"vm":"` + vm + `","cause":{"kind":"rerun","at":"yesterday"}}`:                        "a message is {",
		`{"vm":"` + vm + `","cause":{},"due":"9999-12-31T23:59:59-01:00"}`:                     "due is in the year 10000",
		`{"vm":"` + vm + `","cause":{"at":"0000-06-01T00:00:00Z"}}`:                            "cause.at is in the year 0",
		`{"vm":"` + vm + `","cause":{"kind":"` + strings.Repeat("x", maxMessage) + `"}}`:       "the most is",
	} {
		m, err := DecodeMessage([]byte(text))
		switch {
		case want == "" && err != nil:
			t.Errorf("%.120s: %v", text, err)
		case want == "":
			if back, err := DecodeMessage(m.Encode()); err != nil || !reflect.DeepEqual(back, m) {
				t.Errorf("%.120s: comes back as %+v, %v", text, back, err)
			}
		case !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want):
			t.Errorf("%.120s: %v, want %q", text, err, want)
		}
	}
}

func FuzzDecodeMessage(f *testing.F) {
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for _, m := range []Message{
		{VM: string(vmIDOf("vm1")), Cause: ledger.Cause{Kind: causeEvent, ID: "1", At: at}, Due: at},
		{Shared: keyURL, Cause: ledger.Cause{Kind: "key-event"}}, {Shared: regionID}, {Shared: vaultID, DryRun: true}, {Shared: string(desID)},
	} {
		f.Add(m.Encode())
	}
	f.Add([]byte(`{"vm":"/subscriptions/` + sub + `/resourceGroups/ü/providers/Microsoft.Compute/virtualMachines/x","cause":{"at":"9999-12-31T23:59:59.999999999-23:59"}}`))
	f.Add([]byte(`{"VM":"\ud800","cause":null,"due":"0001-01-01T00:00:00+14:00"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := DecodeMessage(text)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		o, err := objectOf(m)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if pk, rk, ok := ledger.SplitChain(o.Chain()); !ok || pk != o.PK || rk != o.RK {
			t.Errorf("%q: chain %q", text, o.Chain())
		}
		if p, err := ledger.PlaceOf(o.ID); err != nil || p.Chain() != o.Chain() || p.Kind != o.Kind {
			t.Errorf("%q: the ledger has it at %+v, %v", text, p, err)
		}
		back, err := DecodeMessage(m.Encode())
		if err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("%q: %+v comes back as %+v, %v", text, m, back, err)
		}
		row := ledger.Row{PK: o.PK, RK: o.RK, ID: o.ID, SharedKind: o.Kind}
		mergeCause(&row, m.Cause, time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC))
		if e, err := row.Entity(); err == nil {
			if _, err := ledger.DecodeRow(e); err != nil {
				t.Errorf("%q makes a row that can't be read: %v", text, err)
			}
		}
	})
}

func TestOneObjectInManySpellings(t *testing.T) {
	for _, ids := range [][]string{
		{keyName, keyURL, strings.ToUpper(keyName[:12]) + keyName[12:]},
		{string(desID), strings.ToLower(string(desID)), strings.ToUpper(string(desID))},
		{vaultID, strings.ToLower(vaultID)},
		{regionID, sub + "/regions/West Europe", sub + "/regions/WESTEUROPE"},
	} {
		var chains []string
		for _, id := range ids {
			o, err := SharedObject(id)
			if err != nil {
				t.Logf("%s: %v", id, err)
				continue
			}
			if len(chains) == 0 || chains[len(chains)-1] != o.Chain() {
				chains = append(chains, o.Chain())
			}
			if o.IsVM() || o.Table != ledger.TableShared {
				t.Errorf("%+v", o)
			}
		}
		if len(chains) != 1 {
			t.Errorf("%v: chains %v", ids, chains)
		}
	}
}

func TestSettingsCheck(t *testing.T) {
	if err := DefaultSettings().Check(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(*Settings){
		`"lease"`:                 func(s *Settings) { s.Lease = s.Turn },
		`"nonce life"`:            func(s *Settings) { s.NonceLife = s.Lease },
		`"turn"`:                  func(s *Settings) { s.Turn = 0 },
		`"margin"`:                func(s *Settings) { s.Margin = -1 },
		`"slow pace"`:             func(s *Settings) { s.SlowPace = 0 },
		`"transition wait"`:       func(s *Settings) { s.TransitionWait = 0 },
		`"longest poll"`:          func(s *Settings) { s.MaxPoll = 0 },
		`"step life"`:             func(s *Settings) { s.StepLife = 0 },
		`"age of shared objects"`: func(s *Settings) { s.SharedAge = 0 },
	} {
		s := DefaultSettings()
		spoil(&s)
		if err := s.Check(); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := (Settings{}).Check(); err == nil || strings.Count(err.Error(), "\n") < 9 {
		t.Errorf("not all that is wrong: %v", err)
	}
}

func TestGuestTool(t *testing.T) {
	s := memstore.New(nil)
	path := filepath.Join(t.TempDir(), "cvmguard-guest")
	tool := &GuestTool{Blobs: s.Blobs(), SAS: s.Blobs(), Path: path, Life: time.Minute}
	if _, _, err := tool.Ensure(t.Context()); !fault.Is(err, fault.Blocked) || !strings.Contains(err.Error(), "CVMGUARD_GUEST_TOOL") {
		t.Errorf("without the file: %v", err)
	}
	if err := os.WriteFile(path, []byte("the collector"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Hook = func(a memstore.Action) error {
		if !a.After {
			return fault.New(fault.Transient, "creating", a.Name, "503")
		}
		return nil
	}
	if _, _, err := tool.Ensure(t.Context()); !fault.Is(err, fault.Transient) {
		t.Errorf("storage is away: %v", err)
	}
	s.Hook = nil
	var first string
	for i := range 3 { // the last is another process
		if i == 2 {
			tool = &GuestTool{Blobs: s.Blobs(), SAS: s.Blobs(), Path: path, Life: time.Minute}
		}
		sha, url, err := tool.Ensure(t.Context())
		if err != nil || sha != ledger.HashBytes([]byte("the collector")) {
			t.Fatal(sha, err)
		}
		if body, err := s.Blobs().Get(t.Context(), url); err != nil || string(body) != "the collector" {
			t.Errorf("the URL gives %q, %v", body, err)
		}
		first = url
	}
	if n := s.Calls()["create"]; n != 3 { // one failed, one did, one found it there
		t.Errorf("uploaded %d times", n)
	}
	s.Clock.Advance(time.Minute)
	if _, err := s.Blobs().Get(t.Context(), first); !fault.Is(err, fault.Denied) {
		t.Errorf("the URL lives on: %v", err)
	}
}

// Two reads that failed alike say the same, whatever the service wrote.
func TestFactsOfFailedReads(t *testing.T) {
	for _, c := range []struct {
		err    error
		detail string
		passes bool
	}{
		{denied("reading disk", "d", "a/read", 1), `reading disk "d": denied (AuthorizationFailed)`, false},
		{fmt.Errorf("observing: %w", denied("reading disk", "d", "a/read", 2)), `reading disk "d": denied (AuthorizationFailed)`, false},
		{fault.New(fault.Blocked, "reading", "", "x"), "reading: blocked", false},
		{fault.New(fault.Invalid, "reading", "", "x"), "reading: invalid", false},
		{fault.New(fault.Transient, "reading", "", "x"), "", true}, {fault.New(fault.Throttled, "reading", "", "x"), "", true},
		{errors.New("nobody classified it"), "", true}, {fault.New(fault.Bug, "reading", "", "x"), "", true},
	} {
		f, err := fact(cvm.VM{}, c.err)("vm-unreadable")
		var read readError
		if (err != nil) != c.passes || c.passes && (!errors.As(err, &read) || !errors.Is(err, c.err)) {
			t.Errorf("%v: error %v", c.err, err)
		}
		if !c.passes && (f.Known || f.Absent || f.Why.Code != "vm-unreadable" || f.Why.Detail != c.detail || f.Why.Action != fault.Action(c.err)) {
			t.Errorf("%v: %+v", c.err, f)
		}
	}
	if f, err := fact(cvm.VM{}, notFound("x"))("vm-unreadable"); err != nil || !f.Absent {
		t.Errorf("404: %+v, %v", f, err)
	}
}
