package reconcile

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// Observer reads a VM's posture: reads only, no storage. `check` uses it alone;
// the loop adds what the guest proved.
type Observer struct {
	Azure Azure
	// Fresh asks for reads that no cache answers.
	Fresh bool
	// Whole asks for all that can be had: what hangs on the disk encryption set,
	// however much that is, and who has which rights on the key. A captured estate is
	// read so; live it would cost a call for each.
	Whole bool
	// Orchestrator is the object id of the platform's orchestrator, for Whole.
	Orchestrator string
	// OnDES and OnKey are told what a VM hangs on before it is read, so that a
	// shared object's outcome finds the VM (nil: nobody wants to know).
	OnDES func(cvm.DESID) error
	OnKey func(cvm.KeyID) error
}

// VM reads the posture of a VM. Errors are those that pass (transient, throttled)
// and fault.NotFound when ARM says 404; a missing permission is a fact of the
// posture.
func (o Observer) VM(ctx context.Context, id cvm.VMID) (cvm.Posture, error) {
	return o.vm(ctx, id, false)
}

func (o Observer) vm(ctx context.Context, id cvm.VMID, second bool) (cvm.Posture, error) {
	p := cvm.Posture{ID: id, SecondLook: second,
		DESDisks: cvm.NotRead[[]cvm.Disk]("not-asked", "", ""),
		Rights:   cvm.NotRead[cvm.Rights]("not-asked", "", ""),
	}
	var err error
	if p.VM, err = fact(o.Azure.VM(ctx, id))("vm-unreadable"); err != nil {
		return p, err
	}
	if p.VM.Absent {
		return p, fault.New(fault.NotFound, "reading VM", string(id), "Azure says that it isn't there")
	}
	if !p.VM.Known {
		return p, nil
	}
	p.VM.ETag = p.VM.Value.ETag
	if strings.EqualFold(string(p.VM.Value.ID), string(id)) {
		p.ID = p.VM.Value.ID // one spelling, whoever asked
	}
	if err := o.osDisk(ctx, &p); err != nil {
		return p, err
	}
	if mismatch(p) && !p.SecondLook {
		// VM and disk aren't one snapshot: both are read again before it counts.
		return o.vm(ctx, id, true)
	}
	if err := o.keyPath(ctx, &p, p.VM.Value.OSDisk.SecureDES); err != nil {
		return p, err
	}
	return p, o.dataDisks(ctx, &p)
}

func (o Observer) osDisk(ctx context.Context, p *cvm.Posture) (err error) {
	ref := p.VM.Value.OSDisk
	switch {
	case ref.Ephemeral:
		p.OSDisk = cvm.NotRead[cvm.Disk]("ephemeral-os", "", "an ephemeral OS disk is no resource of its own")
	case ref.ID == "":
		p.OSDisk = cvm.NotRead[cvm.Disk]("disk-unreadable", "", "the VM names no managed OS disk")
	default:
		p.OSDisk, err = fact(o.Azure.Disk(ctx, ref.ID))("disk-unreadable")
	}
	return err
}

// mismatch says whether VM and OS disk disagree about what they are (rows 24 to 26).
func mismatch(p cvm.Posture) bool {
	if !p.OSDisk.Known {
		return false
	}
	want, ok := cvm.ExpectedDiskSecurityType(p.VM.Value)
	d := p.OSDisk.Value
	return ok && !strings.EqualFold(want, d.SecurityType) ||
		!strings.EqualFold(string(d.SecureDES), string(p.VM.Value.OSDisk.SecureDES))
}

// keyPath follows OS disk → disk encryption set → key → vault.
func (o Observer) keyPath(ctx context.Context, p *cvm.Posture, id cvm.DESID) (err error) {
	if id == "" {
		return nil
	}
	if err := tell(o.OnDES, id); err != nil {
		return err
	}
	if p.DES, err = fact(o.Azure.DES(ctx, id, o.Fresh))("des-unreadable"); err != nil || !p.DES.Known {
		return err
	}
	des := p.DES.Value
	if asked := des.AutoRotation && strings.EqualFold(des.Type, cvm.DESTypeConfidential); asked || o.Whole {
		if p.DESDisks, err = o.disksOf(ctx, id, asked); err != nil {
			return err
		}
	}
	if p.Key, p.Vault, err = o.keyAndVault(ctx, des); err != nil || !o.Whole || !p.Vault.Known || des.PrincipalID == "" {
		return err
	}
	key, err := cvm.ParseKeyID(des.KeyURL) // whose rights are read whether the key itself can be or not
	if err != nil {
		return nil // the vault isn't known then
	}
	q := cvm.RightsQuery{Vault: p.Vault.Value, Key: key.Versionless(), DESPrincipal: des.PrincipalID, Orchestrator: o.Orchestrator}
	p.Rights, err = fact(o.Azure.Rights(ctx, q, o.Fresh))("rights-unreadable")
	return err
}

