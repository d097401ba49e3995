package azure

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/remedy"
)

// begin sends one write and gives its progress without waiting. Whatever the
// service answered with a good status was taken, whether the SDK expected that
// status or not. If its operation can't be followed it is under way without a
// token: the caller looks at the resource.
func begin[T any](ctx context.Context, c *Client, k call, send func(context.Context) (*runtime.Poller[T], error)) (remedy.Progress, error) {
	var resp *http.Response
	p, err := send(policy.WithCaptureResponse(once(ctx), &resp))
	c.listeners.changed(k.object)
	switch {
	case err == nil:
		return progress(ctx, k, resp, p)
	case resp == nil || resp.StatusCode >= 300:
		return remedy.Progress{}, k.fault(err)
	}
	if cl, aerr := c.armClient(); aerr == nil {
		if q, perr := runtime.NewPoller[opResult](resp, cl.Pipeline(), nil); perr == nil {
			return progress(ctx, k, resp, q)
		}
	}
	c.log.WarnContext(ctx, "a write was taken, its operation can't be followed", "op", k.op, "object", k.object, "status", resp.StatusCode)
	return remedy.Progress{State: remedy.Underway, RetryAfter: retryAfter(resp)}, nil
}

func progress[T any](ctx context.Context, k call, resp *http.Response, p *runtime.Poller[T]) (remedy.Progress, error) {
	if p.Done() {
		if failedBody(resp) {
			_, err := p.Result(ctx)
			return remedy.Progress{}, k.failed(err)
		}
		return remedy.Progress{State: remedy.Effected}, nil
	}
	out := remedy.Progress{State: remedy.Underway, RetryAfter: retryAfter(resp)}
	if token, err := p.ResumeToken(); err == nil {
		out.Token = token
	}
	return out, nil
}

// failedBody says whether an answer's own body says that the operation failed.
func failedBody(resp *http.Response) bool {
	if resp == nil {
		return false
	}
	body, err := runtime.Payload(resp)
	if err != nil {
		return false
	}
	var b struct {
		Status     any
		Properties struct{ ProvisioningState string }
	}
	if json.Unmarshal(body, &b) != nil {
		return false
	}
	status, _ := b.Status.(string)
	for _, s := range []string{status, b.Properties.ProvisioningState} {
		switch strings.ToLower(s) {
		case "failed", "canceled", "cancelled":
			return true
		}
	}
	return false
}

// failed is the error of an operation that ended badly, also where the SDK gave
// none.
func (k call) failed(err error) error {
	if err == nil {
		return &fault.Error{Kind: fault.Transient, Op: k.op, Object: k.object, Code: "OperationFailed", Err: &cause{text: "the operation failed"}, Next: nextByKind[fault.Transient]}
	}
	return k.fault(err)
}

// BeginTags replaces a VM's tags by the full set. With an etag it is refused
// (Conflict) when the VM has changed since.
func (c *Client) BeginTags(ctx context.Context, id cvm.VMID, etag string, tags map[string]string) (remedy.Progress, error) {
	k := call{"tagging VM", string(id), typeVM + "/write"}
	at, err := placeOf(id, cvm.ParseVMID)
	if err != nil {
		return remedy.Progress{}, err
	}
	cl, err := c.vms.get(at.sub)
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	opts := &armcompute.VirtualMachinesClientBeginUpdateOptions{}
	if etag != "" {
		opts.IfMatch = &etag
	}
	return begin(ctx, c, k, func(ctx context.Context) (*runtime.Poller[armcompute.VirtualMachinesClientUpdateResponse], error) {
		return cl.BeginUpdate(ctx, at.group, at.name, armcompute.VirtualMachineUpdate{Tags: pointers(tags)}, opts)
	})
}

func pointers(m map[string]string) map[string]*string {
	out := make(map[string]*string, len(m))
	for k, v := range m {
		out[k] = &v
	}
	return out
}

