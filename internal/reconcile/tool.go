package reconcile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"sync"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
)

// GuestTool is the Tool that uploads a file: once a process, under tools/<sha256>.
type GuestTool struct {
	Blobs ledger.Blobs
	SAS   ledger.SASBlobs
	Path  string        // of cvmguard-guest
	Life  time.Duration // of the read URL

	mu  sync.Mutex // guards sha
	sha string     // "" until uploaded
}

var _ Tool = (*GuestTool)(nil)

// Ensure implements Tool.
func (t *GuestTool) Ensure(ctx context.Context) (sha, url string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sha == "" {
		body, err := os.ReadFile(t.Path)
		if err != nil {
			return "", "", &fault.Error{Kind: fault.Blocked, Op: "reading the guest's tool", Object: t.Path, Err: err,
				Next: "deploy dist/ whole, or name the file in CVMGUARD_GUEST_TOOL"}
		}
		sum := sha256.Sum256(body)
		name := hex.EncodeToString(sum[:])
		if err := t.Blobs.Create(ctx, ledger.ContainerTools, name, body); err != nil && !fault.Is(err, fault.Conflict) {
			return "", "", fmt.Errorf("uploading the guest's tool: %w", err)
		}
		t.sha = name
	}
	url, err = t.SAS.ReadURL(ctx, ledger.ContainerTools, t.sha, t.Life)
	if err != nil {
		return "", "", fmt.Errorf("making a URL for the guest's tool: %w", err)
	}
	return t.sha, url, nil
}
