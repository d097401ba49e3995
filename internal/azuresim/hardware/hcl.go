package hardware

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// The layout of the paravisor's report in NV 0x01400001.
const (
	hclSize       = 2600 // of the index; the tail is zero
	hclHeader     = 32
	hclHardware   = 1184 // room for the hardware report
	hclRuntime    = 1236 // where the runtime data starts
	hclTypeSNP    = 2
	hclTypeTDX    = 4
	hclHashSHA256 = 1
)

// runtimeClaims is the paravisor's runtime data: the JSON whose hash is in the
// hardware report.
type runtimeClaims struct {
	Keys     []runtimeKey  `json:"keys"`
	Config   runtimeConfig `json:"vm-configuration"`
	UserData string        `json:"user-data"`
}

type runtimeKey struct {
	ID  string   `json:"kid"`
	Ops []string `json:"key_ops"`
	Typ string   `json:"kty"`
	E   string   `json:"e"`
	N   string   `json:"n"`
}

type runtimeConfig struct {
	RootCert     string `json:"root-cert-thumbprint"`
	Console      bool   `json:"console-enabled"`
	Interactive  bool   `json:"interactive-console-enabled"`
	SecureBoot   bool   `json:"secure-boot"`
	TPM          bool   `json:"tpm-enabled"`
	TPMPersisted bool   `json:"tpm-persisted"`
	FilteredVPCI bool   `json:"filtered-vpci-devices-allowed"`
	VMUniqueID   string `json:"vmUniqueId"`
}

func rsaKey(kid, op string, pub *rsa.PublicKey) runtimeKey {
	return runtimeKey{ID: kid, Ops: []string{op}, Typ: "RSA", E: "AQAB", N: base64.RawURLEncoding.EncodeToString(pub.N.Bytes())}
}

// hclReport puts runtime data and the hardware's report over its hash together.
// endorse makes that report.
func hclReport(kind Kind, runtime []byte, endorse func(data [64]byte) ([]byte, error)) ([]byte, error) {
	if hclRuntime+len(runtime) > hclSize {
		return nil, fmt.Errorf("runtime data of %d bytes do not fit into the report", len(runtime))
	}
	var data [64]byte
	digest := sha256.Sum256(runtime)
	copy(data[:], digest[:])
	hw, err := endorse(data)
	if err != nil {
		return nil, err
	}
	reportType := uint32(hclTypeSNP)
	if kind == TDX {
		reportType = hclTypeTDX
	}
	le := binary.LittleEndian
	r := make([]byte, hclSize)
	n := uint32(len(runtime))
	copy(r, "HCLA")
	le.PutUint32(r[4:], 2)
	le.PutUint32(r[8:], hclRuntime+n)
	le.PutUint32(r[12:], 2) // AK_CERT
	copy(r[hclHeader:hclHeader+hclHardware], hw)
	le.PutUint32(r[1216:], 20+n)
	le.PutUint32(r[1220:], 1)
	le.PutUint32(r[1224:], reportType)
	le.PutUint32(r[1228:], hclHashSHA256)
	le.PutUint32(r[1232:], n)
	copy(r[hclRuntime:], runtime)
	return r, nil
}

// runtimeData is what the paravisor says of m, as JSON. Equal state gives equal bytes.
func (m *Machine) runtimeData() ([]byte, error) {
	c := runtimeClaims{
		Keys: []runtimeKey{rsaKey("HCLAkPub", "sign", &m.ak.PublicKey), rsaKey("HCLEkPub", "encrypt", &m.ek.PublicKey)},
		Config: runtimeConfig{
			RootCert: base64.RawURLEncoding.EncodeToString(m.rootCert[:]), Console: true, Interactive: true,
			SecureBoot: !m.cfg.SecureBootOff, TPM: true, TPMPersisted: !m.cfg.Stateless,
			VMUniqueID: strings.ToUpper(m.cfg.VMUniqueID),
		},
		UserData: strings.ToUpper(hex.EncodeToString(m.userData[:])),
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encoding runtime data of VM %q: %w", m.cfg.VMUniqueID, err)
	}
	return b, nil
}
