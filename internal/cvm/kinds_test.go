package cvm

import "testing"

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		size  string
		tee   TEE
		local Tri
	}{
		{"Standard_DC4as_v5", TEESNP, False}, {"standard_ec96ias_v5", TEESNP, False}, {"Standard_DC4ads_v5", TEESNP, True},
		{"Standard_EC8ads_v5", TEESNP, True}, {"Standard_DC2es_v5", TEETDX, False}, {"Standard_EC4eds_v5", TEETDX, True},
		{"Standard_DC16as_v6", TEESNP, False}, {"Standard_EC16ads_v6", TEESNP, True}, {"Standard_DC128es_v6", TEETDX, False},
		{"Standard_DC2eds_v6", TEETDX, True}, {"Standard_NCC40ads_H100_v5", TEESNP, True},
		{"Standard_DC4as_cc_v5", TEENone, False}, {"Standard_EC4ads_cc_v5", TEENone, True},
		{"Standard_DC4s_v2", TEENone, Unread}, {"Standard_DC4s_v3", TEENone, False}, {"Standard_DC8ds_v3", TEENone, True},
		{"Standard_D4s_v5", TEENone, Unread}, {"Standard_E4ds_v5", TEENone, Unread}, {"Standard_B2ms", TEENone, Unread},
		{"Standard_DC4as_v7", TEEUnknown, Unread}, {"Standard_EC4xs_v5", TEEUnknown, Unread}, {"", TEEUnknown, Unread}, {"DC4as", TEEUnknown, Unread},
	} {
		if got := TEEOfSize(c.size); got != c.tee {
			t.Errorf("TEEOfSize(%q) = %s, want %s", c.size, got, c.tee)
		}
		if got := HasLocalDisk(c.size); got != c.local {
			t.Errorf("HasLocalDisk(%q) = %q, want %q", c.size, got, c.local)
		}
		if ConfidentialSize(c.size) != (c.tee == TEESNP || c.tee == TEETDX) {
			t.Errorf("ConfidentialSize(%q)", c.size)
		}
	}
	for size, special := range map[string]bool{"Standard_DC4as_cc_v5": true, "Standard_DC4s_v3": true, "Standard_DC4as_v5": false, "Standard_D4s_v5": false} {
		if (NotACVMSize(size) != "") != special {
			t.Errorf("NotACVMSize(%q) = %q", size, NotACVMSize(size))
		}
	}
}

func TestKinds(t *testing.T) {
	cvm := func(enc string, des DESID) VM {
		return VM{SecurityType: "ConfidentialVM", OSDisk: OSDiskRef{SecurityEncryptionType: enc, SecureDES: des}}
	}
	for name, c := range map[string]struct {
		vm   VM
		kind Kind
		disk string
		ok   bool
	}{
		"absent gen1":     {VM{Generation: "V1"}, KindStandardGen1, "", true},
		"Standard gen2":   {VM{SecurityType: "STANDARD", Generation: "v2"}, KindStandardGen2, "", true},
		"no generation":   {VM{}, KindUnknown, "", true},
		"trusted launch":  {VM{SecurityType: "trustedLaunch"}, KindTrustedLaunch, DiskTrustedLaunch, true},
		"guest state":     {cvm("VMGuestStateOnly", ""), KindGuestState, DiskGuestState, true},
		"guest state DES": {cvm("VMGuestStateOnly", "d"), KindGuestState, DiskGuestState, true},
		"platform key":    {cvm("diskwithvmgueststate", ""), KindPlatformKey, DiskPlatformKey, true},
		"customer key":    {cvm("DiskWithVMGuestState", "d"), KindCustomerKey, DiskCustomerKey, true},
		"no vTPM state":   {cvm("NonPersistedTPM", ""), KindEphemeralTPM, DiskNoTPM, true},
		"no encryption":   {cvm("", ""), KindUnknown, "", false},
		"new encryption":  {cvm("DiskWithMore", "d"), KindUnknown, "", false},
		"new type":        {VM{SecurityType: "ConfidentialVM2", Generation: "V2"}, KindUnknown, "", false},
	} {
		if got := KindOf(c.vm); got != c.kind {
			t.Errorf("%s: kind %s, want %s", name, got, c.kind)
		}
		if got, ok := ExpectedDiskSecurityType(c.vm); got != c.disk || ok != c.ok {
			t.Errorf("%s: disk %q %v, want %q %v", name, got, ok, c.disk, c.ok)
		}
	}
	if got := KindWithDisk(VM{}, Known(Disk{Generation: "V1"})); got != KindStandardGen1 {
		t.Errorf("generation of the disk: %s", got)
	}
	if got := KindWithDisk(VM{Generation: "V2"}, Known(Disk{Generation: "V1"})); got != KindStandardGen2 {
		t.Errorf("the VM's own generation wins: %s", got)
	}
}
