package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"cvmguard/internal/fault"
	"cvmguard/internal/remedy"
)

// maxOperation is the longest operation that is kept and read, in bytes.
const maxOperation = 4 << 20

// Operations keeps plans that wait for a person's approval: blob
// plans/<hash>.json, where hash is the SHA-256 (hex) of the blob's bytes. What is
// kept is never rewritten, so an approval by hash is one of every byte.
type Operations struct {
	Blobs Blobs
}

// Put keeps an operation and gives its hash. One that is kept already is no error.
func (o Operations) Put(ctx context.Context, op remedy.Operation) (hash string, err error) {
	body, err := EncodeOperation(op)
	if err != nil {
		return "", err
	}
	if len(body) > maxOperation {
		return "", fault.New(fault.Blocked, "keeping a plan", op.Object, "the plan has %d bytes, and one of more than %d can't be read again; split it: move some VMs to another disk encryption set, or take extensions off, and plan again", len(body), maxOperation)
	}
	sum := sha256.Sum256(body)
	hash = hex.EncodeToString(sum[:])
	err = o.Blobs.Create(ctx, ContainerPlans, hash+".json", body)
	if err != nil && !fault.Is(err, fault.Conflict) {
		return "", fmt.Errorf("keeping plan %s: %w", hash, err)
	}
	return hash, nil
}

// Get reads an operation. fault.NotFound: there is none of that hash; fault.Bug:
// its bytes aren't those that the hash was made of, or no operation.
func (o Operations) Get(ctx context.Context, hash string) (remedy.Operation, error) {
	if !IsHash(hash) {
		return remedy.Operation{}, fault.New(fault.Invalid, "reading a plan", hash, "it isn't a plan's hash; give the 64 hex digits that the plan was printed with")
	}
	body, err := o.Blobs.Read(ctx, ContainerPlans, hash+".json", maxOperation)
	if fault.Is(err, fault.NotFound) {
		e := fault.New(fault.NotFound, "reading a plan", hash, "there is no plan with this hash")
		e.Next = "see cvmguard operation list"
		return remedy.Operation{}, e
	}
	if err != nil {
		return remedy.Operation{}, fmt.Errorf("reading plan %s: %w", hash, err)
	}
	sum := sha256.Sum256(body)
	if hex.EncodeToString(sum[:]) != hash {
		return remedy.Operation{}, fault.New(fault.Bug, "reading a plan", hash, "its bytes were changed after it was made; make the plan again")
	}
	var op remedy.Operation
	if err := json.Unmarshal(body, &op); err != nil || op.Schema != remedy.OperationSchema {
		return remedy.Operation{}, fault.New(fault.Bug, "reading a plan", hash, "it is no %s; make the plan again", remedy.OperationSchema)
	}
	return op, nil
}

// EncodeOperation gives the bytes of which the hash is made.
func EncodeOperation(op remedy.Operation) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(op); err != nil {
		return nil, fault.New(fault.Bug, "writing a plan", op.Object, "%w", err)
	}
	return b.Bytes(), nil
}
