package attest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDecodeRefusals(t *testing.T) {
	good := string(encode(t, newFakeVM(KindSNP).bundle(t)))
	nonce := `"nonce":"` + strings.Split(strings.Split(good, `"nonce":"`)[1], `"`)[0] + `"`
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the bundle has no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	bomb := &Bundle{Version: 1, Kind: KindSNP, Nonce: make([]byte, 32), EventLog: gzipped(t, make([]byte, MaxLog+1))}
	tests := map[string]string{
		"empty":                 "",
		"not an object":         "[]",
		"trailing data":         good + "{}",
		"member twice":          swap(`{"version":1,`, `{"version":1,"version":1,`),
		"escaped member twice":  swap(`{"version":1,`, `{"version":1,"\u0076ersion":1,`),
		"member in other case":  swap(`"version"`, `"Version"`),
		"unknown member":        swap(`{"version":1,`, `{"version":1,"extra":1,`),
		"version 2":             swap(`"version":1`, `"version":2`),
		"version as text":       swap(`"version":1`, `"version":"1"`),
		"unknown kind":          swap(`"kind":"snp"`, `"kind":"sgx"`),
		"no nonce":              swap(nonce+",", ""),
		"short nonce":           swap(nonce, `"nonce":"AAAA"`),
		"padded base64":         swap(nonce, strings.TrimSuffix(nonce, `"`)+`="`),
		"standard base64":       swap(nonce, `"nonce":"////////////////////////////////////////////"`),
		"line break in base64":  swap(nonce, strings.TrimSuffix(nonce, `"`)+`\n"`),
		"null part":             swap(nonce, `"nonce":null`),
		"empty part":            swap(`"hcl_report":"`, `"hcl_report":"","x":"`),
		"HCL report too long":   swap(`"hcl_report":"`, `"hcl_report":"`+strings.Repeat("AAAA", MaxHCL/3+1)),
		"VCEK too long":         swap(`"vcek":"`, `"vcek":"`+strings.Repeat("AAAA", MaxCert/3+1)),
		"quote without message": swap(`"message"`, `"mess"`),
		"PCR index 24":          swap(`"pcrs":{"0"`, `"pcrs":{"24"`),
		"PCR index 00":          swap(`"pcrs":{"0"`, `"pcrs":{"00"`),
		"PCR in upper case":     swap(`"pcrs":{"0":"`, `"pcrs":{"0":"AB`),
		"PCR twice":             swap(`"pcrs":{`, `"pcrs":{"1":"`+strings.Repeat("0", 64)+`",`),
		"guest not an object":   swap(`"guest":{`, `"guest":[],"x":{`),
		"guest member twice":    swap(`"guest":{`, `"guest":{"kernel":"x",`),
		"guest too long":        swap(`"guest":{`, `"guest":{"x":"`+strings.Repeat("y", MaxGuest)+`",`),
		"nested too deep":       swap(`"guest":{`, `"guest":{"x":`+strings.Repeat("[", 20)+strings.Repeat("]", 20)+`,`),
		"invalid UTF-8":         swap(`"kernel"`, "\"kern\xffl\""),
		"gzip bomb":             string(encode(t, bomb)),
		"broken gzip":           swap(`"guest":{`, `"event_log":"H4sA","guest":{`),
		"too long":              good + strings.Repeat(" ", MaxBundle),
	}
	for name, raw := range tests {
		if _, err := Decode([]byte(raw)); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), strings.Split(nonce, `"`)[3]) {
			t.Errorf("%s: the error shows the nonce: %v", name, err)
		}
	}
	if _, err := Decode([]byte(good)); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// TestCanonical: one encoding, whatever the order and spacing that it came in.
