package ledger

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// NonceSize is the length of a nonce in bytes.
const NonceSize = 32

// The ways by which a nonce goes to the guest.
const (
	WayARM  = "arm"
	WayPush = "push"
)

// Partitions of table nonces.
const (
	noncePartition = "n"
	quotaPartition = "quota"
)

// consumeTries bounds how often a lost ETag race is tried again at once.
const consumeTries = 8

// NonceState is what check C2 found. The words are those of attest.NonceState.
type NonceState string

// The outcomes of C2.
const (
	NonceGood    NonceState = "good"
	NonceUnknown NonceState = "unknown" // never issued, or issued for another VM
	NonceExpired NonceState = "expired"
	NonceReused  NonceState = "reused"
)

// NonceRow is what is kept of a nonce: everything but the nonce itself.
type NonceRow struct {
	Hash     string    // hex SHA-256 of the nonce: the row key
	VM       cvm.VMID  // as read; compared without regard to case
	UniqueID string    // ARM vmId at issue
	Cause    string    // why: the intent's record name, or "push"
	Way      string    // WayARM or WayPush
	Issued   time.Time //
	Expires  time.Time // judged only while it is unused
	Blob     string    // in container incoming, "" for a push
	Reserved string    // hex SHA-256 of the one bundle that may use it, "" while any may
	Used     string    // hex SHA-256 of the bundle that used it and is in evidence, "" if unused
	ETag     string
}

// Nonces issues nonces and lets each be used once, in table nonces.
type Nonces struct {
	Tables   Tables
	Evidence Evidence
}

// NonceHash is the row key of a nonce: the hex SHA-256 of its bytes. It may be
// logged and recorded, the nonce may not.
func NonceHash(nonce []byte) string { return HashBytes(nonce) }

// IssueNonce makes a nonce from random, valid until now + life, and keeps its
// row and the entry by which Expire finds it. Of row it takes VM, UniqueID, Cause,
// Way and Blob. The nonce is nowhere kept: after a crash a new one is issued.
func (n Nonces) IssueNonce(ctx context.Context, random io.Reader, now time.Time, life time.Duration, row NonceRow) (nonce []byte, issued NonceRow, err error) {
	const op = "issuing a nonce for"
	if row.VM == "" || row.UniqueID == "" || (row.Way != WayARM && row.Way != WayPush) || life <= 0 {
		return nil, NonceRow{}, fault.New(fault.Bug, op, string(row.VM), "it needs a VM, its vmId (%q), a way (%q) and a life (%s)", row.UniqueID, row.Way, life)
	}
	nonce = make([]byte, NonceSize)
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, NonceRow{}, fault.New(fault.Transient, op, string(row.VM), "reading random bytes: %w", err)
	}
	row.Hash, row.Reserved, row.Used = NonceHash(nonce), "", ""
	row.Issued, row.Expires = now.UTC(), now.Add(life).UTC()
	// First: an entry without a row is dropped when it is due, a row without one
	// would stay for good.
	if err = n.putDue(ctx, row.Hash, row.Expires); err != nil {
		return nil, NonceRow{}, fmt.Errorf("%s %q: %w", op, row.VM, err)
	}
	if row.ETag, err = n.Tables.Insert(ctx, TableNonces, row.entity()); err != nil {
		return nil, NonceRow{}, fmt.Errorf("%s %q: %w", op, row.VM, err)
	}
	return nonce, row, nil
}

// ByHash gives a nonce's row by the hex SHA-256 of the nonce, NotFound if there
// is none.
func (n Nonces) ByHash(ctx context.Context, hash string) (NonceRow, error) {
	const op = "reading a nonce's row"
	if !IsHash(hash) {
		return NonceRow{}, fault.New(fault.NotFound, op, hash, "a nonce's row is named by 64 hex digits in lower case")
	}
	e, err := n.Tables.Get(ctx, TableNonces, noncePartition, hash)
	if err != nil {
		return NonceRow{}, fmt.Errorf("%s: %w", op, err)
	}
	return decodeNonce(e)
}

// Consume is check C2 for a bundle of vm that claims to be over nonce. In this
// order: the nonce's row is looked up; the row's Reserved is set to the bundle's
// hash by ETag; the bundle's bytes are written to evidence; the row's Used is set
// likewise. Reserving comes first since whoever has a nonce may push: however
// many send different bytes at once, one piece of evidence is kept.
//
// The same bytes are good again, whatever the time, and go on where a crash
// stopped them, so that it does not turn good evidence bad; other bytes are
// NonceReused. The time counts only for a nonce that nothing was reserved on.
//
// A bundle that is refused is not kept: a nonce that isn't good gives nobody
// room in the store. A caller that wants it for the record calls PutEvidence. A
// bundle that can't be kept (Invalid, see PutEvidence) leaves the nonce unused.
// bundleSHA is set in every case; row is empty for NonceUnknown.
func (n Nonces) Consume(ctx context.Context, nonce []byte, vm cvm.VMID, bundle []byte, now time.Time) (state NonceState, row NonceRow, bundleSHA string, err error) {
	bundleSHA = HashBytes(bundle)
	hash := NonceHash(nonce)
	kept := false
	for range consumeTries {
		row, err = n.ByHash(ctx, hash)
		switch {
		case fault.Is(err, fault.NotFound):
			return NonceUnknown, NonceRow{}, bundleSHA, nil
		case err != nil:
			return "", NonceRow{}, bundleSHA, err
		case !strings.EqualFold(string(row.VM), string(vm)):
			return NonceUnknown, NonceRow{}, bundleSHA, nil
		case row.Used == bundleSHA:
			return NonceGood, row, bundleSHA, nil
		case row.Used != "", row.Reserved != "" && row.Reserved != bundleSHA:
			return NonceReused, row, bundleSHA, nil
		case row.Reserved == "" && !now.Before(row.Expires):
			return NonceExpired, row, bundleSHA, nil
		}
		if row.Reserved == "" {
			if err = keepable(bundle, bundleSHA); err != nil {
				return "", NonceRow{}, bundleSHA, err
			}
			row.Reserved = bundleSHA
			if row.ETag, err = n.Tables.Replace(ctx, TableNonces, row.entity()); err != nil {
				if fault.Is(err, fault.Conflict) {
					continue
				}
				return "", NonceRow{}, bundleSHA, fmt.Errorf("reserving a nonce of %q: %w", vm, err)
			}
		}
		if !kept {
			if _, err = n.Evidence.PutEvidence(ctx, bundle); err != nil {
				return "", NonceRow{}, bundleSHA, err
			}
			kept = true
		}
		row.Used = bundleSHA
		etag, err := n.Tables.Replace(ctx, TableNonces, row.entity())
		if err == nil {
			row.ETag = etag
			return NonceGood, row, bundleSHA, nil
		}
		if !fault.Is(err, fault.Conflict) {
			return "", NonceRow{}, bundleSHA, fmt.Errorf("using a nonce of %q: %w", vm, err)
		}
	}
	return "", NonceRow{}, bundleSHA, fault.New(fault.Conflict, "using a nonce of", string(vm), "its row changed %d times meanwhile", consumeTries)
}

