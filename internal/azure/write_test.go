package azure

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/remedy"
)

// lroVector is a long operation's transcript.
type lroVector struct {
	Request struct{ Method, URL string }
	First   struct {
		Status  int
		Headers map[string]string
	}
	Poll []struct {
		Status  int
		Headers map[string]string
		Body    json.RawMessage
	}
}

func pairs(m map[string]string) []string {
	var out []string
	for k, v := range m {
		out = append(out, k, v)
	}
	return out
}

// play sets a transcript up and gives the call that starts it.
func (f *fakeAzure) play(t *testing.T, name, start string) {
	t.Helper()
	var v lroVector
	if err := json.Unmarshal(vector(t, name), &v); err != nil {
		t.Fatal(err)
	}
	f.on(start, jsonBody(v.First.Status, "", pairs(v.First.Headers)...))
	var polls []http.HandlerFunc
	for _, p := range v.Poll {
		polls = append(polls, jsonBody(p.Status, string(p.Body), pairs(p.Headers)...))
	}
	u := strings.TrimPrefix(v.First.Headers["Azure-AsyncOperation"], "https://")
	path, _, _ := strings.Cut(u, "?")
	f.on("GET "+path, answers(polls...))
}

func TestOperationByResumeToken(t *testing.T) {
	f := newFake(t)
	f.play(t, "lro-vm-deallocate.json", "POST "+armHost+vmID+"/deallocate")
	ctx := context.Background()
	p, err := f.client().BeginDeallocate(ctx, vmID)
	if err != nil || p.State != remedy.Underway || p.Token == "" || p.RetryAfter != 10*time.Second {
		t.Fatalf("%+v, %v", p, err)
	}
	if len(p.Token) > 4096 {
		t.Errorf("the token has %d bytes", len(p.Token))
	}
	other := f.client() // another process
	p, err = other.PollOperation(ctx, p.Token)
	if err != nil || p.State != remedy.Underway || p.Token == "" {
		t.Fatalf("%+v, %v", p, err)
	}
	n := len(f.seen())
	p, err = other.PollOperation(ctx, p.Token)
	if err != nil || p.State != remedy.Effected {
		t.Fatalf("%+v, %v", p, err)
	}
	if got := len(f.seen()) - n; got != 1 {
		t.Errorf("the end took %d calls, want 1: the resource is the caller's to read", got)
	}
	if c := other.Counts(); c.Writes != 0 || c.ByName["Operations.Get"] != 2 {
		t.Errorf("polls counted as writes: %+v", c)
	}
}

func TestPutOperation(t *testing.T) {
	f := newFake(t)
	f.play(t, "lro-vm-put.json", "PATCH "+armHost+vmID)
	ctx := context.Background()
	c := f.client()
	var match string
	f.mu.Lock()
	h := f.routes[strings.ToLower("PATCH "+armHost+vmID)]
	f.mu.Unlock()
	f.on("PATCH "+armHost+vmID, func(w http.ResponseWriter, r *http.Request) { match = r.Header.Get("If-Match"); h(w, r) })
	p, err := c.BeginTags(ctx, vmID, `"7"`, map[string]string{"a": "1"})
	if err != nil || p.State != remedy.Underway {
		t.Fatalf("%+v, %v", p, err)
	}
	if match != `"7"` || f.lastBody() != `{"tags":{"a":"1"}}` {
		t.Errorf("sent If-Match %s, %s", match, f.lastBody())
	}
	p, err = c.PollOperation(ctx, p.Token)
	if err != nil || p.State != remedy.Underway || p.RetryAfter != 30*time.Second {
		t.Fatalf("%+v, %v", p, err)
	}
	if p, err = c.PollOperation(ctx, p.Token); err != nil || p.State != remedy.Effected {
		t.Fatalf("%+v, %v", p, err)
	}
}

const opPath = "/subscriptions/" + subID + "/providers/Microsoft.Compute/locations/northeurope/operations/1"

func opHeaders() []string {
	return []string{"Azure-AsyncOperation", "https://management.azure.com" + opPath + "?api-version=2026-04-01", "Retry-After", "1"}
}

