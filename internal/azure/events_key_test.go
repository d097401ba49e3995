package azure

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Every kind of key event names its key in both schemas, however the service, or
// its documentation's samples, spell it: numbers as texts, names and values with
// stray spaces, times missing.
func TestKeyEventsAsTheyCome(t *testing.T) {
	const id = "https://kv-cvm.vault.azure.net/keys/cvm-os-key/00112233445566778899aabbccddeeff"
	envelopes := map[Schema]string{
		SchemaEventGrid:   `{"id":"e-1","topic":"%[3]s","subject":"cvm-os-key","eventType":"%[1]s","eventTime":"2026-01-02T03:04:05Z","data":%[2]s,"dataVersion":"1","metadataVersion":"1"}`,
		SchemaCloudEvents: `{"id":"e-1","source":"%[3]s","subject":"cvm-os-key","type":"%[1]s","time":"2026-01-02T03:04:05Z","specversion":"1.0","data":%[2]s}`,
	}
	const nbf, exp = 1767225600, 1769904000
	for _, kind := range []string{"KeyNewVersionCreated", "KeyNearExpiry", "KeyExpired"} {
		for schema, envelope := range envelopes {
			for name, tc := range map[string]struct {
				data     string
				nbf, exp int64
			}{
				"numbers":          {`{"Id":"` + id + `","VaultName":"kv-cvm","ObjectType":"Key","ObjectName":"cvm-os-key","Version":"00112233445566778899aabbccddeeff","NBF":1767225600,"EXP":1769904000}`, nbf, exp},
				"numbers as texts": {`{"Id":"` + id + `","VaultName":"kv-cvm","ObjectType":"Key","ObjectName":"cvm-os-key","Version":"00112233445566778899aabbccddeeff","NBF":"1767225600","EXP":" 1769904000 "}`, nbf, exp},
				"stray spaces":     {`{"Id":" ` + id + ` ","VaultName ":"kv-cvm"," ObjectName":" cvm-os-key","Version":" 00112233445566778899aabbccddeeff","NBF":1767225600.0,"EXP ":1.769904e9}`, nbf, exp},
				"no times":         {`{"Id":"` + id + `","ObjectName":"cvm-os-key","Version":"00112233445566778899aabbccddeeff","NBF":null,"EXP":null}`, 0, 0},
				"times of no sort": {`{"Id":"` + id + `","ObjectName":"cvm-os-key","Version":"00112233445566778899aabbccddeeff","NBF":"soon","EXP":{"a":1}}`, 0, 0},
				"other case":       {`{"ID":"` + strings.Replace(id, "kv-cvm", "KV-CVM", 1) + `","objectName":"cvm-os-key","version":"00112233445566778899aabbccddeeff","nbf":1767225600,"exp":1769904000}`, nbf, exp},
				"no id":            {`{"VaultName":" KV-CVM ","ObjectName":"CVM-os-key","Version":"00112233445566778899aabbccddeeff"}`, 0, 0},
				"no id or name":    {`{"VaultName":"kv-cvm","Version":"00112233445566778899aabbccddeeff"}`, 0, 0},
				"data as text":     {`"{\"Id\":\"` + id + `\",\"ObjectName\":\"cvm-os-key\",\"Version\":\"00112233445566778899aabbccddeeff\",\"EXP\":\"1769904000\"}"`, 0, exp},
			} {
				e, err := ParseEvent([]byte(fmt.Sprintf(envelope, "Microsoft.KeyVault."+kind, tc.data, vaultID)))
				if err != nil || e.Schema != schema || e.Key == nil {
					t.Errorf("%s, %s, %s: %+v, %v", kind, schema, name, e, err)
					continue
				}
				d := Classify(e)
				if d.Key != "https://kv-cvm.vault.azure.net/keys/cvm-os-key" || d.VM != "" || d.Drop != "" || d.Cause.Kind != "key-event" || d.Cause.ID != "e-1" || d.Cause.At.Unix() != 1767323045 {
					t.Errorf("%s, %s, %s: %+v", kind, schema, name, d)
				}
				if unix(e.Key.NotBefore) != tc.nbf || unix(e.Key.Expires) != tc.exp || e.Key.Version != "00112233445566778899aabbccddeeff" {
					t.Errorf("%s, %s, %s: %+v", kind, schema, name, e.Key)
				}
			}
		}
	}
	// Other clouds' keys are named by their id.
	for _, host := range []string{"kv.vault.azure.cn", "kv.vault.usgovcloudapi.net"} {
		d := Classify(Event{Type: "Microsoft.KeyVault.KeyNearExpiry", Subject: "k", Key: &KeyEvent{ID: "https://" + host + "/keys/k/1"}})
		if string(d.Key) != "https://"+host+"/keys/k" {
			t.Errorf("%s: %+v", host, d)
		}
	}
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
