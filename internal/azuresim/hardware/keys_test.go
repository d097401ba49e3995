package hardware

import (
	"crypto/rsa"
	"testing"
)

func TestKeyPoolHandsOutDistinctUsableKeys(t *testing.T) {
	var p keyPool
	seen := map[string]bool{}
	for range 15 {
		k, err := p.next()
		if err != nil {
			t.Fatal(err)
		}
		if k.N.BitLen() != 2048 || k.E != 65537 {
			t.Fatalf("key of %d bits, exponent %d", k.N.BitLen(), k.E)
		}
		if seen[k.N.String()] {
			t.Fatal("a modulus came twice")
		}
		seen[k.N.String()] = true
		if _, err := rsa.SignPKCS1v15(nil, k, 0, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.primes); n > 6 {
		t.Errorf("15 keys took %d primes, want 6", n)
	}
}
