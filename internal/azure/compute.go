package azure

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/remedy"
)

// rawBody runs one SDK call and gives the bytes that the service answered with.
// An SDK model that can't hold a good answer is not an error: the bytes are what
// facts are parsed from.
func rawBody(ctx context.Context, k call, do func(context.Context) error) ([]byte, error) {
	var resp *http.Response
	err := do(policy.WithCaptureResponse(ctx, &resp))
	var refused *azcore.ResponseError
	if err != nil && (resp == nil || resp.StatusCode != http.StatusOK || errors.As(err, &refused) || ctx.Err() != nil) {
		return nil, k.fault(err)
	}
	if resp == nil {
		return nil, fault.New(fault.Bug, k.op, k.object, "the SDK gave neither an answer nor an error")
	}
	body, perr := runtime.Payload(resp)
	if perr != nil {
		return nil, k.fault(perr)
	}
	if !json.Valid(body) {
		return nil, fault.New(fault.Transient, k.op, k.object, "the service's answer is not JSON, or was cut short")
	}
	return body, nil
}

// parsed runs parse and gives its error the call's name.
func parsed[T any](k call, body []byte, err error, parse func([]byte) (T, error)) (T, error) {
	var zero T
	if err != nil {
		return zero, err
	}
	v, err := parse(body)
	if err != nil {
		return zero, &fault.Error{Kind: fault.Transient, Op: k.op, Object: k.object, Err: err, Next: "try again; if it stays, the service's answer has a new shape"}
	}
	return v, nil
}

// VM reads a VM, or an instance of a uniform scale set, with its instance view in
// one call.
func (c *Client) VM(ctx context.Context, id cvm.VMID) (cvm.VM, error) {
	if set, instance, ok := id.Instance(); ok {
		return c.scaleSetVM(ctx, id, set, instance)
	}
	k := call{"reading VM", string(id), typeVM + "/read"}
	at, err := placeOf(id, cvm.ParseVMID)
	if err != nil {
		return cvm.VM{}, err
	}
	cl, err := c.vms.get(at.sub)
	if err != nil {
		return cvm.VM{}, k.fault(err)
	}
	body, err := rawBody(ctx, k, func(ctx context.Context) error {
		_, err := cl.Get(ctx, at.group, at.name, &armcompute.VirtualMachinesClientGetOptions{Expand: to.Ptr(armcompute.InstanceViewTypesInstanceView)})
		return err
	})
	return parsed(k, body, err, cvm.ParseVM)
}

func (c *Client) scaleSetVM(ctx context.Context, id cvm.VMID, set, instance string) (cvm.VM, error) {
	k := call{"reading scale set instance", string(id), typeVMSSVM + "/read"}
	id, err := cvm.ParseVMID(string(id))
	if err != nil {
		return cvm.VM{}, err
	}
	cl, err := c.scaleSetVMs.get(id.Subscription())
	if err != nil {
		return cvm.VM{}, k.fault(err)
	}
	body, err := rawBody(ctx, k, func(ctx context.Context) error {
		_, err := cl.Get(ctx, id.ResourceGroup(), set[strings.LastIndexByte(set, '/')+1:], instance,
			&armcompute.VirtualMachineScaleSetVMsClientGetOptions{Expand: to.Ptr(armcompute.InstanceViewTypesInstanceView)})
		return err
	})
	return parsed(k, body, err, cvm.ParseVM)
}

// Disk reads a managed disk.
func (c *Client) Disk(ctx context.Context, id cvm.DiskID) (cvm.Disk, error) {
	k := call{"reading disk", string(id), typeDisk + "/read"}
	at, err := placeOf(id, cvm.ParseDiskID)
	if err != nil {
		return cvm.Disk{}, err
	}
	cl, err := c.disks.get(at.sub)
	if err != nil {
		return cvm.Disk{}, k.fault(err)
	}
	body, err := rawBody(ctx, k, func(ctx context.Context) error {
		_, err := cl.Get(ctx, at.group, at.name, nil)
		return err
	})
	return parsed(k, body, err, cvm.ParseDisk)
}

// DES reads a disk encryption set.
func (c *Client) DES(ctx context.Context, id cvm.DESID) (cvm.DES, error) {
	k := call{"reading disk encryption set", string(id), typeDES + "/read"}
	at, err := placeOf(id, cvm.ParseDESID)
	if err != nil {
		return cvm.DES{}, err
	}
	cl, err := c.desets.get(at.sub)
	if err != nil {
		return cvm.DES{}, k.fault(err)
	}
	body, err := rawBody(ctx, k, func(ctx context.Context) error {
		_, err := cl.Get(ctx, at.group, at.name, nil)
		return err
	})
	return parsed(k, body, err, cvm.ParseDES)
}

// DESDisks lists the managed disks on a disk encryption set; snapshots are left
// out.
func (c *Client) DESDisks(ctx context.Context, id cvm.DESID) ([]cvm.DiskID, error) {
	k := call{"listing the disks of disk encryption set", string(id), typeDES + "/read"}
	at, err := placeOf(id, cvm.ParseDESID)
	if err != nil {
		return nil, err
	}
	cl, err := c.desets.get(at.sub)
	if err != nil {
		return nil, k.fault(err)
	}
	var out []cvm.DiskID
	for pager := cl.NewListAssociatedResourcesPager(at.group, at.name, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, k.fault(err)
		}
		for _, v := range page.Value {
			if v != nil && strings.Contains(strings.ToLower(*v), "/providers/microsoft.compute/disks/") {
				out = append(out, cvm.DiskID(*v))
			}
		}
	}
	return out, nil
}

// RunCommand reads a managed run command of a VM with its instance view.
func (c *Client) RunCommand(ctx context.Context, id cvm.VMID, name string) (remedy.RunCommandView, error) {
	k := call{"reading run command " + name + " of VM", string(id), typeVM + "/runCommands/read"}
	at, err := placeOf(id, cvm.ParseVMID)
	if err != nil {
		return remedy.RunCommandView{}, err
	}
	cl, err := c.runCommands.get(at.sub)
	if err != nil {
		return remedy.RunCommandView{}, k.fault(err)
	}
	body, err := rawBody(ctx, k, func(ctx context.Context) error {
		_, err := cl.GetByVirtualMachine(ctx, at.group, at.name, name, &armcompute.VirtualMachineRunCommandsClientGetByVirtualMachineOptions{Expand: to.Ptr("instanceView")})
		return err
	})
	return parsed(k, body, err, parseRunCommand)
}

func parseRunCommand(body []byte) (remedy.RunCommandView, error) {
	var rc struct {
		Properties struct {
			ProvisioningState string
			Parameters        []struct{ Name, Value string }
			InstanceView      struct {
				ExecutionState string
				ExitCode       int
				Output, Error  string
			}
		}
	}
	if err := json.Unmarshal(body, &rc); err != nil {
		return remedy.RunCommandView{}, err
	}
	p := rc.Properties
	v := remedy.RunCommandView{ProvisioningState: p.ProvisioningState, Parameters: map[string]string{},
		ExecutionState: p.InstanceView.ExecutionState, ExitCode: p.InstanceView.ExitCode, Output: p.InstanceView.Output, Error: p.InstanceView.Error}
	for _, param := range p.Parameters {
		v.Parameters[param.Name] = param.Value
	}
	return v, nil
}
