package config

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const connection = "DefaultEndpointsProtocol=https;AccountName=stguard;AccountKey=c2VjcmV0LWtleQ==;EndpointSuffix=core.windows.net"

func load(env map[string]string, files ...string) (Config, error) {
	return Loader{
		Getenv: func(k string) string { return env[k] },
		Stat: func(p string) error {
			if slices.Contains(files, p) {
				return nil
			}
			return errors.New("not there")
		},
		Executable: func() (string, error) { return filepath.Join("opt", "app", "cvmguard"), nil },
	}.Load()
}

func TestDefaults(t *testing.T) {
	c, err := load(map[string]string{keyStorage: connection})
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Port: 8080, Cloud: Public, Lease: 90 * time.Second, TurnTimeout: time.Minute, Margin: 10 * time.Second,
		SlowPace: time.Hour, NonceLife: 30 * time.Minute, CacheTTL: time.Minute, TransitionWait: 15 * time.Second,
		MaxPoll: 30 * time.Second, GuestTool: filepath.Join("opt", "app", "guest", "cvmguard-guest"), MaxParallel: 16,
		Storage: Storage{Account: "stguard", Key: "c2VjcmV0LWtleQ==", BlobURL: "https://stguard.blob.core.windows.net",
			QueueURL: "https://stguard.queue.core.windows.net", TableURL: "https://stguard.table.core.windows.net"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %#v\nwant %#v", c, want)
	}
}

func TestEverySettingIsRead(t *testing.T) {
	env := map[string]string{
		keyPort: "7071", keyAccount: "stguard", keyCredential: "ManagedIdentity", keyStorageClient: "00000000-0000-0000-0000-0000000000a1",
		keyMode: "Enforce", keyPolicy: "p.yaml", keyShadowPolicy: "s.yaml", keyCloud: "usgov", keyClientID: "00000000-0000-0000-0000-0000000000a2",
		keyLease: "9s", keyTurn: "6s", keyMargin: "1s", keySlowPace: "5s", keyNonceLife: "20s", keyCacheTTL: "0s",
		keyTransitionWait: "1s", keyMaxPoll: "2s", keyGuestTool: "g", keyPublicURL: "https://app.example.net/",
		keyLogLevel: "DEBUG", keyMaxParallel: "3", keyDevAzure: "127.0.0.1:9443", keyDevCA: "ca.pem", keyDevRoots: "roots", keyIdentity: "http://127.0.0.1:1/msi",
	}
	c, err := load(env, "p.yaml", "s.yaml", "g", "ca.pem", "roots")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Port: 7071, Mode: "enforce", PolicyPath: "p.yaml", ShadowPath: "s.yaml", Cloud: USGov, ClientID: "00000000-0000-0000-0000-0000000000a2", ManagedIdentity: true,
		Lease: 9 * time.Second, TurnTimeout: 6 * time.Second, Margin: time.Second, SlowPace: 5 * time.Second, NonceLife: 20 * time.Second,
		TransitionWait: time.Second, MaxPoll: 2 * time.Second, GuestTool: "g", PublicURL: "https://app.example.net", LogLevel: slog.LevelDebug,
		MaxParallel: 3, DevAzure: "127.0.0.1:9443", DevCA: "ca.pem", DevRoots: "roots", Development: true,
		Storage: Storage{Account: "stguard", ClientID: "00000000-0000-0000-0000-0000000000a1", BlobURL: "https://stguard.blob.core.usgovcloudapi.net",
			QueueURL: "https://stguard.queue.core.usgovcloudapi.net", TableURL: "https://stguard.table.core.usgovcloudapi.net"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %#v\nwant %#v", c, want)
	}
	// Every setting that documentation lists is one of those above or a storage form.
	for _, s := range Settings() {
		if _, ok := env[s.Name]; !ok && !strings.HasPrefix(s.Name, keyStorage) {
			t.Errorf("%s is documented and not read here", s.Name)
		}
		if s.Meaning == "" {
			t.Errorf("%s has no meaning", s.Name)
		}
	}
}

