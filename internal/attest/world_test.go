package attest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"cvmguard/internal/cvm"
)

// testNow is inside every vector certificate's time.
var testNow = time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)

const (
	testVM   = cvm.VMID("/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm")
	testUID  = "26F8BC30-774E-4290-8E7A-535F3B672AEE"
	otherUID = "11111111-2222-3333-4444-555555555555"
	testBase = "https://sharedneu.neu.attest.azure.net"
)

// Keys are made once: RSA-2048 takes its time under the race detector.
var (
	akKey    = sync.OnceValue(newRSA)
	otherKey = sync.OnceValue(newRSA)
	maaKey   = sync.OnceValue(newRSA)
)

func newRSA() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
}

// repoRoot walks up to go.mod.
func repoRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
}

// vectors is the folder of public vectors; tests skip without it.
func vectors(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(repoRoot(t), "..", "shared", "vectors", "attest")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no public vectors beside the repository: %v", err)
	}
	return dir
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// fakeVM makes evidence that is right in all but the hardware's signatures.
type fakeVM struct {
	kind    string
	uid     string
	ak      *rsa.PrivateKey
	keys    string // "" makes HCLAkPub from ak
	nonce   [32]byte
	vcek    []byte
	akCert  []byte
	product string
	pcrs    []int
}

func newFakeVM(kind string) *fakeVM {
	return &fakeVM{kind: kind, uid: testUID, ak: akKey(), nonce: [32]byte{1, 2, 3}, product: "Milan-B0",
		pcrs: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 23}}
}

func jwk(kid string, k *rsa.PublicKey) string {
	return fmt.Sprintf(`{"kid":%q,"key_ops":["sign"],"kty":"RSA","e":"AQAB","n":%q}`, kid, base64.RawURLEncoding.EncodeToString(k.N.Bytes()))
}

func (v *fakeVM) runtime() []byte {
	keys := v.keys
	if keys == "" {
		keys = jwk("HCLAkPub", &v.ak.PublicKey)
	}
	ud := UserData(v.nonce)
	return []byte(fmt.Sprintf(`{"keys":[%s],"vm-configuration":{"console-enabled":true,"secure-boot":true,"tpm-enabled":true,"tpm-persisted":true,"vmUniqueId":%q},"user-data":"%X"}`,
		keys, v.uid, ud))
}

func (v *fakeVM) hardware() []byte {
	hw := make([]byte, HCLHardwareSize)
	sum := sha256.Sum256(v.runtime())
	le := binary.LittleEndian
	if v.kind == KindTDX {
		hw[0] = 0x81
		copy(hw[128:], sum[:])
		copy(hw[512+16:], "an MRTD")
		return hw
	}
	le.PutUint32(hw, 3)
	le.PutUint64(hw[8:], 0x3001F)
	le.PutUint32(hw[0x34:], 1)
	copy(hw[0x50:], sum[:])
	copy(hw[0x90:], "a launch measurement")
	return hw
}

func (v *fakeVM) hcl() []byte {
	rt := v.runtime()
	out := make([]byte, HCLRuntime, HCLRuntime+len(rt))
	le := binary.LittleEndian
	copy(out, "HCLA")
	le.PutUint32(out[4:], 1)
	le.PutUint32(out[8:], uint32(HCLRuntime+len(rt)))
	le.PutUint32(out[12:], 2)
	copy(out[HCLHeaderSize:], v.hardware())
	le.PutUint32(out[1216:], uint32(20+len(rt)))
	le.PutUint32(out[1220:], 1)
	typ := uint32(HCLTypeSNP)
	if v.kind == KindTDX {
		typ = HCLTypeTDX
	}
	le.PutUint32(out[1224:], typ)
	le.PutUint32(out[1228:], 1)
	le.PutUint32(out[1232:], uint32(len(rt)))
	return append(out, rt...)
}

// tdQuote is a quote of version 4 or 5 with an empty signature.
func (v *fakeVM) tdQuote(version uint16) []byte {
	le := binary.LittleEndian
	head := make([]byte, 48)
	le.PutUint16(head, version)
	le.PutUint16(head[2:], 2)
	le.PutUint32(head[4:], 0x81)
	vendor, err := hex.DecodeString(intelQEVendor)
	if err != nil {
		panic(err)
	}
	copy(head[12:], vendor)
	body := make([]byte, 584)
	if version == 5 {
		body = make([]byte, 648)
		head = le.AppendUint16(head, 3)
		head = le.AppendUint32(head, 648)
	}
	hw := v.hardware()
	copy(body[0x88:], hw[528:576])
	copy(body[0x208:], hw[128:192])
	out := append(head, body...)
	out = le.AppendUint32(out, 10)
	return append(out, make([]byte, 10+7)...)
}

