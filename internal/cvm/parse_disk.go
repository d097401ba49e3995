package cvm

import (
	"cvmguard/internal/fault"
)

type armDisk struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags"`
	ManagedBy  string            `json:"managedBy"`
	Holders    []string          `json:"managedByExtended"`
	Properties *struct {
		ProvisioningState string `json:"provisioningState"`
		State             string `json:"diskState"`
		OSType            string `json:"osType"`
		Generation        string `json:"hyperVGeneration"`
		NetworkAccess     string `json:"networkAccessPolicy"`
		MaxShares         int    `json:"maxShares"`
		Security          *struct {
			Type           string `json:"securityType"`
			DES            string `json:"secureVMDiskEncryptionSetId"`
			Version        string `json:"confidentialVMVersion"`
			EncryptionType string `json:"securityEncryptionType"`
		} `json:"securityProfile"`
		Encryption struct {
			Type string `json:"type"`
			DES  string `json:"diskEncryptionSetId"`
		} `json:"encryption"`
		ADE *struct {
			Enabled *bool `json:"enabled"`
		} `json:"encryptionSettingsCollection"`
		Creation struct {
			Option  string     `json:"createOption"`
			Image   *reference `json:"imageReference"`
			Gallery *reference `json:"galleryImageReference"`
		} `json:"creationData"`
	} `json:"properties"`
}

// ParseDisk reads the body of a managed disk's GET.
func ParseDisk(body []byte) (Disk, error) {
	const op = "reading a disk's body"
	var b armDisk
	if err := unmarshal(op, body, &b); err != nil {
		return Disk{}, err
	}
	id, err := ParseDiskID(b.ID)
	if err != nil {
		return Disk{}, err
	}
	d := Disk{ID: id, Name: first(b.Name, id.Name()), Location: FoldRegion(b.Location), Tags: b.Tags, ManagedBy: b.ManagedBy}
	p := b.Properties
	if p == nil {
		return Disk{}, fault.New(fault.Invalid, op, b.ID, "it has no properties")
	}
	d.MaxShares, d.Holders = p.MaxShares, b.Holders
	d.ProvisioningState, d.State, d.OSType = p.ProvisioningState, p.State, p.OSType
	d.Generation, d.NetworkAccessPolicy = p.Generation, p.NetworkAccess
	d.EncryptionType, d.SSEDES = p.Encryption.Type, DESID(p.Encryption.DES)
	d.CreateOption, d.ImageID = p.Creation.Option, first(p.Creation.Image.id(), p.Creation.Gallery.id())
	if s := p.Security; s != nil {
		d.HasSecurityProfile, d.SecurityType = true, s.Type
		d.SecureDES, d.ConfidentialVersion, d.DataSecurityEncryptionType = DESID(s.DES), s.Version, s.EncryptionType
	}
	if p.ADE != nil {
		d.ADETainted, d.ADE = true, p.ADE.Enabled != nil && *p.ADE.Enabled
	}
	return d, nil
}

type armDES struct {
	ID         string       `json:"id"`
	Name       string       `json:"name"`
	Location   string       `json:"location"`
	Identity   *armIdentity `json:"identity"`
	Properties *struct {
		Type      string `json:"encryptionType"`
		ActiveKey struct {
			URL    string     `json:"keyUrl"`
			Source *reference `json:"sourceVault"`
		} `json:"activeKey"`
		PreviousKeys      []struct{} `json:"previousKeys"`
		AutoRotation      bool       `json:"rotationToLatestKeyVersionEnabled"`
		LastRotation      string     `json:"lastKeyRotationTimestamp"`
		ProvisioningState string     `json:"provisioningState"`
		FederatedClientID string     `json:"federatedClientId"`
		RotationError     *struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"autoKeyRotationError"`
	} `json:"properties"`
}

// ParseDES reads the body of a disk encryption set's GET. An absent type means
// DESTypeSSE; an error of automatic rotation without a code is "unknown".
func ParseDES(body []byte) (DES, error) {
	const op = "reading a disk encryption set's body"
	var b armDES
	if err := unmarshal(op, body, &b); err != nil {
		return DES{}, err
	}
	id, err := ParseDESID(b.ID)
	if err != nil {
		return DES{}, err
	}
	p := b.Properties
	if p == nil {
		return DES{}, fault.New(fault.Invalid, op, b.ID, "it has no properties")
	}
	d := DES{ID: id, Name: first(b.Name, id.Name()), Location: FoldRegion(b.Location), Type: first(p.Type, DESTypeSSE),
		KeyURL: p.ActiveKey.URL, SourceVault: p.ActiveKey.Source.id(), PreviousKeys: len(p.PreviousKeys),
		AutoRotation: p.AutoRotation, ProvisioningState: p.ProvisioningState, FederatedClientID: p.FederatedClientID,
		IdentityType: b.Identity.kind(), PrincipalID: b.Identity.principal()}
	if p.RotationError != nil {
		d.RotationError = first(p.RotationError.Code, "unknown")
	}
	d.LastRotation, err = armTime(op, "lastKeyRotationTimestamp", p.LastRotation)
	return d, err
}

// ParseAssociated reads the answer of a disk encryption set's associatedResources:
// the ids of what hangs on it, disks and others.
func ParseAssociated(body []byte) (ids []string, next string, err error) {
	var b struct {
		Value []string `json:"value"`
		Next  string   `json:"nextLink"`
	}
	if err := unmarshal("reading what hangs on a disk encryption set", body, &b); err != nil {
		return nil, "", err
	}
	return b.Value, b.Next, nil
}