func TestOperationEnds(t *testing.T) {
	ctx := context.Background()
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		ended  bool
		kind   fault.Kind
		code   string
		wait   time.Duration
	}{
		{"no capacity", jsonBody(200, `{"status":"Failed","error":{"code":"AllocationFailed","message":"m"}}`), true, fault.Blocked, "AllocationFailed", 0},
		{"cancelled", jsonBody(200, `{"status":"Canceled","error":{"code":"OperationPreempted","message":"m"}}`), true, fault.Conflict, "OperationPreempted", 0},
		{"failed without an error", jsonBody(200, `{"status":"Failed"}`), true, fault.Transient, "", 0},
		{"gone", jsonBody(404, `{"error":{"code":"NotFound","message":"m"}}`), false, fault.NotFound, "NotFound", 0},
		{"throttled", jsonBody(429, `{"error":{"code":"TooManyRequests","message":"m"}}`, "Retry-After", "60"), false, fault.Throttled, "TooManyRequests", time.Minute},
		{"away", jsonBody(503, `{}`), false, fault.Transient, "", 0},
		{"denied", jsonBody(403, `{"error":{"code":"AuthorizationFailed","message":"m"}}`), false, fault.Denied, "AuthorizationFailed", 0},
		{"no status", jsonBody(200, `{}`), false, fault.Transient, "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t)
			f.on("POST "+armHost+vmID+"/start", jsonBody(202, "", opHeaders()...))
			f.on("GET "+armHost+opPath, tc.answer)
			c := f.client()
			p, err := c.BeginStart(ctx, vmID)
			if err != nil {
				t.Fatal(err)
			}
			p, err = c.PollOperation(ctx, p.Token)
			if tc.ended {
				if err != nil || p.State != remedy.Ended {
					t.Fatalf("%+v, %v", p, err)
				}
				err = p.Err
			}
			if fault.KindOf(err) != tc.kind || fault.RetryAfter(err) != tc.wait || (tc.code != "" && fault.Code(err) != tc.code) {
				t.Errorf("%q %q %s: %v", fault.KindOf(err), fault.Code(err), fault.RetryAfter(err), err)
			}
		})
	}
}

// A Location operation, as disks and sets without Azure-AsyncOperation have it.
func TestLocationOperation(t *testing.T) {
	f := newFake(t)
	ctx := context.Background()
	f.on("PATCH "+armHost+diskID, jsonBody(202, "", "Location", "https://management.azure.com"+opPath, "Retry-After", "2"))
	f.on("GET "+armHost+opPath, answers(
		jsonBody(202, "", "Location", "https://management.azure.com"+opPath+"b", "Retry-After", "3"),
	))
	f.on("GET "+armHost+opPath+"b", answers(jsonBody(429, `{"error":{"code":"TooManyRequests"}}`, "Retry-After", "9"), jsonBody(404, `{"error":{"code":"ResourceNotFound","message":"m"}}`), jsonBody(200, `"odd"`)))
	c := f.client()
	p, err := c.BeginDiskDES(ctx, diskID, desID, "EncryptionAtRestWithCustomerKey")
	if err != nil || p.State != remedy.Underway || p.RetryAfter != 2*time.Second {
		t.Fatalf("%+v, %v", p, err)
	}
	p, err = c.PollOperation(ctx, p.Token)
	if err != nil || p.State != remedy.Underway || !strings.Contains(p.Token, opPath+"b") || p.RetryAfter != 3*time.Second {
		t.Fatalf("%+v, %v", p, err)
	}
	token := p.Token
	if _, err = c.PollOperation(ctx, token); !fault.Is(err, fault.Throttled) || fault.RetryAfter(err) != 9*time.Second {
		t.Errorf("throttled: %v", err)
	}
	if _, err = c.PollOperation(ctx, token); !fault.Is(err, fault.NotFound) {
		t.Errorf("gone: %v", err)
	}
	if p, err = c.PollOperation(ctx, token); err != nil || p.State != remedy.Effected {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestForeignTokensAreRefused(t *testing.T) {
	f := newFake(t)
	c := f.client()
	home := "https://management.azure.com" + opPath
	token := func(fields string) string { return `{"type":"x","token":{` + fields + `}}` }
	bad := map[string]string{
		"another host":        token(`"asyncURL":"https://evil.example.net/op","locURL":"","origURL":"` + home + `","method":"POST","finalState":"","state":"InProgress"`),
		"location elsewhere":  token(`"asyncURL":"` + home + `","locURL":"https://evil.example.net/op","origURL":"","method":"POST","finalState":"","state":"InProgress"`),
		"original elsewhere":  token(`"asyncURL":"` + home + `","locURL":"","origURL":"https://evil.example.net","method":"PUT","finalState":"","state":"InProgress"`),
		"plain http":          token(`"asyncURL":"http://management.azure.com/op","method":"POST","state":"InProgress"`),
		"user in the URL":     token(`"asyncURL":"https://management.azure.com@evil.example.net/op","method":"POST","state":"InProgress"`),
		"another port":        token(`"asyncURL":"https://management.azure.com:8443/op","method":"POST","state":"InProgress"`),
		"longer host":         token(`"asyncURL":"https://management.azure.com.evil.example.net/op","method":"POST","state":"InProgress"`),
		"no scheme":           token(`"type":"loc","pollURL":"//evil.example.net/op","state":"InProgress"`),
		"backslashes":         token(`"type":"loc","pollURL":"https:\\\\evil.example.net","state":"InProgress"`),
		"not a text":          token(`"asyncURL":["https://evil.example.net"],"method":"POST","state":"InProgress"`),
		"a fake's own poller": token(`"fakeURL":"https://evil.example.net","fakeStatus":"x"`),
		"unknown shape":       token(`"hello":"world"`),
		"empty":               `{}`,
		"not JSON":            `rubbish`,
		"nothing":             ``,
	}
	for name, tok := range bad {
		if p, err := c.PollOperation(context.Background(), tok); !fault.Is(err, fault.Blocked) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	if calls := f.seen(); len(calls) != 0 {
		t.Errorf("something was sent: %v", calls)
	}
}

// An answer that got lost may have had its effect: a write is not sent again.
func TestWritesAreSentOnce(t *testing.T) {
	ctx := context.Background()
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		tries  int
		kind   fault.Kind
	}{
		{"server error", jsonBody(500, `{}`), 1, fault.Transient},
		{"gateway", jsonBody(504, `{}`), 1, fault.Transient},
		{"cut off", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 1, fault.Transient},
		{"a short throttle took nothing", answers(jsonBody(429, `{}`, "Retry-After-Ms", "1"), jsonBody(202, "", opHeaders()...)), 2, ""},
		{"stale etag", jsonBody(412, `{"error":{"code":"PreconditionFailed","message":"m"}}`), 1, fault.Conflict},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t)
			f.on("PATCH "+armHost+vmID, tc.answer)
			_, err := f.client().BeginTags(ctx, vmID, "", nil)
			if fault.KindOf(err) != tc.kind || len(f.seen()) != tc.tries {
				t.Errorf("%d tries, %v", len(f.seen()), err)
			}
			f.on("POST kv-cvm.vault.azure.net/keys/k/create", tc.answer)
			if tc.tries == 1 {
				n := len(f.seen())
				if _, err := f.client().CreateKey(ctx, "kv-cvm.vault.azure.net", "k", 3072, "{}", false); err == nil || len(f.seen()) != n+1 {
					t.Errorf("key: %d tries, %v", len(f.seen())-n, err)
				}
			}
		})
	}
}

