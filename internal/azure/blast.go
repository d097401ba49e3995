package azure

import (
	"context"
	"encoding/json"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/fleet"
)

var _ fleet.BlastReader = (*Client)(nil)

// keySetBody is what a blast radius needs of a disk encryption set, as Resource
// Manager and Resource Graph show it.
type keySetBody struct {
	ID         string `json:"id"`
	Properties struct {
		Type      string `json:"encryptionType"`
		ActiveKey struct {
			URL string `json:"keyUrl"`
		} `json:"activeKey"`
		PreviousKeys []struct {
			URL string `json:"keyUrl"`
		} `json:"previousKeys"`
	} `json:"properties"`
}

func parseKeySet(body []byte) (fleet.KeySet, error) {
	var b keySetBody
	if err := json.Unmarshal(body, &b); err != nil {
		return fleet.KeySet{}, err
	}
	id, err := cvm.ParseDESID(b.ID)
	if err != nil {
		return fleet.KeySet{}, err
	}
	s := fleet.KeySet{ID: id, Type: b.Properties.Type, Active: b.Properties.ActiveKey.URL}
	for _, p := range b.Properties.PreviousKeys {
		s.Previous = append(s.Previous, p.URL)
	}
	return s, nil
}

// KeySets lists disk encryption sets by Resource Graph. Of a subscription that was
// named and of which the caller sees nothing, it can't be told that it has none:
// that is an error.
func (c *Client) KeySets(ctx context.Context, subscriptions []string, yield func(fleet.KeySet) error) error {
	k := call{"listing disk encryption sets", strings.Join(subscriptions, ","), "Microsoft.ResourceGraph/resources/read"}
	for _, s := range subscriptions {
		k := call{"looking for subscription", s, k.action}
		seen := false
		err := c.rows(ctx, k, []string{s}, "resources\n| project id\n| take 1", func(map[string]any) error { seen = true; return nil })
		if err != nil {
			return err
		}
		if !seen {
			return &fault.Error{Kind: fault.NotFound, Op: k.op, Object: s, Err: &cause{text: "nothing can be seen in it"}, Next: "check its id, and that you may read there"}
		}
	}
	query := "resources\n| where type =~ 'microsoft.compute/diskencryptionsets'\n| project id, properties\n| order by id asc"
	return c.rows(ctx, k, subscriptions, query, func(row map[string]any) error {
		body, err := json.Marshal(row)
		if err != nil {
			return fault.New(fault.Bug, k.op, k.object, "a row of the listing: %w", err)
		}
		set, err := parsed(k, body, nil, parseKeySet)
		if err != nil {
			return err
		}
		return yield(set)
	})
}

// KeySet reads a disk encryption set's keys, the previous ones too.
func (c *Client) KeySet(ctx context.Context, id cvm.DESID) (fleet.KeySet, error) {
	k := call{"reading disk encryption set", string(id), typeDES + "/read"}
	at, err := placeOf(id, cvm.ParseDESID)
	if err != nil {
		return fleet.KeySet{}, err
	}
	cl, err := c.desets.get(at.sub)
	if err != nil {
		return fleet.KeySet{}, k.fault(err)
	}
	body, err := rawBody(ctx, k, func(ctx context.Context) error {
		_, err := cl.Get(ctx, at.group, at.name, nil)
		return err
	})
	return parsed(k, body, err, parseKeySet)
}

// setsAQuery bounds how many ids stand in one query.
const setsAQuery = 50

// SetUsers lists the VMs and uniform scale sets whose OS disk names one of the
// sets. VMs of a flexible scale set are VMs, with disks of their own.
func (c *Client) SetUsers(ctx context.Context, sets []cvm.DESID, yield func(id string) error) error {
	const disk = "properties.storageProfile.osDisk.managedDisk."
	const model = "properties.virtualMachineProfile.storageProfile.osDisk.managedDisk."
	k := call{"listing the VMs of disk encryption sets", "", "Microsoft.ResourceGraph/resources/read"}
	for len(sets) > 0 {
		n := min(len(sets), setsAQuery)
		var quoted []string
		subs := map[string]bool{}
		for _, id := range sets[:n] {
			at, err := placeOf(id, cvm.ParseDESID) // no quote is in such an id
			if err != nil {
				return err
			}
			subs[at.sub] = true
			quoted = append(quoted, "'"+string(id)+"'")
		}
		sets = sets[n:]
		in := " in~ (" + strings.Join(quoted, ", ") + ")"
		query := "resources\n| where type =~ 'microsoft.compute/virtualmachines' or type =~ 'microsoft.compute/virtualmachinescalesets' and tostring(properties.orchestrationMode) !~ 'Flexible'\n| where " +
			disk + "securityProfile.diskEncryptionSet.id" + in + " or " + disk + "diskEncryptionSet.id" + in +
			" or " + model + "securityProfile.diskEncryptionSet.id" + in + " or " + model + "diskEncryptionSet.id" + in + "\n| project id\n| order by id asc"
		var where []string // a set and its VMs are in one subscription
		for s := range subs {
			where = append(where, s)
		}
		err := c.rows(ctx, k, where, query, func(row map[string]any) error {
			id := text(row, "id")
			if id == "" {
				return fault.New(fault.Transient, k.op, k.object, "a row of the listing has no id")
			}
			return yield(id)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ScaleSetVMs lists the instances of a uniform scale set.
func (c *Client) ScaleSetVMs(ctx context.Context, scaleSet string) ([]cvm.VMID, error) {
	k := call{"listing the instances of scale set", scaleSet, typeVMSSVM + "/read"}
	id, err := cvm.ParseVMID(scaleSet + "/virtualMachines/0") // any instance's id says where the set is
	set, _, ok := id.Instance()
	if err != nil || !ok {
		return nil, fault.New(fault.Invalid, k.op, scaleSet, "it is not the id of a scale set")
	}
	cl, err := c.scaleSetVMs.get(id.Subscription())
	if err != nil {
		return nil, k.fault(err)
	}
	var out []cvm.VMID
	for pager := cl.NewListPager(id.ResourceGroup(), set[strings.LastIndexByte(set, '/')+1:], nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, k.fault(err)
		}
		for _, vm := range page.Value {
			if vm == nil || vm.InstanceID == nil {
				return nil, fault.New(fault.Transient, k.op, scaleSet, "an instance in the listing has no id")
			}
			instance, err := cvm.ParseVMID(set + "/virtualMachines/" + *vm.InstanceID)
			if err != nil {
				return nil, err
			}
			out = append(out, instance)
		}
	}
	return out, nil
}

// DiskUsers reads a disk and the ids of the VMs that it is attached to: a shared
// disk has several.
func (c *Client) DiskUsers(ctx context.Context, id cvm.DiskID) (cvm.Disk, []string, error) {
	k := call{"reading disk", string(id), typeDisk + "/read"}
	at, err := placeOf(id, cvm.ParseDiskID)
	if err != nil {
		return cvm.Disk{}, nil, err
	}
	cl, err := c.disks.get(at.sub)
	if err != nil {
		return cvm.Disk{}, nil, k.fault(err)
	}
	body, err := rawBody(ctx, k, func(ctx context.Context) error {
		_, err := cl.Get(ctx, at.group, at.name, nil)
		return err
	})
	disk, err := parsed(k, body, err, cvm.ParseDisk)
	if err != nil {
		return cvm.Disk{}, nil, err
	}
	return disk, disk.Users(), nil
}
