package hardware

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Vendors are the three simulated vendors: who signs chips, platforms and vTPMs.
// The certificates are public; the keys behind them stay inside.
type Vendors struct {
	ARK, ASK             *x509.Certificate // AMD's root and the CA of its chips, product Milan
	IntelRoot, IntelCA   *x509.Certificate // SGX root and platform CA
	VTPMRoot, VTPMCA     *x509.Certificate // Azure's vTPM root and its CA
	askKey               *rsa.PrivateKey
	intelKey, intelCAKey *ecdsa.PrivateKey
	vtpmCAKey            *ecdsa.PrivateKey
	keys                 keyPool
}

// The names of the files that WriteRoots makes.
const (
	FileARK       = "amd-milan-ark.pem"
	FileASK       = "amd-milan-ask.pem"
	FileVTPMRoot  = "azure-vtpm-root.pem"
	FileVTPMCA    = "azure-vtpm-ca.pem"
	FileIntelRoot = "intel-root.pem"
)

// All simulated certificates are valid over this span, so that tests may stand
// at any time in it.
var (
	validFrom  = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	validUntil = time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC)
)

// SharedVendors are the vendors of this process, made at the first call.
var SharedVendors = sync.OnceValues(NewVendors)

// NewVendors makes vendors with roots of their own: a second set is to the first
// what a forger is to the maker.
func NewVendors() (*Vendors, error) {
	v := new(Vendors)
	if err := v.makeAMD(); err != nil {
		return nil, fmt.Errorf("making the simulated AMD: %w", err)
	}
	if err := v.makeIntel(); err != nil {
		return nil, fmt.Errorf("making the simulated Intel: %w", err)
	}
	if err := v.makeVTPM(); err != nil {
		return nil, fmt.Errorf("making the simulated Azure vTPM authority: %w", err)
	}
	return v, nil
}

// amdName is the name that AMD's certificates carry.
func amdName(cn string) pkix.Name {
	return pkix.Name{
		Country: []string{"US"}, Locality: []string{"Santa Clara"}, Province: []string{"CA"},
		Organization: []string{"Advanced Micro Devices"}, OrganizationalUnit: []string{"Engineering"},
		CommonName: cn,
	}
}

// makeAMD makes ARK and ASK of 2048 bits. AMD's have 4096; nothing here depends
// on it and making such keys takes seconds.
func (v *Vendors) makeAMD() error {
	arkKey, err := v.keys.next()
	if err != nil {
		return err
	}
	if v.askKey, err = v.keys.next(); err != nil {
		return err
	}
	ark := caTemplate(1, amdName("ARK-Milan"))
	ark.SignatureAlgorithm = x509.SHA384WithRSAPSS
	ark.CRLDistributionPoints = []string{"https://kdsintf.amd.com/vcek/v1/Milan/crl"}
	if v.ARK, err = issue(ark, ark, arkKey.Public(), arkKey); err != nil {
		return err
	}
	ask := caTemplate(2, amdName("SEV-Milan"))
	ask.SignatureAlgorithm = x509.SHA384WithRSAPSS
	ask.CRLDistributionPoints = ark.CRLDistributionPoints
	v.ASK, err = issue(ask, v.ARK, v.askKey.Public(), arkKey)
	return err
}

func intelName(cn string) pkix.Name {
	return pkix.Name{
		Country: []string{"US"}, Locality: []string{"Santa Clara"}, Province: []string{"CA"},
		Organization: []string{"Intel Corporation"}, CommonName: cn,
	}
}

func (v *Vendors) makeIntel() (err error) {
	if v.intelKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	if v.intelCAKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	root := caTemplate(1, intelName("Intel SGX Root CA"))
	if v.IntelRoot, err = issue(root, root, v.intelKey.Public(), v.intelKey); err != nil {
		return err
	}
	ca := caTemplate(2, intelName("Intel SGX PCK Platform CA"))
	v.IntelCA, err = issue(ca, v.IntelRoot, v.intelCAKey.Public(), v.intelKey)
	return err
}

func (v *Vendors) makeVTPM() error {
	rootKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return err
	}
	if v.vtpmCAKey, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		return err
	}
	name := func(cn string) pkix.Name {
		return pkix.Name{Country: []string{"US"}, Organization: []string{"Microsoft Corporation"}, CommonName: cn}
	}
	root := caTemplate(1, name("Azure Virtual TPM Root Certificate Authority 2023"))
	if v.VTPMRoot, err = issue(root, root, rootKey.Public(), rootKey); err != nil {
		return err
	}
	ca := caTemplate(2, name("Global Virtual TPM CA - 03"))
	v.VTPMCA, err = issue(ca, v.VTPMRoot, v.vtpmCAKey.Public(), rootKey)
	return err
}

// The key usages of an AK certificate: TPM attestation keys of Windows, and the
// TCG's tcg-kp-AIKCertificate.
var (
	oidWindowsAIK = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 10, 3, 12}
	oidTCGAIK     = asn1.ObjectIdentifier{2, 23, 133, 8, 3}
)

// akCertificate is what the vTPM authority issues for an attestation key, DER.
// Its name is not the VM's.
func (v *Vendors) akCertificate(ak *rsa.PublicKey) ([]byte, error) {
	serial, err := randomSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: fmt.Sprintf("%012x.TrustedVM.Azure.windows.net", serial.Uint64()&0xffffffffffff)},
		NotBefore:             validFrom,
		NotAfter:              validUntil,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{oidWindowsAIK, oidTCGAIK},
		BasicConstraintsValid: true,
	}
	c, err := issue(t, v.VTPMCA, ak, v.vtpmCAKey)
	if err != nil {
		return nil, fmt.Errorf("issuing an AK certificate: %w", err)
	}
	return c.Raw, nil
}

// WriteRoots writes the development roots of this process to dir, one PEM file
// each, replacing what is there: the set that a verifier is given in the local
// world.
func WriteRoots(dir string) error {
	v, err := SharedVendors()
	if err != nil {
		return err
	}
	return v.WriteRoots(dir)
}

// WriteRoots writes these vendors' roots and intermediates to dir.
func (v *Vendors) WriteRoots(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the folder for development roots: %w", err)
	}
	files := map[string]*x509.Certificate{
		FileARK: v.ARK, FileASK: v.ASK, FileVTPMRoot: v.VTPMRoot, FileVTPMCA: v.VTPMCA, FileIntelRoot: v.IntelRoot,
	}
	for name, c := range files {
		if err := os.WriteFile(filepath.Join(dir, name), pemOf(c.Raw), 0o644); err != nil {
			return fmt.Errorf("writing development root %q: %w", name, err)
		}
	}
	return nil
}

func pemOf(ders ...[]byte) []byte {
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

func caTemplate(serial int64, name pkix.Name) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: name,
		NotBefore: validFrom, NotAfter: validUntil,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true,
	}
}

func issue(t, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, signer)
	if err != nil {
		return nil, fmt.Errorf("certificate %q: %w", t.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func randomSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	return n, nil
}
