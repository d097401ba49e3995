package attest

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"path/filepath"
	"strconv"
	"testing"

	"cvmguard/internal/cvm"
)

// TestTrustedLaunchVector: the certificate chains to the pinned root, the quote is
// right under the key file beside it, and the two keys differ.
func TestTrustedLaunchVector(t *testing.T) {
	dir := filepath.Join(vectors(t), "tl-2026-07")
	file := func(name string) []byte { return readFile(t, filepath.Join(dir, name)) }
	message, signature := file("quote.msg"), file("quote.sig")
	block, _ := pem.Decode(file("ak.pub"))
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifyQuoteSignature(pub.(*rsa.PublicKey), message, signature); err != nil {
		t.Fatal(err)
	}
	q, err := ParseTPMQuote(message)
	if err != nil {
		t.Fatal(err)
	}
	nonce := unhex(t, string(file("nonce.hex")))
	if !bytes.Equal(q.ExtraData, nonce) {
		t.Error("extraData is not the nonce")
	}
	pcrs, raw := map[string]string{}, file("pcrs.bin") // from 140 on: a length of 2 bytes, 64 bytes for the value
	for i := range 8 {
		pcrs[strconv.Itoa(i)] = hex.EncodeToString(raw[142+66*i:][:32])
	}
	if err := checkSelection(q, pcrs, nil); err != nil {
		t.Error(err)
	}
	if err := checkPCRDigest(q, pcrs); err != nil {
		t.Error(err)
	}
	b := &Bundle{Version: 1, Kind: KindTrustedLaunch, Nonce: nonce, AKCert: file("akcert_0x01C101D0.der"),
		TPMQuote: &TPMQuote{Message: message, Signature: signature, PCRs: pcrs}}
	j := &judgement{bundle: b, options: Options{Roots: VendorRoots()}, now: testNow}
	if _, err := j.trustedLaunchAK(); err != nil {
		t.Errorf("the certificate doesn't chain to Azure's root: %v", err)
	}
	a := judgeAgainst(context.Background(), encode(t, b), goodNonce(), subject(KindTrustedLaunch), Options{Roots: VendorRoots()}, testNow, rawNonce(string(nonce))).Attestation
	wantOutcome(t, "evidence", a.Evidence, cvm.Fail, "tl.ak-mismatch", a)
	wantOutcome(t, "maa", a.MAA, cvm.NotApplicable, "maa.none-for-trusted-launch", a)
}

// TestPinnedAzureRoots: the embedded certificates are those that are published.
func TestPinnedAzureRoots(t *testing.T) {
	dir := filepath.Join(vectors(t), "roots")
	for ours, theirs := range map[string]string{
		"roots/azure-vtpm-root.pem": "azure-virtual-tpm-root-2023.pem", "roots/azure-vtpm-global-ca-03.pem": "azure-global-virtual-tpm-ca-03.pem",
	} {
		data, err := vendorFiles.ReadFile(ours)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, readFile(t, filepath.Join(dir, theirs))) {
			t.Errorf("%s differs from %s", ours, theirs)
		}
	}
}

// TestEventLogVectorFitsABundle: the logs are carried, packed or not, and unpack
// to what they were; their replay is not judged by this package yet.
func TestEventLogVectorFitsABundle(t *testing.T) {
	dir := vectors(t)
	for _, name := range []string{"eventlog/gce-ubuntu-2404-sevsnp.bin", "negative/eventlog-last-event-dropped.bin", "negative/eventlog-ipl-data-edited.bin"} {
		log := readFile(t, filepath.Join(dir, filepath.FromSlash(name)))
		v := newFakeVM(KindSNP)
		b := v.bundle(t)
		b.EventLog = gzipped(t, log)
		v.sign(t, b)
		got, err := Decode(encode(t, b))
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := Unpack(got.EventLog); err != nil || !bytes.Equal(plain, log) {
			t.Errorf("%s did not survive the bundle: %v", name, err)
		}
	}
}