// TakeQuota counts one push nonce for a VM in the hour of now and refuses, with
// fault.Throttled and the time to the next hour, when limit were issued in it.
// It is one row a VM and hour, found by its key: no scan, whatever the number of
// nonces. Call it before IssueNonce; a crash between the two costs one of the
// hour's count. Only pushes are counted: who asks too often for one VM delays
// its pushes, never the collection through ARM.
func (n Nonces) TakeQuota(ctx context.Context, vm cvm.VMID, now time.Time, limit int) error {
	const op = "issuing a nonce for"
	hour := now.UTC().Truncate(time.Hour)
	rk := cvm.RowKey(string(vm)) + "-" + hour.Format("2006010215")
	for range consumeTries {
		e, err := n.Tables.Get(ctx, TableNonces, quotaPartition, rk)
		if fault.Is(err, fault.NotFound) {
			e = Entity{PK: quotaPartition, RK: rk, Cols: map[string]string{
				"vm": strings.ToLower(string(vm)), "hour": TimeText(hour), "count": "0"}}
		} else if err != nil {
			return fmt.Errorf("%s %q: reading its count: %w", op, vm, err)
		}
		count, err := strconv.Atoi(e.Cols["count"])
		if err != nil || count < 0 {
			return fault.New(fault.Bug, op, string(vm), "column count of its quota row holds %q", e.Cols["count"])
		}
		if count >= limit {
			return &fault.Error{Kind: fault.Throttled, Op: op, Object: string(vm), RetryAfter: hour.Add(time.Hour).Sub(now),
				Err: fmt.Errorf("%d nonces were asked for in this hour, which is the most", count), Next: "use one of them or wait for the next hour"}
		}
		e.Cols["count"] = strconv.Itoa(count + 1)
		if e.ETag == "" {
			_, err = n.Tables.Insert(ctx, TableNonces, e)
		} else {
			_, err = n.Tables.Replace(ctx, TableNonces, e)
		}
		if err == nil {
			return nil
		}
		if !fault.Is(err, fault.Conflict) {
			return fmt.Errorf("%s %q: writing its count: %w", op, vm, err)
		}
	}
	return &fault.Error{Kind: fault.Throttled, Op: op, Object: string(vm), RetryAfter: time.Second,
		Err: fmt.Errorf("many ask for this VM at the same moment")}
}

func (r NonceRow) entity() Entity {
	return Entity{PK: noncePartition, RK: r.Hash, ETag: r.ETag, Cols: map[string]string{
		"vm": string(r.VM), "vmId": r.UniqueID, "cause": r.Cause, "way": r.Way,
		"issued": TimeText(r.Issued), "expires": TimeText(r.Expires), "blob": r.Blob, "reserved": r.Reserved, "used": r.Used}}
}

func decodeNonce(e Entity) (NonceRow, error) {
	r := NonceRow{Hash: e.RK, ETag: e.ETag, VM: cvm.VMID(e.Cols["vm"]), UniqueID: e.Cols["vmId"], Cause: e.Cols["cause"],
		Way: e.Cols["way"], Blob: e.Cols["blob"], Reserved: e.Cols["reserved"], Used: e.Cols["used"]}
	bad := func(col string) (NonceRow, error) {
		return NonceRow{}, fault.New(fault.Bug, "reading a nonce's row", e.RK, "column %s holds %q", col, e.Cols[col])
	}
	if r.VM == "" {
		return bad("vm")
	}
	if r.Way != WayARM && r.Way != WayPush {
		return bad("way")
	}
	if r.Reserved != "" && !IsHash(r.Reserved) {
		return bad("reserved")
	}
	if r.Used != "" && !IsHash(r.Used) {
		return bad("used")
	}
	var err error
	if r.Issued, err = ParseTime(e.Cols["issued"]); err != nil || r.Issued.IsZero() {
		return bad("issued")
	}
	if r.Expires, err = ParseTime(e.Cols["expires"]); err != nil || r.Expires.IsZero() {
		return bad("expires")
	}
	return r, nil
}

// NewBlobName is a fresh random name for a blob in container incoming: 32 hex
// digits, unguessable, since whoever knows it and a SAS may append to it.
func NewBlobName(random io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fault.New(fault.Transient, "naming an incoming blob", "", "reading random bytes: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}