func TestWriteAnswers(t *testing.T) {
	ctx := context.Background()
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		state  remedy.ProgressState
		kind   fault.Kind
	}{
		{"done at once", jsonBody(200, `{"properties":{"provisioningState":"Succeeded"}}`), remedy.Effected, ""},
		{"done at once, without a state", jsonBody(200, `{}`), remedy.Effected, ""},
		{"under way by its body", jsonBody(200, `{"properties":{"provisioningState":"Updating"}}`), remedy.Underway, ""},
		{"failed at once", jsonBody(200, `{"properties":{"provisioningState":"Failed"}}`), "", fault.Transient},
		{"created", jsonBody(201, `{"properties":{"provisioningState":"Creating"}}`, opHeaders()...), remedy.Underway, ""},
		{"taken, body unreadable", jsonBody(200, `{"properties":`), remedy.Underway, ""},
		{"refused", jsonBody(403, `{"error":{"code":"AuthorizationFailed","message":"m"}}`), "", fault.Denied},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t)
			f.on("PATCH "+armHost+desID, tc.answer)
			p, err := f.client().BeginDESAutoRotation(ctx, desID, false)
			if p.State != tc.state || fault.KindOf(err) != tc.kind {
				t.Errorf("%+v, %v", p, err)
			}
			if tc.kind == fault.Denied && fault.Action(err) != "Microsoft.Compute/diskEncryptionSets/write" {
				t.Errorf("action %q", fault.Action(err))
			}
			if f.lastBody() != `{"properties":{"rotationToLatestKeyVersionEnabled":false}}` {
				t.Errorf("sent %s", f.lastBody())
			}
		})
	}
}