func (o Observer) keyAndVault(ctx context.Context, des cvm.DES) (key cvm.Fact[cvm.Key], vault cvm.Fact[cvm.Vault], err error) {
	id, err := cvm.ParseKeyID(des.KeyURL)
	if err != nil {
		return cvm.NotRead[cvm.Key]("key-url-invalid", "", err.Error()), cvm.NotRead[cvm.Vault]("key-url-invalid", "", ""), nil
	}
	if err := tell(o.OnKey, id); err != nil {
		return key, vault, err
	}
	if key, err = fact(o.Azure.Key(ctx, id, o.Fresh))("key-unreadable"); err != nil {
		return key, vault, err
	}
	vault, err = fact(o.Azure.Vault(ctx, cvm.VaultRef{ID: des.SourceVault, Host: id.Host()}, o.Fresh))("vault-unreadable")
	return key, vault, err
}

// maxDisksRead bounds how many disks of one disk encryption set are read to learn
// their version; beyond it the fact stays unknown, which repairs nothing.
const maxDisksRead = 50

// disksOf reads the disks that hang on a disk encryption set. Where the reader has
// only seen a part of them, that part is read if it is asked for.
func (o Observer) disksOf(ctx context.Context, id cvm.DESID, part bool) (cvm.Fact[[]cvm.Disk], error) {
	ids, err := fact(o.Azure.DESDisks(ctx, id))("associated-unreadable")
	if err != nil || !ids.Known && (!part || len(ids.Value) == 0) {
		return cvm.Fact[[]cvm.Disk]{Why: ids.Why, Absent: ids.Absent}, err
	}
	if len(ids.Value) > maxDisksRead && !o.Whole {
		return cvm.NotRead[[]cvm.Disk]("associated-unreadable", "", fmt.Sprintf("%d disks hang on it, more than are read in one turn", len(ids.Value))), nil
	}
	disks := make([]cvm.Disk, 0, len(ids.Value))
	for _, d := range ids.Value {
		f, err := fact(o.Azure.Disk(ctx, d))("disk-unreadable")
		if err != nil {
			return cvm.Fact[[]cvm.Disk]{}, err
		}
		if f.Absent {
			continue // deleted since the listing
		}
		if !f.Known {
			return cvm.Fact[[]cvm.Disk]{Why: f.Why}, nil
		}
		disks = append(disks, f.Value)
	}
	if !ids.Known { // a part of them
		return cvm.Fact[[]cvm.Disk]{Value: disks, Why: ids.Why}, nil
	}
	return cvm.Known(disks), nil
}

func (o Observer) dataDisks(ctx context.Context, p *cvm.Posture) error {
	for _, ref := range p.VM.Value.DataDisks {
		f := cvm.DataDiskFacts{Ref: ref}
		var err error
		if f.Disk, err = fact(o.Azure.Disk(ctx, ref.ID))("disk-unreadable"); err != nil {
			return err
		}
		id := ref.SecureDES
		if id == "" && f.Disk.Known {
			id = f.Disk.Value.SSEDES
		}
		if id == "" {
			id = ref.SSEDES
		}
		if id != "" {
			if f.DES, err = fact(o.Azure.DES(ctx, id, o.Fresh))("des-unreadable"); err != nil {
				return err
			}
		}
		p.DataDisks = append(p.DataDisks, f)
	}
	return nil
}

// fact makes a fact of a read: known, absent (404), or unknown with the missing
// action. What passes comes back as an error, for it says nothing of the object.
func fact[T any](v T, err error) func(code string) (cvm.Fact[T], error) {
	return func(code string) (cvm.Fact[T], error) {
		switch {
		case err == nil:
			return cvm.Known(v), nil
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			return cvm.Fact[T]{}, readError{err}
		}
		var unread *cvm.UnreadError
		if errors.As(err, &unread) {
			return cvm.Fact[T]{Value: v, Why: unread.Why}, nil
		}
		switch fault.KindOf(err) {
		case fault.NotFound:
			return cvm.NotThere[T](), nil
		case fault.Denied, fault.Blocked, fault.Invalid:
			return cvm.NotRead[T](code, fault.Action(err), steady(err)), nil
		default:
			return cvm.Fact[T]{}, readError{err}
		}
	}
}

// readError marks what a read of Azure failed with, to tell it from a failure of
// our own storage.
type readError struct{ error }

func (e readError) Unwrap() error { return e.error }

// steady is an error's text without the service's own words: those differ from
// call to call (request ids, times), and a posture that says the same must be the
// same.
func steady(err error) string {
	var f *fault.Error
	if !errors.As(err, &f) {
		return "the service refused"
	}
	s := f.Op
	if f.Object != "" {
		s += " " + strconv.Quote(f.Object)
	}
	s += ": " + string(f.Kind)
	if f.Code != "" {
		s += " (" + f.Code + ")"
	}
	return s
}

func tell[T any](f func(T) error, v T) error {
	if f == nil {
		return nil
	}
	return f(v)
}
