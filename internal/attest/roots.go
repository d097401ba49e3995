package attest

import (
	"crypto/x509"
	"embed"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// The vendors' certificates: AMD's ASK and ARK of each product as AMD's key
// distribution service publishes them, Azure's vTPM root of 2023 and the
// intermediate without which leaves that name no issuer address don't chain.
//
//go:embed roots/*.pem
var vendorFiles embed.FS

// Roots are the trust anchors of a judgement: the vendors' own, or a development
// set, whose use marks every result.
type Roots struct {
	development bool
	amd         map[string]amdChain // by product, lower case
	vtpm        *x509.CertPool      // Azure vTPM roots; nil if the set has none
	vtpmCAs     []*x509.Certificate // their known intermediates
}

type amdChain struct{ ask, ark *x509.Certificate }

// Development says whether these are not the vendors' roots.
func (r *Roots) Development() bool { return r != nil && r.development }

// AMD gives the pinned ASK and ARK of a product (milan, genoa, turin; any letter
// case).
func (r *Roots) AMD(product string) (ask, ark *x509.Certificate, ok bool) {
	if r == nil {
		return nil, nil, false
	}
	c, ok := r.amd[strings.ToLower(product)]
	return c.ask, c.ark, ok
}

// VendorRoots are the vendors' roots, read from the binary on first use. It
// panics if the embedded files are damaged, which a test rules out.
func VendorRoots() *Roots { return vendorRoots() }

var vendorRoots = sync.OnceValue(func() *Roots {
	r, err := loadVendorRoots(vendorFiles)
	if err != nil {
		panic(fmt.Sprintf("embedded vendor roots: %v", err))
	}
	return r
})

func loadVendorRoots(files fs.FS) (*Roots, error) {
	r := &Roots{amd: map[string]amdChain{}, vtpm: x509.NewCertPool()}
	for _, product := range []string{"milan", "genoa", "turin"} {
		certs, err := readPEM(files, "roots/amd-"+product+".pem")
		if err != nil {
			return nil, err
		}
		if len(certs) != 2 {
			return nil, fmt.Errorf("AMD chain of %s has %d certificates, want ASK and ARK", product, len(certs))
		}
		if err := r.addAMD(product, certs[0], certs[1]); err != nil {
			return nil, err
		}
	}
	root, err := readPEM(files, "roots/azure-vtpm-root.pem")
	if err != nil {
		return nil, err
	}
	for _, c := range root {
		r.vtpm.AddCert(c)
	}
	r.vtpmCAs, err = readPEM(files, "roots/azure-vtpm-global-ca-03.pem")
	return r, err
}

// LoadRoots reads a development set from a folder: amd-<product>-ark.pem with
// amd-<product>-ask.pem for each product, azure-vtpm-root.pem, and any other
// azure-vtpm-*.pem as intermediates. Either half may be missing, not both.
func LoadRoots(dir string) (*Roots, error) {
	r := &Roots{development: true, amd: map[string]amdChain{}}
	files := os.DirFS(dir)
	names, err := fs.Glob(files, "*.pem")
	if err != nil {
		return nil, fmt.Errorf("reading trust roots in %q: %w", dir, err)
	}
	for _, name := range names {
		certs, err := readPEM(files, name)
		if err != nil {
			return nil, fmt.Errorf("reading trust roots in %q: %w", dir, err)
		}
		product, isARK := strings.CutSuffix(name, "-ark.pem")
		product, isAMD := strings.CutPrefix(product, "amd-")
		switch {
		case isAMD && isARK:
			ask, err := readPEM(files, "amd-"+product+"-ask.pem")
			if err != nil {
				return nil, fmt.Errorf("reading trust roots in %q: %w", dir, err)
			}
			if err := r.addAMD(product, ask[0], certs[0]); err != nil {
				return nil, fmt.Errorf("trust roots in %q: %w", dir, err)
			}
		case name == "azure-vtpm-root.pem":
			r.vtpm = x509.NewCertPool()
			for _, c := range certs {
				r.vtpm.AddCert(c)
			}
		case strings.HasPrefix(name, "azure-vtpm-"):
			r.vtpmCAs = append(r.vtpmCAs, certs...)
		}
	}
	if len(r.amd) == 0 && r.vtpm == nil {
		return nil, fmt.Errorf("no trust roots in %q: want amd-<product>-ark.pem with amd-<product>-ask.pem, or azure-vtpm-root.pem", dir)
	}
	return r, nil
}

// addAMD pins a product's chain, after a look at its own signatures.
func (r *Roots) addAMD(product string, ask, ark *x509.Certificate) error {
	if err := ark.CheckSignatureFrom(ark); err != nil {
		return fmt.Errorf("AMD ARK of %s is not self-signed: %w", product, err)
	}
	if err := ask.CheckSignatureFrom(ark); err != nil {
		return fmt.Errorf("AMD ASK of %s is not signed by its ARK: %w", product, err)
	}
	r.amd[strings.ToLower(product)] = amdChain{ask: ask, ark: ark}
	return nil
}

func readPEM(files fs.FS, name string) ([]*x509.Certificate, error) {
	data, err := fs.ReadFile(files, name)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(name), err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", filepath.Base(name))
	}
	return certs, nil
}

// oidProductName is AMD's extension with the chip's product, e.g. Milan-B0.
var oidProductName = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 2}

// vcekProduct reads the product, lower case (milan), from a VCEK: its product
// name extension, or else its issuer's name. It is the certificate's own word.
func vcekProduct(c *x509.Certificate) (string, error) {
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidProductName) {
			continue
		}
		var name string
		if rest, err := asn1.UnmarshalWithParams(e.Value, &name, "ia5"); err != nil || len(rest) != 0 {
			return "", errors.New("VCEK's product name is not an IA5String")
		}
		line, _, _ := strings.Cut(name, "-")
		return strings.ToLower(line), nil
	}
	if line, ok := strings.CutPrefix(c.Issuer.CommonName, "SEV-"); ok {
		return strings.ToLower(line), nil
	}
	return "", fmt.Errorf("VCEK names no product (issuer %q)", c.Issuer.CommonName)
}
