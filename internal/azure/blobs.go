package azure

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"

	"cvmguard/internal/fault"
)

const (
	actionBlobRead   = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read"
	actionBlobWrite  = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write"
	actionBlobDelete = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/delete"
	actionDelegate   = "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action"
)

// Blobs is the account's blob service.
type Blobs struct{ c *Client }

// Blobs gives the blob service.
func (c *Client) Blobs() *Blobs { return &Blobs{c} }

func (c *Client) container(k call, name string) (*container.Client, func(context.Context) func() error, error) {
	svc, err := c.storage.blobs()
	if err != nil {
		return nil, nil, k.fault(err)
	}
	cl := svc.NewContainerClient(name)
	return cl, func(ctx context.Context) func() error {
		return func() error { _, err := cl.Create(ctx, nil); return err }
	}, nil
}

// Create writes a new blob and never overwrites one.
func (b *Blobs) Create(ctx context.Context, containerName, name string, body []byte) error {
	k := call{"creating blob", containerName + "/" + name, actionBlobWrite}
	cl, create, err := b.c.container(k, containerName)
	if err != nil {
		return err
	}
	return b.c.storage.retryMissing(k, "container "+containerName, "ContainerNotFound", create(ctx), func() error {
		_, err := cl.NewBlockBlobClient(name).Upload(ctx, streaming.NopCloser(bytes.NewReader(body)), &blockblob.UploadOptions{
			AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}},
		})
		return err
	})
}

// Read gives at most max bytes of a blob.
func (b *Blobs) Read(ctx context.Context, containerName, name string, max int64) ([]byte, error) {
	k := call{"reading blob", containerName + "/" + name, actionBlobRead}
	cl, _, err := b.c.container(k, containerName)
	if err != nil {
		return nil, err
	}
	resp, err := cl.NewBlobClient(name).DownloadStream(ctx, nil)
	if err != nil {
		return nil, k.fault(err)
	}
	body := resp.NewRetryReader(ctx, nil)
	if resp.ContentLength != nil && *resp.ContentLength > max {
		return nil, errors.Join(tooLong(k, max), body.Close())
	}
	read, err := io.ReadAll(io.LimitReader(body, max+1))
	if err := errors.Join(err, body.Close()); err != nil {
		return nil, k.fault(err)
	}
	if int64(len(read)) > max {
		return nil, tooLong(k, max)
	}
	return read, nil
}

func tooLong(k call, max int64) error {
	return &fault.Error{Kind: fault.Invalid, Op: k.op, Object: k.object, Err: fault.New(fault.Invalid, "", "", "longer than %d bytes", max), Next: "look at who wrote it"}
}

// Exists says whether a blob is there.
func (b *Blobs) Exists(ctx context.Context, containerName, name string) (bool, error) {
	k := call{"looking for blob", containerName + "/" + name, actionBlobRead}
	cl, _, err := b.c.container(k, containerName)
	if err != nil {
		return false, err
	}
	_, err = cl.NewBlobClient(name).GetProperties(ctx, nil)
	err = k.fault(err)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// List calls yield for each blob whose name begins with prefix, in order, until
// it returns false. A container that isn't there has no blobs.
func (b *Blobs) List(ctx context.Context, containerName, prefix string, yield func(string) bool) error {
	k := call{"listing blobs", containerName + "/" + prefix, actionBlobRead}
	cl, _, err := b.c.container(k, containerName)
	if err != nil {
		return err
	}
	for pager := cl.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &prefix}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			if err := k.fault(err); !fault.Is(err, fault.NotFound) {
				return err
			}
			return nil
		}
		if page.Segment == nil {
			continue
		}
		for _, item := range page.Segment.BlobItems {
			if item != nil && item.Name != nil && !yield(*item.Name) {
				return nil
			}
		}
	}
	return nil
}