func TestFaults(t *testing.T) {
	base := map[string]string{keyStorage: connection}
	cases := []struct {
		name    string
		env     map[string]string
		setting []string // the faults' settings, in order
		says    string
	}{
		{"no storage", map[string]string{keyStorage: ""}, []string{keyStorage}, "no storage account"},
		{"port", map[string]string{keyPort: "99999"}, []string{keyPort}, "1 to 65535"},
		{"mode", map[string]string{keyMode: "destroy"}, []string{keyMode}, "observe or enforce"},
		{"cloud", map[string]string{keyCloud: "moon"}, []string{keyCloud}, "public or usgov or china"},
		{"policy file", map[string]string{keyPolicy: "absent.yaml"}, []string{keyPolicy}, "absent.yaml"},
		{"client id", map[string]string{keyClientID: "me"}, []string{keyClientID}, "GUID"},
		{"duration", map[string]string{keyLease: "90"}, []string{keyLease}, "90s"},
		{"zero margin", map[string]string{keyMargin: "0s"}, []string{keyMargin}, "above zero"},
		{"negative where zero is allowed", map[string]string{keyCacheTTL: "-1s"}, []string{keyCacheTTL}, `(given "-1s"): not a length of time, zero or more. Give one as Go writes it, such as 90s or 1h30m, or leave it out for 60s.`},
		{"turn as it was given", map[string]string{keyTurn: "0h60s", keyLease: "60s"}, []string{keyTurn}, `(given "0h60s"): not shorter than the lease (60s)`},
		{"turn by default", map[string]string{keyLease: "30s"}, []string{keyTurn}, keyTurn + `: its default 60s is not shorter than the lease (30s)`},
		{"nonce by default", map[string]string{keyLease: "90m"}, []string{keyNonceLife}, keyNonceLife + `: its default 30m is not longer than the lease (90m)`},
		{"hours as they were given", map[string]string{keyMaxPoll: "200h"}, []string{keyMaxPoll}, `(given "200h")`},
		{"negative", map[string]string{keySlowPace: "-1h"}, []string{keySlowPace}, "above zero"},
		{"turn not below lease", map[string]string{keyTurn: "90s"}, []string{keyTurn}, "not shorter than the lease"},
		{"lease not below nonce", map[string]string{keyNonceLife: "90s"}, []string{keyNonceLife}, "not longer than the lease"},
		{"slow pace too long", map[string]string{keySlowPace: "200h"}, []string{keySlowPace}, "168h"},
		{"guest tool set and absent", map[string]string{keyGuestTool: "nowhere"}, []string{keyGuestTool}, "no such file"},
		{"public url", map[string]string{keyPublicURL: "http://app.example.net"}, []string{keyPublicURL}, "https://HOST"},
		{"log level", map[string]string{keyLogLevel: "loud"}, []string{keyLogLevel}, "debug or info"},
		{"parallel", map[string]string{keyMaxParallel: "0"}, []string{keyMaxParallel}, "1 to 256"},
		{"dev azure alone", map[string]string{keyDevAzure: "127.0.0.1:1"}, []string{keyDevCA}, "missing beside"},
		{"dev ca alone", map[string]string{keyDevCA: "ca.pem"}, []string{keyDevAzure}, "missing beside"},
		{"dev azure without port", map[string]string{keyDevAzure: "127.0.0.1", keyDevCA: "ca.pem"}, []string{keyDevAzure}, "HOST:PORT"},
		{"connection and account", map[string]string{keyAccount: "stguard"}, []string{keyAccount}, "contradicts"},
		{"connection and uri", map[string]string{keyBlobURI: "https://x.blob.core.windows.net"}, []string{keyBlobURI}, "contradicts"},
		{"account and uri", map[string]string{keyStorage: "", keyAccount: "stguard", keyBlobURI: "https://x"}, []string{keyAccount}, "contradicts"},
		{"uri without the others", map[string]string{keyStorage: "", keyBlobURI: "https://x.blob.core.windows.net"}, []string{keyQueueURI, keyTableURI}, "missing beside"},
		{"token in clear", map[string]string{keyStorage: "", keyBlobURI: "http://127.0.0.1:1/a", keyQueueURI: "https://q", keyTableURI: "https://t"}, []string{keyBlobURI}, "never sent in clear"},
		{"account name", map[string]string{keyStorage: "", keyAccount: "St_Guard"}, []string{keyAccount}, "3 to 24"},
		{"credential", map[string]string{keyStorage: "", keyAccount: "stguard", keyCredential: "password"}, []string{keyCredential}, "managedidentity"},
		{"client without credential", map[string]string{keyStorage: "", keyAccount: "stguard", keyStorageClient: "00000000-0000-0000-0000-0000000000a1"}, []string{keyStorageClient}, "managedidentity"},
		{"no equals sign", map[string]string{keyStorage: "rubbish"}, []string{keyStorage}, "has no"},
		{"no key", map[string]string{keyStorage: "AccountName=a"}, []string{keyStorage}, "lacks AccountName or AccountKey"},
		{"key not base64", map[string]string{keyStorage: "AccountName=a;AccountKey=***"}, []string{keyStorage}, "not base64"},
		{"twice", map[string]string{keyStorage: "AccountName=a;AccountName=b"}, []string{keyStorage}, "twice"},
		{"signature", map[string]string{keyStorage: "BlobEndpoint=https://x;SharedAccessSignature=sv=1"}, []string{keyStorage}, "shared access signature"},
		{"emulator and more", map[string]string{keyStorage: "UseDevelopmentStorage=true;AccountName=a"}, []string{keyStorage}, "stands alone"},
		{"clear text account", map[string]string{keyStorage: "AccountName=a;AccountKey=c2VjcmV0LWtleQ==;BlobEndpoint=http://example.net/a"}, []string{keyStorage}, "not https"},
		{"all at once", map[string]string{keyMode: "x", keyPort: "x", keyMargin: "x"}, []string{keyPort, keyMode, keyMargin}, "3 settings are wrong"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			env := map[string]string{}
			for _, m := range []map[string]string{base, tc.env} {
				for k, v := range m {
					env[k] = v
				}
			}
			_, err := load(env, "ca.pem")
			var fs Faults
			if !errors.As(err, &fs) {
				t.Fatalf("got %v, want Faults", err)
			}
			var got []string
			for _, f := range fs {
				got = append(got, f.Setting)
				if f.Fix == "" || f.Problem == "" {
					t.Errorf("%v has no problem or no fix", f)
				}
			}
			if !slices.Equal(got, tc.setting) {
				t.Errorf("faults of %v, want %v:\n%v", got, tc.setting, err)
			}
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("the text lacks %q:\n%v", tc.says, err)
			}
			if strings.Contains(err.Error(), "c2VjcmV0") {
				t.Error("the text shows the account's key")
			}
		})
	}
}