func TestCanonical(t *testing.T) {
	v := newFakeVM(KindSNP)
	b := v.bundle(t)
	b.Guest["cmdline"] = "root=<x> & \u2028 \u00e9"
	raw := encode(t, b)
	got, err := Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	if again := encode(t, got); !bytes.Equal(again, raw) {
		t.Errorf("encoding changed:\n%s\n%s", raw, again)
	}
	other := []byte(`{ "kind":"trustedlaunch" , "guest":{"b":1.50,"a":"\u00e9<"},"nonce":"` + strings.Repeat("A", 43) + `", "version":1 }`)
	got, err = Decode(other)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"version":1,"kind":"trustedlaunch","nonce":"` + strings.Repeat("A", 43) + `","guest":{"a":"é<","b":1.50}}`
	if c := string(encode(t, got)); c != want {
		t.Errorf("canonical form is\n%s, want\n%s", c, want)
	}
	rest, err := b.Canonical(true)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(rest, []byte("tpm_quote")) || b.TPMQuote == nil {
		t.Error("Canonical(true) must leave out the quote, and leave the bundle alone")
	}
}

// TestLabels pins the hashes that guest and verifier must agree on.
func TestLabels(t *testing.T) {
	var nonce [32]byte
	nonce[0] = 0xAA
	id := "00112233-4455-6677-8899-aabbccddeeff"
	rest := sha256.Sum256([]byte("rest"))
	h := sha256.New()
	h.Write([]byte("cvmguard/v1\x00"))
	h.Write(nonce[:])
	h.Write([]byte{0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff})
	h.Write(rest[:])
	got, err := ExtraData(nonce, strings.ToUpper(id), []byte("rest"))
	if err != nil || !bytes.Equal(got[:], h.Sum(nil)) {
		t.Errorf("extraData is %x (%v), want %x", got, err, h.Sum(nil))
	}
	ud, sum := UserData(nonce), sha256.Sum256(append([]byte("cvmguard/v1/ud\x00"), nonce[:]...))
	if !bytes.Equal(ud[:32], sum[:]) || !allZero(ud[32:]) {
		t.Errorf("user data is %x", ud)
	}
	for _, bad := range []string{"", "00112233445566778899aabbccddeeff", "{0112233-4455-6677-8899-aabbccddeef}", id + "0", strings.Replace(id, "a", "g", 1)} {
		if _, err := ExtraData(nonce, bad, nil); err == nil {
			t.Errorf("VM id %q was taken", bad)
		}
	}
}

func TestParseHCL(t *testing.T) {
	good := newFakeVM(KindSNP).hcl()
	put := func(at int, v uint32) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	for name, b := range map[string][]byte{
		"empty": nil, "short": good[:HCLRuntime-1], "magic": put(0, 0), "version": put(4, 3), "request type": put(12, 1), "status": put(16, 1),
		"report size": put(8, 0), "data size": put(1216, 0), "runtime version": put(1220, 2), "type 0": put(1224, 0), "type 6": put(1224, 6), "hash": put(1228, 2),
		"no runtime": put(1232, 0), "overflow": put(1232, 0xFFFFFFFF), "cut": good[:len(good)-1],
		"tail": append(bytes.Clone(good), 1), "long": append(bytes.Clone(good), make([]byte, MaxHCL)...),
	} {
		if _, err := ParseHCL(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	h, err := ParseHCL(append(bytes.Clone(good), make([]byte, 100)...))
	if err != nil || h.Length != len(good) || !bytes.Equal(h.Runtime, newFakeVM(KindSNP).runtime()) {
		t.Errorf("padded report: %v, length %d", err, h.Length)
	}
}

func TestParseRuntimeData(t *testing.T) {
	ak := jwk("HCLAkPub", &akKey().PublicKey)
	with := func(keys, conf, rest string) []byte {
		return []byte(`{"keys":[` + keys + `],"vm-configuration":` + conf + rest + `}`)
	}
	for name, b := range map[string][]byte{
		"not JSON": []byte("{"), "no keys": []byte(`{"vm-configuration":{}}`), "keys an object": []byte(`{"keys":{},"vm-configuration":{}}`),
		"keys twice": []byte(`{"keys":[` + ak + `],"keys":[],"vm-configuration":{}}`), "no AK": with("", "{}", ""), "AK twice": with(ak+","+ak, "{}", ""),
		"kid missing": with(`{"kty":"RSA"}`, "{}", ""), "not RSA": with(strings.Replace(ak, `"RSA"`, `"EC"`, 1), "{}", ""),
		"exponent 3": with(strings.Replace(ak, "AQAB", "Aw", 1), "{}", ""), "short modulus": with(`{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":"AQAB"}`, "{}", ""),
		"bool as text": with(ak, `{"secure-boot":"true"}`, ""), "bool as number": with(ak, `{"tpm-persisted":1}`, ""),
		"id a number": with(ak, `{"vmUniqueId":1}`, ""), "user data short": with(ak, "{}", `,"user-data":"00"`), "no configuration": []byte(`{"keys":[` + ak + `]}`),
		"trailing": append(with(ak, "{}", ""), '0'),
	} {
		if _, err := ParseRuntimeData(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	r, err := ParseRuntimeData(with(ak, `{"secure-boot":false,"future":[1]}`, `,"future":{}`))
	if err != nil || r.SecureBoot == nil || *r.SecureBoot || r.TPMPersisted != nil || !r.AK.Equal(&akKey().PublicKey) {
		t.Errorf("subset with unknown members: %+v, %v", r, err)
	}
}

func TestParseSNPReport(t *testing.T) {
	good := newFakeVM(KindSNP).hardware()
	edit := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	for name, b := range map[string][]byte{
		"short": good[:1183], "long": append(bytes.Clone(good), 0), "version 1": edit(0, 1), "version 6": edit(0, 6), "algorithm": edit(0x34, 2),
		"VLEK": edit(0x48, 1<<2), "no key": edit(0x48, 7<<2), "policy bit 17": edit(0x0A, 0), "reserved": edit(0x208, 1), "after S": edit(0x2A0+144, 1),
	} {
		if _, err := ParseSNPReport(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if r, err := ParseSNPReport(edit(0x48, 2)); err != nil || !r.MaskChipID || len(r.Signed()) != 0x2A0 {
		t.Errorf("masked chip id: %+v, %v", r, err)
	}
}

func TestParseTDQuote(t *testing.T) {
	v := newFakeVM(KindTDX)
	for _, version := range []uint16{4, 5} {
		good := v.tdQuote(version)
		q, err := ParseTDQuote(good)
		if err != nil || q.Version != version || !bytes.HasPrefix(q.MRTD[:], []byte("an MRTD")) || len(q.Signature) != 10 {
			t.Errorf("version %d: %+v, %v", version, q, err)
		}
		for n := range good {
			if n < len(good)-7 { // seven bytes of padding
				if _, err := ParseTDQuote(good[:n]); err == nil {
					t.Fatalf("version %d cut at %d: accepted", version, n)
				}
			}
		}
		if _, err := ParseTDQuote(append(bytes.Clone(good), 1)); err == nil {
			t.Errorf("version %d with a tail: accepted", version)
		}
	}
	for at, v := range map[int]byte{0: 3, 2: 3, 4: 0, 12: 0} {
		b := newFakeVM(KindTDX).tdQuote(4)
		b[at] = v
		if _, err := ParseTDQuote(b); err == nil {
			t.Errorf("byte %d = %d: accepted", at, v)
		}
	}
	b := v.tdQuote(5)
	b[48] = 9
	if _, err := ParseTDQuote(b); err == nil {
		t.Error("body type 9: accepted")
	}
	if _, err := ParseTDReport(make([]byte, 1024)); err == nil {
		t.Error("TDREPORT of type 0: accepted")
	}
}

func TestParseTPMQuote(t *testing.T) {
	digest := make([]byte, 32)
	good := tpmsAttest([]byte("extra"), []int{0, 7, 23}, digest)
	q, err := ParseTPMQuote(good)
	if err != nil || string(q.ExtraData) != "extra" || len(q.PCRs) != 3 || q.PCRs[2] != 23 || q.ResetCount != 7 {
		t.Errorf("%+v, %v", q, err)
	}
	prefixed := append(binary.BigEndian.AppendUint16(nil, uint16(len(good))), good...)
	if q, err = ParseTPMQuote(prefixed); err != nil || string(q.ExtraData) != "extra" {
		t.Errorf("with a TPM2B length: %v", err)
	}
	if err := verifyQuoteSignature(&akKey().PublicKey, prefixed, pkcs1(akKey(), good)); err != nil {
		t.Errorf("signature with a TPM2B length: %v", err)
	}
	for n := range good {
		if _, err := ParseTPMQuote(good[:n]); err == nil {
			t.Fatalf("cut at %d: accepted", n)
		}
	}
	if _, err := ParseTPMQuote(append(bytes.Clone(good), 0)); err == nil {
		t.Error("trailing byte: accepted")
	}
	for name, at := range map[string]int{"magic": 0, "type": 5, "name size": 6, "extraData size": 42} {
		b := bytes.Clone(good)
		b[at] ^= 0x10
		if _, err := ParseTPMQuote(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSignatureForms(t *testing.T) {
	message := tpmsAttest(nil, []int{0}, make([]byte, 32))
	raw := pkcs1(akKey(), message)
	form := func(scheme, hash, n uint16) []byte {
		b := binary.BigEndian.AppendUint16(nil, scheme)
		b = binary.BigEndian.AppendUint16(b, hash)
		return append(binary.BigEndian.AppendUint16(b, n), raw...)
	}
	for _, sig := range [][]byte{raw, form(0x0014, 0x000B, 256)} {
		if err := verifyQuoteSignature(&akKey().PublicKey, message, sig); err != nil || !madeBy(&akKey().PublicKey, sig) {
			t.Errorf("signature of %d bytes: %v", len(sig), err)
		}
	}
	for name, sig := range map[string][]byte{
		"PSS": form(0x0016, 0x000B, 256), "SHA-1": form(0x0014, 0x0004, 256), "length": form(0x0014, 0x000B, 255), "short": raw[1:], "empty": nil,
	} {
		if err := verifyQuoteSignature(&akKey().PublicKey, message, sig); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if madeBy(&otherKey().PublicKey, raw) {
		t.Error("a signature counts as another key's")
	}
}

func TestLoadRoots(t *testing.T) {
	if v := VendorRoots(); v.Development() || v != VendorRoots() || v.vtpm == nil || len(v.vtpmCAs) != 1 {
		t.Errorf("vendor roots: %+v", v)
	}
	for _, product := range []string{"milan", "Genoa", "TURIN"} {
		if _, ark, ok := VendorRoots().AMD(product); !ok || !strings.HasPrefix(ark.Subject.CommonName, "ARK-") {
			t.Errorf("no chain for %s", product)
		}
	}
	if _, _, ok := (*Roots)(nil).AMD("milan"); ok || (*Roots)(nil).Development() {
		t.Error("nil roots have a chain")
	}
	dir := t.TempDir()
	if _, err := LoadRoots(dir); err == nil {
		t.Error("an empty folder was taken")
	}
	ask, ark, _ := VendorRoots().AMD("genoa")
	pemFile(t, filepath.Join(dir, "amd-genoa-ark.pem"), ark)
	if _, err := LoadRoots(dir); err == nil {
		t.Error("an ARK without its ASK was taken")
	}
	pemFile(t, filepath.Join(dir, "amd-genoa-ask.pem"), ask)
	r, err := LoadRoots(dir)
	if err != nil || !r.Development() {
		t.Fatalf("development set: %v", err)
	}
	if _, _, ok := r.AMD("Genoa"); !ok {
		t.Error("the development set lost its chain")
	}
	wrong, _, _ := VendorRoots().AMD("milan")
	pemFile(t, filepath.Join(dir, "amd-genoa-ask.pem"), wrong)
	if _, err := LoadRoots(dir); err == nil {
		t.Error("an ASK that its ARK didn't sign was taken")
	}
	if err := os.WriteFile(filepath.Join(dir, "azure-vtpm-root.pem"), []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadRoots(dir); err == nil {
		t.Error("a file without a certificate was taken")
	}
}
