package azure

import (
	"testing"

	"cvmguard/internal/ledger/storetest"
)

// TestTheLedgersContract runs the contract of the ledger's storage against real
// storage.
func TestTheLedgersContract(t *testing.T) {
	c := account(t, true)
	http, err := c.transport()
	if err != nil {
		t.Fatal(err)
	}
	storetest.Run(t, storetest.Store{Blobs: c.Blobs(), Tables: c.Tables(), Queue: c.Queue(), SAS: c.Blobs(), HTTP: http})
}