// BeginExtension installs or changes an extension of a VM.
func (c *Client) BeginExtension(ctx context.Context, id cvm.VMID, location, name string, ext remedy.ExtensionSpec) (remedy.Progress, error) {
	k := call{"installing extension " + name + " on VM", string(id), typeVM + "/extensions/write"}
	at, err := placeOf(id, cvm.ParseVMID)
	if err != nil {
		return remedy.Progress{}, err
	}
	cl, err := c.extensions.get(at.sub)
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	body := armcompute.VirtualMachineExtension{Location: &location, Properties: &armcompute.VirtualMachineExtensionProperties{
		Publisher: &ext.Publisher, Type: &ext.Type, TypeHandlerVersion: &ext.Version,
		AutoUpgradeMinorVersion: &ext.AutoUpgradeMinor, EnableAutomaticUpgrade: &ext.AutoUpgrade,
	}}
	if ext.Settings != nil {
		body.Properties.Settings = ext.Settings
	}
	return begin(ctx, c, k, func(ctx context.Context) (*runtime.Poller[armcompute.VirtualMachineExtensionsClientCreateOrUpdateResponse], error) {
		return cl.BeginCreateOrUpdate(ctx, at.group, at.name, name, body, nil)
	})
}

// BeginRunCommand puts a managed run command, which starts its script. The
// operation ends when the script has.
func (c *Client) BeginRunCommand(ctx context.Context, id cvm.VMID, location, name string, rc remedy.RunCommandSpec) (remedy.Progress, error) {
	k := call{"putting run command " + name + " on VM", string(id), typeVM + "/runCommands/write"}
	at, err := placeOf(id, cvm.ParseVMID)
	if err != nil {
		return remedy.Progress{}, err
	}
	cl, err := c.runCommands.get(at.sub)
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	body := armcompute.VirtualMachineRunCommand{Location: &location, Properties: &armcompute.VirtualMachineRunCommandProperties{
		Source:         &armcompute.VirtualMachineRunCommandScriptSource{Script: &rc.Script},
		Parameters:     inputs(rc.Parameters),
		AsyncExecution: to.Ptr(false), TreatFailureAsDeploymentFailure: to.Ptr(false),
		ProtectedParameters: inputs(rc.Protected),
	}}
	if rc.TimeoutSeconds > 0 {
		body.Properties.TimeoutInSeconds = to.Ptr(int32(rc.TimeoutSeconds))
	}
	return begin(ctx, c, k, func(ctx context.Context) (*runtime.Poller[armcompute.VirtualMachineRunCommandsClientCreateOrUpdateResponse], error) {
		return cl.BeginCreateOrUpdate(ctx, at.group, at.name, name, body, nil)
	})
}

// inputs are a run command's parameters, by name: equal specs give equal bodies.
func inputs(m map[string]string) []*armcompute.RunCommandInputParameter {
	var out []*armcompute.RunCommandInputParameter
	for k, v := range m {
		out = append(out, &armcompute.RunCommandInputParameter{Name: &k, Value: &v})
	}
	slices.SortFunc(out, func(a, b *armcompute.RunCommandInputParameter) int { return strings.Compare(*a.Name, *b.Name) })
	return out
}

// BeginDeallocate stops a VM and gives its hardware back.
func (c *Client) BeginDeallocate(ctx context.Context, id cvm.VMID) (remedy.Progress, error) {
	k := call{"deallocating VM", string(id), typeVM + "/deallocate/action"}
	at, err := placeOf(id, cvm.ParseVMID)
	if err != nil {
		return remedy.Progress{}, err
	}
	cl, err := c.vms.get(at.sub)
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	return begin(ctx, c, k, func(ctx context.Context) (*runtime.Poller[armcompute.VirtualMachinesClientDeallocateResponse], error) {
		return cl.BeginDeallocate(ctx, at.group, at.name, nil)
	})
}

// BeginStart starts a VM.
func (c *Client) BeginStart(ctx context.Context, id cvm.VMID) (remedy.Progress, error) {
	k := call{"starting VM", string(id), typeVM + "/start/action"}
	at, err := placeOf(id, cvm.ParseVMID)
	if err != nil {
		return remedy.Progress{}, err
	}
	cl, err := c.vms.get(at.sub)
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	return begin(ctx, c, k, func(ctx context.Context) (*runtime.Poller[armcompute.VirtualMachinesClientStartResponse], error) {
		return cl.BeginStart(ctx, at.group, at.name, nil)
	})
}

