package azure

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"cvmguard/internal/config"
	"cvmguard/internal/fault"
)

// unique names keep tests of one emulator apart.
var unique atomic.Int64

func fresh(prefix string) string { return fmt.Sprintf("%s%d", prefix, unique.Add(1)) }

func bothWays(t *testing.T, test func(t *testing.T, c *Client)) {
	for name, byKey := range map[string]bool{"key": true, "identity": false} {
		t.Run(name, func(t *testing.T) { test(t, account(t, byKey)) })
	}
}

func TestBlobs(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Client) {
		ctx, b, box := ctxFor(t), c.Blobs(), fresh("box")
		// Nothing is there yet, not even the container.
		if _, err := b.Read(ctx, box, "a/1", 10); !fault.Is(err, fault.NotFound) {
			t.Errorf("read: %v", err)
		}
		if ok, err := b.Exists(ctx, box, "a/1"); ok || err != nil {
			t.Errorf("exists: %v %v", ok, err)
		}
		if err := b.List(ctx, box, "", func(string) bool { t.Error("listed"); return true }); err != nil {
			t.Errorf("list: %v", err)
		}
		for _, n := range []string{"a/2", "a/1", "b/1"} {
			if err := b.Create(ctx, box, n, []byte("text "+n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Create(ctx, box, "a/1", []byte("other")); !fault.Is(err, fault.Conflict) {
			t.Errorf("written over: %v", err)
		}
		if got, err := b.Read(ctx, box, "a/1", 8); err != nil || string(got) != "text a/1" {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := b.Read(ctx, box, "a/1", 7); !fault.Is(err, fault.Invalid) {
			t.Errorf("too long: %v", err)
		}
		if ok, err := b.Exists(ctx, box, "a/1"); !ok || err != nil {
			t.Errorf("exists: %v %v", ok, err)
		}
		var names []string
		if err := b.List(ctx, box, "a/", func(n string) bool { names = append(names, n); return true }); err != nil || !slices.Equal(names, []string{"a/1", "a/2"}) {
			t.Errorf("%v, %v", names, err)
		}
		names = nil
		if err := b.List(ctx, box, "", func(n string) bool { names = append(names, n); return false }); err != nil || len(names) != 1 {
			t.Errorf("%v, %v", names, err)
		}
		if err := b.Delete(ctx, box, "a/1"); err != nil {
			t.Error(err)
		}
		if err := b.Delete(ctx, box, "a/1"); !fault.Is(err, fault.NotFound) {
			t.Errorf("deleted twice: %v", err)
		}
	})
}

func TestCreateHasOneWinner(t *testing.T) {
	c := account(t, true)
	ctx, box := ctxFor(t), fresh("race")
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			err := c.Blobs().Create(ctx, box, "x", []byte{byte(i)})
			if err == nil {
				won.Add(1)
			} else if !fault.Is(err, fault.Conflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d winners", won.Load())
	}
}

// send makes a plain request, as a guest would.
func send(t *testing.T, c *Client, method, url string, body []byte, header ...string) (int, string) {
	t.Helper()
	h, err := c.transport()
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctxFor(t), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-ms-version", "2025-05-05")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if cerr := resp.Body.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	return resp.StatusCode, string(b)
}

func TestSignedURLs(t *testing.T) {
	c := account(t, true)
	ctx, b, box := ctxFor(t), c.Blobs(), fresh("sas")
	put, err := b.AppendURL(ctx, box, "in/coming", time.Minute) // before anything made the container
	if err != nil {
		t.Fatal(err)
	}
	if code, body := send(t, c, http.MethodPut, put, nil, "x-ms-blob-type", "AppendBlob"); code != 201 {
		t.Fatalf("create: %d %s", code, body)
	}
	if code, body := send(t, c, http.MethodPut, put+"&comp=appendblock", []byte("evidence")); code != 201 {
		t.Errorf("append: %d %s", code, body)
	}
	if code, _ := send(t, c, http.MethodGet, put, nil); code != 403 {
		t.Errorf("it may read: %d", code)
	}
	if code, _ := send(t, c, http.MethodDelete, put, nil); code != 403 {
		t.Errorf("it may delete: %d", code)
	}
	if got, err := b.Read(ctx, box, "in/coming", 100); err != nil || string(got) != "evidence" {
		t.Errorf("%q, %v", got, err)
	}
	get, err := b.ReadURL(ctx, box, "in/coming", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if code, body := send(t, c, http.MethodGet, get, nil); code != 200 || body != "evidence" {
		t.Errorf("%d %s", code, body)
	}
	if code, _ := send(t, c, http.MethodPut, get+"&comp=appendblock", []byte("x")); code != 403 {
		t.Errorf("a read URL may append: %d", code)
	}
	if code, _ := send(t, c, http.MethodGet, strings.Replace(get, "coming", "going", 1), nil); code != 403 {
		t.Errorf("it may read another blob: %d", code)
	}
	late := account(t, true)
	late.now = func() time.Time { return time.Now().Add(-time.Hour) }
	old, err := late.Blobs().ReadURL(ctx, box, "in/coming", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := send(t, c, http.MethodGet, old, nil); code != 403 {
		t.Errorf("it outlives its time: %d", code)
	}
	if _, err := b.ReadURL(ctx, box, "x", 0); !fault.Is(err, fault.Bug) {
		t.Errorf("no life: %v", err)
	}
	if !strings.Contains(put, "sp=ac") || !strings.Contains(get, "sp=r") {
		t.Error(put, get)
	}
}

// Signed by identity: the key for it is asked for once and outlives what it
// signs. The emulator can't check such a signature of this SDK's version: it
// knows an older text to sign.
func TestSignedURLsByIdentity(t *testing.T) {
	c := account(t, false)
	ctx, b, box := ctxFor(t), c.Blobs(), fresh("sas")
	now := time.Now()
	c.now = func() time.Time { return now }
	var ends []time.Time
	for _, life := range []time.Duration{time.Minute, time.Hour, 2 * time.Hour} {
		signed, err := b.AppendURL(ctx, box, "in/coming", life)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(signed)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if q.Get("sp") != "ac" || q.Get("sr") != "b" || q.Get("skoid") == "" || q.Get("sktid") == "" || q.Get("sig") == "" ||
			q.Get("se") != now.Add(life).UTC().Format("2006-01-02T15:04:05Z") || u.Path != "/devstoreaccount1/"+box+"/in/coming" {
			t.Errorf("%s", signed)
		}
		if !c.storage.delegationEnd.After(now.Add(life)) {
			t.Error("the key ends before the URL")
		}
		ends = append(ends, c.storage.delegationEnd)
	}
	if !ends[0].Equal(ends[1]) || ends[1].Equal(ends[2]) {
		t.Errorf("keys end at %v: want one for the first two and another for the third", ends)
	}
}

func TestSigningDenied(t *testing.T) {
	f := newFake(t)
	f.on("POST st.blob.core.windows.net/", jsonBody(403, `<?xml version="1.0"?><Error><Code>AuthorizationPermissionMismatch</Code></Error>`))
	c := New(config.Config{DevAzure: f.server.Listener.Addr().String(), DevCA: f.caFile, Storage: config.Storage{BlobURL: "https://st.blob.core.windows.net"}}, nil)
	c.credential = func() (azcore.TokenCredential, error) { return testCred{}, nil }
	t.Cleanup(func() { closeIdle(t, c) })
	_, err := c.Blobs().ReadURL(ctxFor(t), "c", "b", time.Minute)
	if !fault.Is(err, fault.Denied) || fault.Action(err) != actionDelegate {
		t.Error(err)
	}
}

// Outside this machine a signed URL works over TLS alone.
func TestSignedURLProtocol(t *testing.T) {
	for url, want := range map[string]string{"https://st.blob.core.windows.net": "spr=https&", "http://127.0.0.1:10000/st": "spr=https%2Chttp&"} {
		c := New(config.Config{Storage: config.Storage{Account: "st", Key: "c2VjcmV0", BlobURL: url}}, nil)
		got, err := c.Blobs().ReadURL(context.Background(), "c", "b", time.Minute)
		if err != nil || !strings.Contains(got+"&", want) || !strings.HasPrefix(got, url+"/c/b?") {
			t.Errorf("%s: %s, %v", url, got, err)
		}
	}
}

func TestQueues(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Client) {
		ctx, q, raw, name := ctxFor(t), c.Queue(), c.QueueRaw(), fresh("queue")
		if ms, err := raw.Dequeue(ctx, name, 4, time.Second); err != nil || len(ms) != 0 {
			t.Errorf("a queue that isn't there: %v, %v", ms, err)
		}
		text := `{"vm":"<&>é"}`
		if err := q.Enqueue(ctx, name, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
		if err := q.Enqueue(ctx, name, []byte("later"), time.Hour); err != nil {
			t.Fatal(err)
		}
		if err := q.Enqueue(ctx, name, []byte("too late"), 30*24*time.Hour); !fault.Is(err, fault.Invalid) {
			t.Errorf("a delay of a month: %v", err)
		}
		ms, err := raw.Dequeue(ctx, name, 32, time.Minute)
		if err != nil || len(ms) != 1 {
			t.Fatal(ms, err)
		}
		m := ms[0]
		if b, err := base64.StdEncoding.DecodeString(m.RawText); err != nil || string(b) != text {
			t.Errorf("%q, %v", m.RawText, err)
		}
		if m.DequeueCount != 1 || m.Expires.Year() != 9999 || m.NextVisible.Before(time.Now()) || m.Inserted.IsZero() {
			t.Errorf("%+v", m)
		}
		receipt, err := raw.Update(ctx, name, m.ID, m.PopReceipt, m.RawText, 0)
		if err != nil || receipt == "" {
			t.Fatal(receipt, err)
		}
		ms, err = raw.Dequeue(ctx, name, 1, time.Minute)
		if err != nil || len(ms) != 1 || ms[0].DequeueCount != 2 {
			t.Fatal(ms, err)
		}
		if err := raw.Delete(ctx, name, m.ID, receipt); !fault.Is(err, fault.NotFound) {
			t.Errorf("deleted what others hold: %v", err)
		}
		if err := raw.Delete(ctx, name, ms[0].ID, ms[0].PopReceipt); err != nil {
			t.Error(err)
		}
		if err := q.Enqueue(ctx, name, bytes.Repeat([]byte("x"), 60<<10), 0); !fault.Is(err, fault.Invalid) {
			t.Errorf("too long: %v", err)
		}
		if err := c.Ready(ctx); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
}

func TestStorageAway(t *testing.T) {
	c := New(config.Config{Storage: config.Storage{Account: "a", Key: "aaaa", BlobURL: "http://127.0.0.1:1/a", QueueURL: "http://127.0.0.1:1/a", TableURL: "http://127.0.0.1:1/a"}}, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := c.Queue().Enqueue(ctx, "q", []byte("x"), 0); !fault.Is(err, fault.Transient) {
		t.Error(err)
	}
	if _, err := New(config.Config{}, nil).Blobs().Read(ctx, "c", "b", 1); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "AzureWebJobsStorage") {
		t.Error(err)
	}
	bad := New(config.Config{Storage: config.Storage{Account: "a", Key: "***", BlobURL: "https://x", QueueURL: "https://x", TableURL: "https://x"}}, nil)
	if err := bad.Blobs().Create(ctx, "c", "b", nil); !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), "***") {
		t.Error(err)
	}
}

func TestAfterPrefix(t *testing.T) {
	for in, want := range map[string]string{"a": "b", "az": "a{", "": "", "a\U0010FFFF": "b", "é": "ê"} {
		got, ok := afterPrefix(in)
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q %v", in, got, ok)
		}
	}
}
