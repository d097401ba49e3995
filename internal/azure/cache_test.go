package azure

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cvmguard/internal/cvm"
)

func TestCacheTimes(t *testing.T) {
	now := time.Unix(0, 0)
	c := newCache[int](time.Minute, 2, func() time.Time { return now })
	reads := 0
	read := func(context.Context) (int, error) { reads++; return reads, nil }
	get := func(key string, fresh bool) int {
		t.Helper()
		v, err := c.get(context.Background(), key, fresh, read)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	steps := []struct {
		key   string
		fresh bool
		after time.Duration
		want  int
	}{
		{"a", false, 0, 1}, {"a", false, 59 * time.Second, 1}, {"a", false, time.Second, 2}, // its time is over
		{"a", true, 0, 3}, {"a", false, 0, 3}, // fresh renews
		{"b", false, 0, 4}, {"a", false, 0, 3}, {"c", false, 0, 5}, // the third puts out b, the longest unused
		{"a", false, 0, 3}, {"b", false, 0, 6},
	}
	for i, s := range steps {
		now = now.Add(s.after)
		if got := get(s.key, s.fresh); got != s.want {
			t.Errorf("step %d: %d, want %d", i, got, s.want)
		}
	}
	c.forget(func(k string) bool { return k == "b" })
	if got := get("b", false); got != 7 {
		t.Errorf("a forgotten value came back: %d", got)
	}
	failing := errors.New("no")
	if _, err := c.get(context.Background(), "e", false, func(context.Context) (int, error) { return 0, failing }); err != failing {
		t.Error(err)
	}
	if got := get("e", false); got != 8 {
		t.Errorf("an error was kept: %d", got)
	}
}

func TestCacheSharesOneRead(t *testing.T) {
	c := newCache[int](time.Minute, 10, time.Now)
	var reads atomic.Int32
	gate := make(chan struct{})
	started := make(chan struct{}, 1)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			v, err := c.get(context.Background(), "k", false, func(context.Context) (int, error) {
				reads.Add(1)
				started <- struct{}{}
				<-gate
				return 7, nil
			})
			if v != 7 || err != nil {
				t.Error(v, err)
			}
		})
	}
	<-started
	close(gate)
	wg.Wait()
	if n := reads.Load(); n != 1 {
		t.Errorf("%d reads", n)
	}
}

// A waiter isn't failed by the one who read being called off.
func TestCacheLeaderCalledOff(t *testing.T) {
	c := newCache[int](time.Minute, 10, time.Now)
	ctx, cancel := context.WithCancel(context.Background())
	inRead := make(chan struct{})
	leader := make(chan error, 1)
	go func() {
		_, err := c.get(ctx, "k", false, func(ctx context.Context) (int, error) { close(inRead); <-ctx.Done(); return 0, ctx.Err() })
		leader <- err
	}()
	<-inRead
	waiter := make(chan int, 1)
	go func() {
		v, err := c.get(context.Background(), "k", false, func(context.Context) (int, error) { return 5, nil })
		if err != nil {
			t.Error(err)
		}
		waiter <- v
	}()
	cancel()
	if err := <-leader; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if v := <-waiter; v != 5 {
		t.Error(v)
	}
}

// What was read before a write of ours isn't kept after it, and those who ask
// after it don't wait for it.
func TestCacheInvalidatedInFlight(t *testing.T) {
	c := newCache[int](time.Minute, 10, time.Now)
	v, err := c.get(context.Background(), "k", false, func(context.Context) (int, error) {
		c.forget(func(string) bool { return true })
		inner, err := c.get(context.Background(), "k", false, func(context.Context) (int, error) { return 2, nil })
		if inner != 2 || err != nil {
			t.Error("who asked after the write was given", inner, err)
		}
		return 1, nil
	})
	if v != 1 || err != nil {
		t.Fatal(v, err)
	}
	if v, err := c.get(context.Background(), "k", false, func(context.Context) (int, error) { return 3, nil }); v != 2 || err != nil {
		t.Errorf("kept %d, want 2: %v", v, err)
	}
}

func TestCachePanic(t *testing.T) {
	c := newCache[int](time.Minute, 10, time.Now)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_, err := c.get(context.Background(), "k", false, func(context.Context) (int, error) { panic("x") })
		t.Error("returned", err)
	}()
	if v, err := c.get(context.Background(), "k", false, func(context.Context) (int, error) { return 1, nil }); v != 1 || err != nil {
		t.Error(v, err)
	}
}

func TestVersionless(t *testing.T) {
	for in, want := range map[string]string{
		"https://v/keys/k/1": "https://v/keys/k", "https://v/keys/k": "https://v/keys/k", "https://v/other": "https://v/other",
	} {
		if got := versionless(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// Each write makes a reader forget what it changes and nothing else.
func TestWritesInvalidate(t *testing.T) {
	other := "https://kv-cvm.vault.azure.net/keys/other/1"
	for _, tc := range []struct {
		changed                 string
		des, key, newest, vault bool // whether each is read again
	}{
		{desID, true, false, false, false},
		{keyURL, false, true, true, false},
		{string(cvm.KeyID(keyURL).Versionless()), false, true, true, false},
		{vaultID, false, false, false, true},
		{other, false, false, false, false},
		{vmID, false, false, false, false},
	} {
		t.Run(tc.changed, func(t *testing.T) {
			f := estate(t)
			c := f.client()
			r := c.Reader(time.Minute)
			f.on("GET kv-cvm.vault.azure.net/keys/cvm-os-key/", jsonBody(200, string(vector(t, "key-good.json"))))
			f.on("GET kv-cvm.vault.azure.net/keys/cvm-os-key", jsonBody(200, string(vector(t, "key-good.json"))))
			all := func() string {
				before := c.Counts().ByName
				ctx := context.Background()
				_, e1 := r.DES(ctx, desID, false)
				_, e2 := r.Key(ctx, keyURL, false)
				_, e3 := r.Key(ctx, cvm.KeyID(keyURL).Versionless(), false)
				_, e4 := r.Vault(ctx, cvm.VaultRef{ID: vaultID}, false)
				if err := errors.Join(e1, e2, e3, e4); err != nil {
					t.Fatal(err)
				}
				after := c.Counts().ByName
				d := func(n string) int64 { return after[n] - before[n] }
				return fmt.Sprint(d("DiskEncryptionSetsClient.Get"), d("Client.GetKey"), d("VaultsClient.Get"))
			}
			all()
			c.listeners.changed(tc.changed)
			n := func(bs ...bool) (k int) {
				for _, b := range bs {
					if b {
						k++
					}
				}
				return k
			}
			if got, want := all(), fmt.Sprint(n(tc.des), n(tc.key, tc.newest), n(tc.vault)); got != want {
				t.Errorf("read again %s, want %s", got, want)
			}
		})
	}
}
