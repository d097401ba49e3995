package hardware

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
	"sync"
)

// keyPool hands out RSA-2048 keys, each with another modulus, and makes them
// cheaply: n keys come from about the square root of 2n primes, every key being
// another pair. Whoever sees two of the moduli can factor both; the simulated
// machines have nothing to hide.
type keyPool struct {
	mu     sync.Mutex
	primes []*big.Int // guarded by mu
	a, b   int        // the next pair, a < b; guarded by mu
}

const publicExponent = 65537

// next is a key that this pool has not handed out before.
func (p *keyPool) next() (*rsa.PrivateKey, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.b == 0 {
		p.b = 1
	}
	for len(p.primes) <= p.b {
		prime, err := newPrime()
		if err != nil {
			return nil, err
		}
		p.primes = append(p.primes, prime)
	}
	key, err := keyOf(p.primes[p.a], p.primes[p.b])
	if err != nil {
		return nil, err
	}
	if p.a++; p.a == p.b {
		p.a, p.b = 0, p.b+1
	}
	return key, nil
}

// newPrime is a prime of 1024 bits with its two top bits set, so that the
// product of any two has 2048 bits, and with p-1 prime to the public exponent.
func newPrime() (*big.Int, error) {
	one, e := big.NewInt(1), big.NewInt(publicExponent)
	for {
		p, err := rand.Prime(rand.Reader, 1024)
		if err != nil {
			return nil, fmt.Errorf("making a prime for simulated keys: %w", err)
		}
		pm1 := new(big.Int).Sub(p, one)
		if new(big.Int).Mod(pm1, e).Sign() != 0 {
			return p, nil
		}
	}
}

func keyOf(p, q *big.Int) (*rsa.PrivateKey, error) {
	one := big.NewInt(1)
	pm1, qm1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
	phi := new(big.Int).Mul(pm1, qm1)
	d := new(big.Int).ModInverse(big.NewInt(publicExponent), phi)
	key := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: publicExponent},
		D:         d,
		Primes:    []*big.Int{p, q},
	}
	key.Precompute()
	if err := key.Validate(); err != nil {
		return nil, fmt.Errorf("making a simulated RSA key: %w", err)
	}
	return key, nil
}
