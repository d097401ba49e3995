package attest

import (
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// akKeyID names the attestation key among the paravisor's keys.
const akKeyID = "HCLAkPub"

// RuntimeData is what the paravisor says in the JSON that the hardware report is
// bound to. Absent members are nil: older paravisors write fewer.
type RuntimeData struct {
	AK           *rsa.PublicKey
	VMUniqueID   string
	SecureBoot   *bool
	TPMEnabled   *bool
	TPMPersisted *bool // false: a stateless vTPM
	Console      *bool
	UserData     []byte // 64 bytes, nil if absent
}

// ParseRuntimeData reads runtime data strictly (S9): no member and no kid twice,
// exactly one HCLAkPub, RSA of 2048 bits with exponent 65537. Unknown members are
// passed over. Old paravisors label the AK's use wrongly, so key_ops is not read.
func ParseRuntimeData(b []byte) (RuntimeData, error) {
	var r RuntimeData
	m, err := members(b)
	if err != nil {
		return r, fmt.Errorf("runtime data: %w", err)
	}
	if r.AK, err = runtimeAK(m["keys"]); err != nil {
		return r, fmt.Errorf("runtime data: %w", err)
	}
	conf, err := object(m["vm-configuration"])
	if err != nil {
		return r, fmt.Errorf("runtime data: vm-configuration: %w", err)
	}
	for name, to := range map[string]**bool{
		"secure-boot": &r.SecureBoot, "tpm-enabled": &r.TPMEnabled,
		"tpm-persisted": &r.TPMPersisted, "console-enabled": &r.Console,
	} {
		if *to, err = boolean(conf, name); err != nil {
			return r, fmt.Errorf("runtime data: vm-configuration: %w", err)
		}
	}
	if _, ok := conf["vmUniqueId"]; ok {
		if r.VMUniqueID, err = text(conf, "vmUniqueId"); err != nil {
			return r, fmt.Errorf("runtime data: vm-configuration: %w", err)
		}
	}
	if _, ok := m["user-data"]; ok {
		s, err := text(m, "user-data")
		if err != nil {
			return r, fmt.Errorf("runtime data: %w", err)
		}
		if r.UserData, err = hex.DecodeString(s); err != nil || len(r.UserData) != 64 {
			return r, errors.New("runtime data: user-data is not 64 bytes of hex")
		}
	}
	return r, nil
}

func runtimeAK(raw json.RawMessage) (*rsa.PublicKey, error) {
	var keys []json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return nil, errors.New("keys is not a list")
	}
	var ak *rsa.PublicKey
	seen := map[string]bool{}
	for i, k := range keys {
		m, err := object(k)
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		kid, err := text(m, "kid")
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if seen[kid] {
			return nil, fmt.Errorf("kid %q is there twice", kid)
		}
		seen[kid] = true
		if kid == akKeyID {
			if ak, err = jwkAK(m); err != nil {
				return nil, fmt.Errorf("%s: %w", akKeyID, err)
			}
		}
	}
	if ak == nil {
		return nil, fmt.Errorf("no key %q: a report for key release, or an edited one", akKeyID)
	}
	return ak, nil
}

// jwkAK reads an RSA-2048 key with exponent 65537 from a JWK.
func jwkAK(m map[string]json.RawMessage) (*rsa.PublicKey, error) {
	if kty, err := text(m, "kty"); err != nil || kty != "RSA" {
		return nil, fmt.Errorf("kty %q is not RSA", kty)
	}
	if e, err := text(m, "e"); err != nil || e != "AQAB" {
		return nil, fmt.Errorf("e %q is not AQAB (65537)", e)
	}
	s, err := text(m, "n")
	if err != nil {
		return nil, err
	}
	n, err := decodeB64(s)
	if err != nil {
		return nil, fmt.Errorf("n: %w", err)
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}
	return key, checkAK(key)
}

// checkAK holds an AK to RSA-2048, e = 65537, a full-size odd modulus.
func checkAK(k *rsa.PublicKey) error {
	if k.N.BitLen() != 2048 || k.N.Bit(0) == 0 || k.E != 65537 {
		return fmt.Errorf("AK of %d bits with exponent %d is not RSA-2048 with 65537", k.N.BitLen(), k.E)
	}
	return nil
}
