package azure

import (
	"context"
	"strings"
	"sync"
	"time"

	"cvmguard/internal/cvm"
)

// Reader reads with a memory for what VMs share: disk encryption sets, keys,
// vaults and rights. VMs, disks and the disks of a set are read every time. fresh
// reads past the memory and renews it. It is safe for concurrent use.
type Reader struct {
	c      *Client
	des    *cache[cvm.DES]
	keys   *cache[cvm.Key]
	vaults *cache[cvm.Vault]
	rights *cache[cvm.Rights]
}

// Reader makes a reader whose memory is at most ttl old, and never older than a
// write that was made through the same Client. A ttl of 0 remembers nothing, but
// readers at the same moment still share one call.
func (c *Client) Reader(ttl time.Duration) *Reader {
	clock := func() time.Time { return c.now() }
	r := &Reader{c: c,
		des:    newCache[cvm.DES](ttl, 4096, clock),
		keys:   newCache[cvm.Key](ttl, 4096, clock),
		vaults: newCache[cvm.Vault](ttl, 4096, clock),
		rights: newCache[cvm.Rights](ttl, 4096, clock),
	}
	c.listeners.add(r.changed)
	return r
}

// VM reads a VM with its instance view in one call.
func (r *Reader) VM(ctx context.Context, id cvm.VMID) (cvm.VM, error) { return r.c.VM(ctx, id) }

// Disk reads a managed disk.
func (r *Reader) Disk(ctx context.Context, id cvm.DiskID) (cvm.Disk, error) { return r.c.Disk(ctx, id) }

// DESDisks lists the disks on a disk encryption set.
func (r *Reader) DESDisks(ctx context.Context, id cvm.DESID) ([]cvm.DiskID, error) {
	return r.c.DESDisks(ctx, id)
}

// DES reads a disk encryption set.
func (r *Reader) DES(ctx context.Context, id cvm.DESID, fresh bool) (cvm.DES, error) {
	return r.des.get(ctx, fold(id), fresh, func(ctx context.Context) (cvm.DES, error) { return r.c.DES(ctx, id) })
}

// Key reads a key's version, the newest if the URL names none.
func (r *Reader) Key(ctx context.Context, id cvm.KeyID, fresh bool) (cvm.Key, error) {
	return r.keys.get(ctx, fold(id), fresh, func(ctx context.Context) (cvm.Key, error) { return r.c.Key(ctx, id) })
}

// Vault reads a key vault or managed HSM.
func (r *Reader) Vault(ctx context.Context, ref cvm.VaultRef, fresh bool) (cvm.Vault, error) {
	return r.vaults.get(ctx, fold(ref.ID)+"|"+strings.ToLower(ref.Host), fresh, func(ctx context.Context) (cvm.Vault, error) { return r.c.Vault(ctx, ref) })
}

// Rights reads who may do what with a key. Access policies are part of the vault
// in q and cost no call.
func (r *Reader) Rights(ctx context.Context, q cvm.RightsQuery, fresh bool) (cvm.Rights, error) {
	if rightsModel(q.Vault) == modelPolicies {
		return r.c.Rights(ctx, q)
	}
	key := strings.Join([]string{fold(q.Key), fold(q.Vault.ID), fold(q.DESPrincipal), fold(q.Orchestrator)}, "|")
	return r.rights.get(ctx, key, fresh, func(ctx context.Context) (cvm.Rights, error) { return r.c.Rights(ctx, q) })
}

// changed forgets what a write of ours has changed.
func (r *Reader) changed(object string) {
	touches := func(k string) bool { return strings.HasPrefix(k, object) || strings.HasPrefix(object, k) }
	switch {
	case strings.Contains(object, "/diskencryptionsets/"):
		r.des.forget(touches)
	case strings.Contains(object, "/keys/"):
		// A new version changes what the versionless URL names, and the other way round.
		r.keys.forget(func(k string) bool {
			return touches(k) || touches(versionless(k)) || strings.HasPrefix(object, versionless(k))
		})
		r.rights.forget(func(k string) bool { return strings.HasPrefix(k, versionless(object)) })
	case strings.Contains(object, "/vaults/"), strings.Contains(object, "/managedhsms/"):
		r.vaults.forget(func(string) bool { return true }) // a vault is known by its id, its host or both
		r.rights.forget(func(string) bool { return true })
	}
}

// versionless cuts the version off a folded key URL.
func versionless(key string) string {
	i := strings.Index(key, "/keys/")
	if i < 0 {
		return key
	}
	if j := strings.IndexByte(key[i+len("/keys/"):], '/'); j >= 0 {
		return key[:i+len("/keys/")+j]
	}
	return key
}

// listeners are told of each write, by the folded id of what it changed.
type listeners struct {
	mu  sync.Mutex
	all []func(object string) // guarded by mu
}

func (l *listeners) add(f func(string)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, f)
}

func (l *listeners) changed(object string) {
	l.mu.Lock()
	all := l.all
	l.mu.Unlock()
	for _, f := range all {
		f(fold(object))
	}
}
