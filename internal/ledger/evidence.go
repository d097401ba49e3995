package ledger

import (
	"context"
	"fmt"

	"cvmguard/internal/fault"
)

// MaxEvidence is the longest piece of evidence that is kept, in bytes: a bundle
// with its event log, or a token.
const MaxEvidence = 4 << 20

// Evidence keeps raw evidence by its content, in evidence/sha256/<hex>. A blob
// there is never rewritten.
type Evidence struct{ Blobs Blobs }

// EvidenceName is the blob's name for a hex SHA-256.
func EvidenceName(sha string) string { return "sha256/" + sha }

// PutEvidence writes body under the SHA-256 of its bytes, in hex. That it is
// there already is success. Errors: Invalid for an empty or too long body.
func (e Evidence) PutEvidence(ctx context.Context, body []byte) (sha string, err error) {
	sha = HashBytes(body)
	if err := keepable(body, sha); err != nil {
		return "", err
	}
	err = e.Blobs.Create(ctx, ContainerEvidence, EvidenceName(sha), body)
	if err != nil && !fault.Is(err, fault.Conflict) {
		return "", fmt.Errorf("keeping evidence %s: %w", sha, err)
	}
	return sha, nil
}

func keepable(body []byte, sha string) error {
	if len(body) == 0 || len(body) > MaxEvidence {
		return fault.New(fault.Invalid, "keeping evidence", sha, "it has %d bytes; 1 to %d are kept", len(body), MaxEvidence)
	}
	return nil
}

// GetEvidence reads a piece of evidence and checks it against its name. Errors:
// NotFound; Bug when the bytes aren't those that the name stands for.
func (e Evidence) GetEvidence(ctx context.Context, sha string) ([]byte, error) {
	const op = "reading evidence"
	if !IsHash(sha) {
		return nil, fault.New(fault.NotFound, op, sha, "a piece of evidence is named by 64 hex digits in lower case")
	}
	body, err := e.Blobs.Read(ctx, ContainerEvidence, EvidenceName(sha), MaxEvidence)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", op, sha, err)
	}
	if got := HashBytes(body); got != sha {
		return nil, &fault.Error{Kind: fault.Bug, Op: op, Object: sha, Err: fmt.Errorf("its bytes have the SHA-256 %s", got),
			Next: "find out who wrote to container evidence; this evidence proves nothing any more"}
	}
	return body, nil
}
