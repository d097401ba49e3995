package ledger

import (
	"context"
	"time"
)

// Container names of the storage account.
const (
	ContainerRecords     = "records"
	ContainerEvidence    = "evidence"
	ContainerPolicy      = "policy"
	ContainerPlans       = "plans" // <hash>.json: operations, as they were approved
	ContainerInbox       = "inbox"
	ContainerIncoming    = "incoming"
	ContainerTools       = "tools"
	ContainerDeadLetter  = "deadletter"
	ContainerCheckpoints = "checkpoints"
)

// Table and queue names.
const (
	TableVMs    = "vms"
	TableShared = "shared"
	TableNonces = "nonces"
	TableInbox  = "inbox"
	TableBrakes = "brakes"

	QueueReconcile = "reconcile"
	QueuePoison    = "reconcile-poison"
)

// Blobs is what the ledger needs of blob storage. Errors are of package fault:
// Create answers Conflict when the blob is there, Read NotFound when it isn't;
// Delete of an absent blob answers NotFound or nil.
type Blobs interface {
	// Create writes a new blob and never overwrites (If-None-Match: *).
	Create(ctx context.Context, container, name string, body []byte) error
	// Read gives at most max bytes; a longer blob is fault.Invalid.
	Read(ctx context.Context, container, name string, max int64) ([]byte, error)
	Exists(ctx context.Context, container, name string) (bool, error)
	// List calls yield for each name with the prefix, in order, until it returns false.
	List(ctx context.Context, container, prefix string, yield func(name string) bool) error
	Delete(ctx context.Context, container, name string) error
}

// SASBlobs is the optional part that makes short URLs for a guest.
type SASBlobs interface {
	// ReadURL is a read-only SAS URL, AppendURL one that may create and append only.
	ReadURL(ctx context.Context, container, name string, life time.Duration) (string, error)
	AppendURL(ctx context.Context, container, name string, life time.Duration) (string, error)
}

// Entity is one table row: text columns only. Times are written by TimeText, so
// that they compare as text.
type Entity struct {
	PK, RK string
	ETag   string
	Cols   map[string]string
}

// Filter selects rows; empty parts don't restrict. All given parts must hold. A
// condition on a column that a row hasn't got does not hold. PartitionKey and
// RowKey are columns here: a condition on PartitionKey reads that range alone.
type Filter struct {
	PK     string
	Equal  map[string]string
	Below  map[string]string // column < value
	Prefix map[string]string // column starts with value
}

// Tables is what the ledger needs of table storage. Errors are of package fault:
// Get NotFound; Insert Conflict when the row is there; Replace and Delete
// Conflict when the ETag is stale or the row is gone. An ETag of "" or "*" is
// refused: no write goes without the version that it rests on. Replace leaves no
// column of the row before. Package storetest has the contract as tests.
type Tables interface {
	Get(ctx context.Context, table, pk, rk string) (Entity, error)
	Insert(ctx context.Context, table string, e Entity) (etag string, err error)
	Replace(ctx context.Context, table string, e Entity) (etag string, err error) // If-Match e.ETag
	Delete(ctx context.Context, table, pk, rk, etag string) error
	// Query calls yield for each row until it returns false.
	Query(ctx context.Context, table string, f Filter, yield func(Entity) bool) error
}

// Queue puts messages on a queue. The message never expires; it is hidden for
// delay (at most 7 days). Text goes base64-encoded on the wire, as the host
// reads it.
type Queue interface {
	Enqueue(ctx context.Context, queue string, text []byte, delay time.Duration) error
}

// TimeText is the one spelling of a time in a row: UTC, fixed width, so that
// text order is time order. The zero time is "".
func TimeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000000Z")
}

// ParseTime reads TimeText; "" is the zero time.
func ParseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339Nano, s)
}