// BeginDiskDES puts a disk's server-side encryption under a disk encryption set.
func (c *Client) BeginDiskDES(ctx context.Context, id cvm.DiskID, des cvm.DESID, encryptionType string) (remedy.Progress, error) {
	k := call{"encrypting disk", string(id), typeDisk + "/write"}
	at, err := placeOf(id, cvm.ParseDiskID)
	if err != nil {
		return remedy.Progress{}, err
	}
	cl, err := c.disks.get(at.sub)
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	body := armcompute.DiskUpdate{Properties: &armcompute.DiskUpdateProperties{Encryption: &armcompute.Encryption{
		DiskEncryptionSetID: to.Ptr(string(des)), Type: to.Ptr(armcompute.EncryptionType(encryptionType)),
	}}}
	return begin(ctx, c, k, func(ctx context.Context) (*runtime.Poller[armcompute.DisksClientUpdateResponse], error) {
		return cl.BeginUpdate(ctx, at.group, at.name, body, nil)
	})
}

// BeginDESAutoRotation sets whether a disk encryption set follows its key's
// newest version.
func (c *Client) BeginDESAutoRotation(ctx context.Context, id cvm.DESID, on bool) (remedy.Progress, error) {
	k := call{"setting auto-rotation of disk encryption set", string(id), typeDES + "/write"}
	at, err := placeOf(id, cvm.ParseDESID)
	if err != nil {
		return remedy.Progress{}, err
	}
	cl, err := c.desets.get(at.sub)
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	body := armcompute.DiskEncryptionSetUpdate{Properties: &armcompute.DiskEncryptionSetUpdateProperties{RotationToLatestKeyVersionEnabled: &on}}
	return begin(ctx, c, k, func(ctx context.Context) (*runtime.Poller[armcompute.DiskEncryptionSetsClientUpdateResponse], error) {
		return cl.BeginUpdate(ctx, at.group, at.name, body, nil)
	})
}

// BeginCreateDES makes a disk encryption set of the confidential type with an
// identity of its own. sourceVault is "" for a managed HSM and for a vault in
// another subscription.
func (c *Client) BeginCreateDES(ctx context.Context, id cvm.DESID, location string, key cvm.KeyID, sourceVault string, tags map[string]string) (remedy.Progress, error) {
	k := call{"creating disk encryption set", string(id), typeDES + "/write"}
	at, err := placeOf(id, cvm.ParseDESID)
	if err != nil {
		return remedy.Progress{}, err
	}
	cl, err := c.desets.get(at.sub)
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	active := &armcompute.KeyForDiskEncryptionSet{KeyURL: to.Ptr(string(key))}
	if sourceVault != "" {
		active.SourceVault = &armcompute.SourceVault{ID: &sourceVault}
	}
	body := armcompute.DiskEncryptionSet{
		Location: &location, Tags: pointers(tags),
		Identity: &armcompute.EncryptionSetIdentity{Type: to.Ptr(armcompute.DiskEncryptionSetIdentityTypeSystemAssigned)},
		Properties: &armcompute.EncryptionSetProperties{
			ActiveKey:                         active,
			EncryptionType:                    to.Ptr(armcompute.DiskEncryptionSetType(cvm.DESTypeConfidential)),
			RotationToLatestKeyVersionEnabled: to.Ptr(false),
		},
	}
	return begin(ctx, c, k, func(ctx context.Context) (*runtime.Poller[armcompute.DiskEncryptionSetsClientCreateOrUpdateResponse], error) {
		return cl.BeginCreateOrUpdate(ctx, at.group, at.name, body, nil)
	})
}

// BeginDESKey points a disk encryption set at a key version. sourceVault is "" for
// a managed HSM and for a vault in another subscription.
func (c *Client) BeginDESKey(ctx context.Context, id cvm.DESID, key cvm.KeyID, sourceVault string) (remedy.Progress, error) {
	k := call{"setting the key of disk encryption set", string(id), typeDES + "/write"}
	at, err := placeOf(id, cvm.ParseDESID)
	if err != nil {
		return remedy.Progress{}, err
	}
	cl, err := c.desets.get(at.sub)
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	active := &armcompute.KeyForDiskEncryptionSet{KeyURL: to.Ptr(string(key))}
	if sourceVault != "" {
		active.SourceVault = &armcompute.SourceVault{ID: &sourceVault}
	}
	body := armcompute.DiskEncryptionSetUpdate{Properties: &armcompute.DiskEncryptionSetUpdateProperties{ActiveKey: active}}
	return begin(ctx, c, k, func(ctx context.Context) (*runtime.Poller[armcompute.DiskEncryptionSetsClientUpdateResponse], error) {
		return cl.BeginUpdate(ctx, at.group, at.name, body, nil)
	})
}