func TestWriteBodies(t *testing.T) {
	f := newFake(t)
	ctx := context.Background()
	c := f.client()
	done := jsonBody(200, `{"properties":{"provisioningState":"Succeeded"}}`)
	newKey := jsonBody(200, string(vector(t, "key-good.json")))
	for _, tc := range []struct {
		call   string
		answer http.HandlerFunc
		do     func() error
		body   string
	}{
		{"PUT " + armHost + vmID + "/runCommands/rc", done, func() error {
			_, err := c.BeginRunCommand(ctx, vmID, "northeurope", "rc", remedy.RunCommandSpec{Script: "s", TimeoutSeconds: 300, Parameters: map[string]string{"cause": "7"}, Protected: map[string]string{"B": "2", "A": "1"}})
			return err
		}, `{"location":"northeurope","properties":{"asyncExecution":false,"parameters":[{"name":"cause","value":"7"}],"protectedParameters":[{"name":"A","value":"1"},{"name":"B","value":"2"}],"source":{"script":"s"},"timeoutInSeconds":300,"treatFailureAsDeploymentFailure":false}}`},
		{"PUT " + armHost + vmID + "/extensions/GuestAttestation", done, func() error {
			_, err := c.BeginExtension(ctx, vmID, "northeurope", "GuestAttestation", remedy.ExtensionSpec{Publisher: "p", Type: "t", Version: "1.0", AutoUpgradeMinor: true, AutoUpgrade: true, Settings: map[string]any{"x": "y"}})
			return err
		}, `{"location":"northeurope","properties":{"autoUpgradeMinorVersion":true,"enableAutomaticUpgrade":true,"publisher":"p","settings":{"x":"y"},"type":"t","typeHandlerVersion":"1.0"}}`},
		{"PATCH " + armHost + diskID, done, func() error {
			_, err := c.BeginDiskDES(ctx, diskID, desID, "EncryptionAtRestWithCustomerKey")
			return err
		}, `{"properties":{"encryption":{"diskEncryptionSetId":"` + desID + `","type":"EncryptionAtRestWithCustomerKey"}}}`},
		{"PUT " + armHost + desID, done, func() error {
			_, err := c.BeginCreateDES(ctx, desID, "northeurope", keyURL, vaultID, map[string]string{"by": "cvmguard"})
			return err
		}, `{"identity":{"type":"SystemAssigned"},"location":"northeurope","properties":{"activeKey":{"keyUrl":"` + keyURL + `","sourceVault":{"id":"` + vaultID + `"}},"encryptionType":"ConfidentialVmEncryptedWithCustomerKey","rotationToLatestKeyVersionEnabled":false},"tags":{"by":"cvmguard"}}`},
		{"POST kv-cvm.vault.azure.net/keys/cvm-os-key/create", newKey, func() error {
			k, err := c.CreateKey(ctx, "kv-cvm.vault.azure.net", "cvm-os-key", 3072, `{"version":"1.0.0"}`, false)
			if err == nil && k.ID != keyURL {
				t.Errorf("made %s", k.ID)
			}
			return err
		}, `{"attributes":{"enabled":true,"exportable":true},"key_ops":["wrapKey","unwrapKey"],"key_size":3072,"kty":"RSA-HSM","release_policy":{"contentType":"application/json; charset=utf-8","data":"eyJ2ZXJzaW9uIjoiMS4wLjAifQ","immutable":false}}`},
		{"PATCH " + strings.TrimPrefix(keyURL, "https://"), newKey, func() error {
			return c.UpdateKeyReleasePolicy(ctx, keyURL, `{}`)
		}, `{"release_policy":{"contentType":"application/json; charset=utf-8","data":"e30"}}`},
	} {
		f.on(tc.call, tc.answer)
		if err := tc.do(); err != nil {
			t.Errorf("%s: %v", tc.call, err)
			continue
		}
		calls := f.seen()
		if got := calls[len(calls)-1]; !strings.EqualFold(got, tc.call) {
			t.Errorf("sent %s, want %s", got, tc.call)
		}
		if got := f.lastBody(); got != tc.body {
			t.Errorf("%s\ngot  %s\nwant %s", tc.call, got, tc.body)
		}
	}
	if n := c.Counts(); n.Writes != 6 || n.Reads != 0 {
		t.Errorf("counted %+v", n)
	}
	if _, err := c.CreateKey(ctx, "kv-cvm.vault.azure.net", "k", 1024, "{}", false); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if err := c.UpdateKeyReleasePolicy(ctx, cvm.KeyID(keyURL).Versionless(), "{}"); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if len(f.seen()) != 6 {
		t.Error("what is invalid was sent")
	}
}

func FuzzCheckToken(f *testing.F) {
	f.Add(`{"type":"x","token":{"asyncURL":"https://management.azure.com/op","method":"POST","state":"InProgress"}}`)
	f.Add(`{"token":{"pollURL":"//evil"}}`)
	c := New(noStorage, nil)
	f.Fuzz(func(t *testing.T, token string) {
		state, err := c.checkToken(call{}, token)
		if err != nil {
			if !fault.Is(err, fault.Blocked) {
				t.Error(err)
			}
			return
		}
		for _, v := range state {
			if s := v.(string); strings.Contains(s, "//") && !strings.HasPrefix(strings.ToLower(s), "https://management.azure.com") {
				t.Errorf("passed %q", s)
			}
		}
	})
}