// tpmsAttest marshals a quote.
func tpmsAttest(extra []byte, pcrs []int, digest []byte) []byte {
	be := binary.BigEndian
	out := be.AppendUint32(nil, tpmMagic)
	out = be.AppendUint16(out, tpmSTQuote)
	out = be.AppendUint16(out, 34)
	out = append(out, make([]byte, 34)...)
	out = be.AppendUint16(out, uint16(len(extra)))
	out = append(out, extra...)
	out = be.AppendUint64(out, 1000)
	out = be.AppendUint32(out, 7)
	out = be.AppendUint32(out, 0)
	out = append(out, 1)
	out = be.AppendUint64(out, 42)
	out = be.AppendUint32(out, 1)
	out = be.AppendUint16(out, tpmAlgSHA256)
	bitmap := make([]byte, 3)
	for _, n := range pcrs {
		bitmap[n/8] |= 1 << (n % 8)
	}
	out = append(append(out, 3), bitmap...)
	out = be.AppendUint16(out, uint16(len(digest)))
	return append(out, digest...)
}

func pkcs1(k *rsa.PrivateKey, message []byte) []byte {
	sum := sha256.Sum256(message)
	sig, err := rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return sig
}

// bundle makes a bundle with a right quote.
func (v *fakeVM) bundle(t testing.TB) *Bundle {
	t.Helper()
	b := &Bundle{Version: 1, Kind: v.kind, Nonce: v.nonce[:], Guest: cvm.Claims{"kernel": "6.8", "n": json.Number("1.50")}}
	switch v.kind {
	case KindSNP:
		b.HCLReport = v.hcl()
		if v.vcek == nil {
			v.vcek = testVCEK(t, v.product)
		}
		b.VCEK = v.vcek
	case KindTDX:
		b.HCLReport, b.TEEQuote = v.hcl(), v.tdQuote(4)
	case KindTrustedLaunch:
		b.AKCert = v.akCert
	}
	v.sign(t, b)
	return b
}

// sign quotes what the bundle holds now.
func (v *fakeVM) sign(t testing.TB, b *Bundle) {
	t.Helper()
	rest, err := b.Canonical(true)
	if err != nil {
		t.Fatal(err)
	}
	extra, err := ExtraData([32]byte(b.Nonce), v.uid, rest)
	if err != nil {
		t.Fatal(err)
	}
	values, h := map[string]string{}, sha256.New()
	for _, n := range v.pcrs {
		value := sha256.Sum256([]byte{byte(n)})
		values[strconv.Itoa(n)] = hex.EncodeToString(value[:])
		h.Write(value[:])
	}
	message := tpmsAttest(extra[:], v.pcrs, h.Sum(nil))
	b.TPMQuote = &TPMQuote{Message: message, Signature: pkcs1(v.ak, message), PCRs: values}
}

func encode(t testing.TB, b *Bundle) []byte {
	t.Helper()
	out, err := b.Canonical(false)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// certificate makes one, signed by parent (nil: self-signed).
func certificate(t testing.TB, tmpl, parent *x509.Certificate, pub *rsa.PublicKey, signer *rsa.PrivateKey) *x509.Certificate {
	t.Helper()
	tmpl.SerialNumber = big.NewInt(1)
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore, tmpl.NotAfter = testNow.Add(-time.Hour), testNow.Add(time.Hour)
	}
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testVCEK is a certificate with AMD's product name extension.
func testVCEK(t testing.TB, product string) []byte {
	t.Helper()
	ext := pkix.Extension{Id: oidProductName, Value: append([]byte{0x16, byte(len(product))}, product...)}
	return certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "SEV-VCEK"}, ExtraExtensions: []pkix.Extension{ext}},
		nil, &otherKey().PublicKey, otherKey()).Raw
}

func subject(kind string) Subject {
	s := Subject{ID: testVM, UniqueID: testUID, TEE: cvm.TEESNP}
	switch kind {
	case KindTDX:
		s.TEE = cvm.TEETDX
	case KindTrustedLaunch:
		s.TEE, s.TL = cvm.TEENone, true
	}
	return s
}

func goodNonce() Nonce {
	return Nonce{State: NonceGood, VMID: testVM, UniqueID: testUID, Issued: testNow.Add(-time.Minute), Way: "arm"}
}

// stateOf gives the check with an id; the zero Check if it wasn't made.
func stateOf(a cvm.Attestation, id string) cvm.Check {
	for _, c := range a.Checks {
		if c.ID == id {
			return c
		}
	}
	return cvm.Check{}
}

func wantOutcome(t *testing.T, side string, got cvm.Outcome, state cvm.State, reason string, a cvm.Attestation) {
	t.Helper()
	if got.State != state || got.Reason != reason {
		t.Errorf("%s is %s %q, want %s %q; checks:", side, got.State, got.Reason, state, reason)
		for _, c := range a.Checks {
			t.Logf("  %+v", c)
		}
	}
}

func pemFile(t testing.TB, path string, certs ...*x509.Certificate) {
	t.Helper()
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
}
