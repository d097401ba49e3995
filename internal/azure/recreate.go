package azure

import (
	"context"
	"encoding/json"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/remedy"
)

var _ remedy.Recreator = (*Client)(nil)

// VMBody reads a VM as ARM shows it, its extensions in `resources`.
func (c *Client) VMBody(ctx context.Context, id cvm.VMID) ([]byte, error) {
	k := call{"reading VM", string(id), typeVM + "/read"}
	at, err := placeOf(id, cvm.ParseVMID)
	if err != nil {
		return nil, err
	}
	cl, err := c.vms.get(at.sub)
	if err != nil {
		return nil, k.fault(err)
	}
	return rawBody(ctx, k, func(ctx context.Context) error {
		_, err := cl.Get(ctx, at.group, at.name, nil)
		return err
	})
}

// BeginVMPatch sends a PATCH of a VM. With an etag it is refused (Conflict) when
// the VM has changed since.
func (c *Client) BeginVMPatch(ctx context.Context, id cvm.VMID, etag string, body []byte) (remedy.Progress, error) {
	k := call{"changing VM", string(id), typeVM + "/write"}
	at, err := placeOf(id, cvm.ParseVMID)
	if err != nil {
		return remedy.Progress{}, err
	}
	cl, err := c.vms.get(at.sub)
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	var patch armcompute.VirtualMachineUpdate
	if err := json.Unmarshal(body, &patch); err != nil {
		return remedy.Progress{}, fault.New(fault.Bug, k.op, k.object, "the PATCH can't be read: %w", err)
	}
	opts := &armcompute.VirtualMachinesClientBeginUpdateOptions{}
	if etag != "" {
		opts.IfMatch = &etag
	}
	return begin(ctx, c, k, func(ctx context.Context) (*runtime.Poller[armcompute.VirtualMachinesClientUpdateResponse], error) {
		return cl.BeginUpdate(ctx, at.group, at.name, patch, opts)
	})
}

// BeginVMCreate creates a VM. One that is there is never changed: Conflict.
func (c *Client) BeginVMCreate(ctx context.Context, id cvm.VMID, body []byte) (remedy.Progress, error) {
	k := call{"creating VM", string(id), typeVM + "/write"}
	at, err := placeOf(id, cvm.ParseVMID)
	if err != nil {
		return remedy.Progress{}, err
	}
	cl, err := c.vms.get(at.sub)
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	var vm armcompute.VirtualMachine
	if err := json.Unmarshal(body, &vm); err != nil {
		return remedy.Progress{}, fault.New(fault.Bug, k.op, k.object, "the VM's body can't be read: %w", err)
	}
	opts := &armcompute.VirtualMachinesClientBeginCreateOrUpdateOptions{IfNoneMatch: to.Ptr("*")}
	return begin(ctx, c, k, func(ctx context.Context) (*runtime.Poller[armcompute.VirtualMachinesClientCreateOrUpdateResponse], error) {
		return cl.BeginCreateOrUpdate(ctx, at.group, at.name, vm, opts)
	})
}

// BeginVMDelete deletes a VM. Its disks and interfaces go or stay by their
// deleteOption.
func (c *Client) BeginVMDelete(ctx context.Context, id cvm.VMID) (remedy.Progress, error) {
	k := call{"deleting VM", string(id), typeVM + "/delete"}
	at, err := placeOf(id, cvm.ParseVMID)
	if err != nil {
		return remedy.Progress{}, err
	}
	cl, err := c.vms.get(at.sub)
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	return begin(ctx, c, k, func(ctx context.Context) (*runtime.Poller[armcompute.VirtualMachinesClientDeleteResponse], error) {
		return cl.BeginDelete(ctx, at.group, at.name, nil)
	})
}
