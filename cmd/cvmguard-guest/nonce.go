package main

import (
	"crypto/rand"

	"cvmguard/internal/guest"
)

// nonceOrRandom reads a nonce, or makes one where none is given.
func nonceOrRandom(s string) (nonce [32]byte, err error) {
	if s != "" {
		return guest.ParseNonce(s)
	}
	_, err = rand.Read(nonce[:])
	return nonce, err
}