// Delete removes a blob; NotFound when there is none.
func (b *Blobs) Delete(ctx context.Context, containerName, name string) error {
	k := call{"deleting blob", containerName + "/" + name, actionBlobDelete}
	cl, _, err := b.c.container(k, containerName)
	if err != nil {
		return err
	}
	_, err = cl.NewBlobClient(name).Delete(ctx, nil)
	return k.fault(err)
}

// ReadURL is a URL that may read one blob for a while.
func (b *Blobs) ReadURL(ctx context.Context, containerName, name string, life time.Duration) (string, error) {
	return b.c.signedURL(ctx, containerName, name, life, sas.BlobPermissions{Read: true})
}

// AppendURL is a URL that may create one append blob and append to it for a
// while, and can't read it. The container is made if it isn't there: the URL
// can't.
func (b *Blobs) AppendURL(ctx context.Context, containerName, name string, life time.Duration) (string, error) {
	k := call{"making container", containerName, "Microsoft.Storage/storageAccounts/blobServices/containers/write"}
	_, create, err := b.c.container(k, containerName)
	if err != nil {
		return "", err
	}
	if err := b.c.storage.ensure("container "+containerName, create(ctx), k); err != nil {
		return "", err
	}
	return b.c.signedURL(ctx, containerName, name, life, sas.BlobPermissions{Create: true, Add: true})
}

// clockSkew is how far a signature's start lies back: clocks differ.
const clockSkew = 5 * time.Minute

// signedURL signs with a user delegation key where storage is reached by
// identity, else with the account's key. Only a local service may be used over
// http.
func (c *Client) signedURL(ctx context.Context, containerName, name string, life time.Duration, may sas.BlobPermissions) (string, error) {
	k := call{"signing a URL for blob", containerName + "/" + name, actionDelegate}
	if life <= 0 || life > 24*time.Hour {
		return "", fault.New(fault.Bug, k.op, k.object, "a signed URL lives above zero and at most a day, not %s", life)
	}
	cl, _, err := c.container(k, containerName)
	if err != nil {
		return "", err
	}
	now := c.now().UTC()
	v := sas.BlobSignatureValues{
		Protocol: sas.ProtocolHTTPS, StartTime: now.Add(-clockSkew), ExpiryTime: now.Add(life),
		Permissions: may.String(), ContainerName: containerName, BlobName: name,
	}
	if onLoopback(c.cfg.Storage.BlobURL) {
		v.Protocol = sas.ProtocolHTTPSandHTTP
	}
	var q sas.QueryParameters
	if st := c.cfg.Storage; st.ByKey() {
		key, kerr := service.NewSharedKeyCredential(st.Account, st.Key.Reveal())
		if kerr != nil {
			return "", badKey(st)
		}
		q, err = v.SignWithSharedKey(key)
	} else {
		key, kerr := c.delegation(ctx, k, now, life)
		if kerr != nil {
			return "", kerr
		}
		q, err = v.SignWithUserDelegation(key)
	}
	if err != nil {
		return "", fault.New(fault.Bug, k.op, k.object, "signing: %w", err)
	}
	return cl.NewBlobClient(name).URL() + "?" + q.Encode(), nil
}

// delegation gives a key that outlives what it signs, asking for a new one about
// once an hour.
func (c *Client) delegation(ctx context.Context, k call, now time.Time, life time.Duration) (*service.UserDelegationCredential, error) {
	s := &c.storage
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.delegation != nil && s.delegationEnd.After(now.Add(life)) {
		return s.delegation, nil
	}
	svc, err := s.blobs()
	if err != nil {
		return nil, k.fault(err)
	}
	end := now.Add(life + time.Hour)
	key, err := svc.GetUserDelegationCredential(ctx, service.KeyInfo{
		Start: to.Ptr(now.Add(-clockSkew).Format(sas.TimeFormat)), Expiry: to.Ptr(end.Format(sas.TimeFormat)),
	}, nil)
	if err != nil {
		return nil, k.fault(err)
	}
	s.delegation, s.delegationEnd = key, end
	return key, nil
}
