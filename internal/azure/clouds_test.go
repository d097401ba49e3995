package azure

import (
	"context"
	"strings"
	"testing"

	"cvmguard/internal/config"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// In each cloud a token for keys goes to that cloud's vaults and HSMs alone.
func TestKeysOfEachCloud(t *testing.T) {
	suffixes := map[config.Cloud][2]string{
		config.Public: {".vault.azure.net", ".managedhsm.azure.net"},
		config.USGov:  {".vault.usgovcloudapi.net", ".managedhsm.usgovcloudapi.net"},
		config.China:  {".vault.azure.cn", ".managedhsm.azure.cn"},
	}
	for cloud := range suffixes {
		c := New(config.Config{Cloud: cloud}, nil)
		for other, hosts := range suffixes {
			for i, suffix := range hosts {
				id := cvm.KeyID("https://one" + suffix + "/keys/k/1")
				got, err := c.keyURL(call{op: "reading key"}, id)
				if own := cloud == other; own && (err != nil || got != id || got.IsHSM() != (i == 1)) || !own && !fault.Is(err, fault.Invalid) {
					t.Errorf("%v, a key at %s: %q, %v", cloud, suffix, got, err)
				}
				if cloud != other {
					if _, err := c.Key(context.Background(), id); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "CVMGUARD_CLOUD") {
						t.Errorf("%v: %v", cloud, err)
					}
				}
				for _, bad := range []string{"https://one" + suffix + ".example.org/keys/k", "https://a.b" + suffix + "/keys/k", "https://" + strings.TrimPrefix(suffix, ".") + "/keys/k", "http://one" + suffix + "/keys/k"} {
					if _, err := c.keyURL(call{op: "reading key"}, cvm.KeyID(bad)); !fault.Is(err, fault.Invalid) {
						t.Errorf("%v takes %s: %v", cloud, bad, err)
					}
				}
			}
		}
	}
}