func TestStorageForms(t *testing.T) {
	cases := []struct {
		name string
		env  map[string]string
		want Storage
	}{
		{"emulator", map[string]string{keyStorage: "UseDevelopmentStorage=true"}, Storage{Account: emulatorAccount, Key: emulatorKey,
			BlobURL: "http://127.0.0.1:10000/devstoreaccount1", QueueURL: "http://127.0.0.1:10001/devstoreaccount1", TableURL: "http://127.0.0.1:10002/devstoreaccount1"}},
		{"endpoints", map[string]string{keyStorage: "AccountName=a;AccountKey=aaaa;BlobEndpoint=http://127.0.0.1:1/a;QueueEndpoint=http://127.0.0.1:2/a;TableEndpoint=http://127.0.0.1:3/a/;"},
			Storage{Account: "a", Key: "aaaa", BlobURL: "http://127.0.0.1:1/a", QueueURL: "http://127.0.0.1:2/a", TableURL: "http://127.0.0.1:3/a"}},
		{"suffix of the cloud", map[string]string{keyCloud: "china", keyStorage: "AccountName=abc;AccountKey=aaaa"},
			Storage{Account: "abc", Key: "aaaa", BlobURL: "https://abc.blob.core.chinacloudapi.cn", QueueURL: "https://abc.queue.core.chinacloudapi.cn", TableURL: "https://abc.table.core.chinacloudapi.cn"}},
		{"uris", map[string]string{keyBlobURI: "https://b/", keyQueueURI: "https://q", keyTableURI: "https://t"}, Storage{BlobURL: "https://b", QueueURL: "https://q", TableURL: "https://t"}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c, err := load(tc.env)
			if err != nil {
				t.Fatal(err)
			}
			if c.Storage != tc.want {
				t.Errorf("got %#v, want %#v", c.Storage, tc.want)
			}
			if !c.Storage.Set() || c.Storage.ByKey() != (tc.want.Key != "") {
				t.Error("Set or ByKey is wrong")
			}
		})
	}
}

func TestWithoutStorage(t *testing.T) {
	l := Loader{Getenv: func(string) string { return "" }, NoStorage: true}
	if c, err := l.Load(); err != nil || c.Storage.Set() {
		t.Errorf("got %+v, %v", c.Storage, err)
	}
	l.Getenv = func(k string) string { return map[string]string{keyStorage: "rubbish"}[k] }
	if _, err := l.Load(); err == nil {
		t.Error("a wrong connection string was taken")
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	c, err := load(map[string]string{keyStorage: connection})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	slog.New(slog.NewJSONHandler(&b, nil)).Info("config", "storage", c.Storage)
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s", c, c, c, c.Storage.Key), b.String()} {
		if strings.Contains(text, "c2VjcmV0") {
			t.Errorf("shown: %s", text)
		}
	}
	if c.Storage.Key.Reveal() != "c2VjcmV0LWtleQ==" {
		t.Error("Reveal does not give the key")
	}
}

func FuzzConnectionString(f *testing.F) {
	for _, s := range []string{connection, "UseDevelopmentStorage=true", "a=b;;c", "AccountName=a;AccountKey=aaaa;BlobEndpoint=%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := load(map[string]string{keyStorage: s})
		if err == nil && !(c.Storage.Set() && c.Storage.ByKey() && c.Storage.QueueURL != "" && c.Storage.TableURL != "") {
			t.Errorf("%q was taken and is not whole: %#v", s, c.Storage)
		}
	})
}
