package azure

import (
	"context"
	"net/url"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/data/aztables"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue/v2"

	"cvmguard/internal/config"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
)

var (
	_ ledger.Blobs    = (*Blobs)(nil)
	_ ledger.SASBlobs = (*Blobs)(nil)
	_ ledger.Queue    = (*Queue)(nil)
	_ ledger.Tables   = (*Tables)(nil)
)

// storage is the account's three services, each made on first use.
type storage struct {
	credential func() (azcore.TokenCredential, error)
	blobs      func() (*service.Client, error)
	tables     func() (*aztables.ServiceClient, error)
	queues     func() (*azqueue.ServiceClient, error)
	made       sync.Map // names of containers, tables and queues that are known to be there

	mu            sync.Mutex
	delegation    *service.UserDelegationCredential // guarded by mu
	delegationEnd time.Time                         // guarded by mu
}

func (s *storage) init(c *Client) {
	st := c.cfg.Storage
	s.credential = func() (azcore.TokenCredential, error) { return c.credential() }
	if st.ClientID != "" && st.ClientID != c.cfg.ClientID {
		s.credential = sync.OnceValues(func() (azcore.TokenCredential, error) { return c.newCredential(st.ClientID) })
	}
	s.blobs = sync.OnceValues(func() (*service.Client, error) {
		opts, err := c.storageOptions()
		if err != nil {
			return nil, err
		}
		if st.ByKey() {
			key, err := azblob.NewSharedKeyCredential(st.Account, st.Key.Reveal())
			if err != nil {
				return nil, badKey(st)
			}
			return service.NewClientWithSharedKeyCredential(st.BlobURL+"/", key, &service.ClientOptions{ClientOptions: opts})
		}
		cred, err := s.credential()
		if err != nil {
			return nil, err
		}
		return service.NewClient(st.BlobURL+"/", cred, &service.ClientOptions{ClientOptions: opts})
	})
	s.queues = sync.OnceValues(func() (*azqueue.ServiceClient, error) {
		opts, err := c.storageOptions()
		if err != nil {
			return nil, err
		}
		if st.ByKey() {
			key, err := azqueue.NewSharedKeyCredential(st.Account, st.Key.Reveal())
			if err != nil {
				return nil, badKey(st)
			}
			return azqueue.NewServiceClientWithSharedKeyCredential(st.QueueURL+"/", key, &azqueue.ClientOptions{ClientOptions: opts})
		}
		cred, err := s.credential()
		if err != nil {
			return nil, err
		}
		return azqueue.NewServiceClient(st.QueueURL+"/", cred, &azqueue.ClientOptions{ClientOptions: opts})
	})
	s.tables = sync.OnceValues(func() (*aztables.ServiceClient, error) {
		opts, err := c.storageOptions()
		if err != nil {
			return nil, err
		}
		if st.ByKey() {
			key, err := aztables.NewSharedKeyCredential(st.Account, st.Key.Reveal())
			if err != nil {
				return nil, badKey(st)
			}
			return aztables.NewServiceClientWithSharedKey(st.TableURL, key, &aztables.ClientOptions{ClientOptions: opts})
		}
		cred, err := s.credential()
		if err != nil {
			return nil, err
		}
		return aztables.NewServiceClient(st.TableURL, cred, &aztables.ClientOptions{ClientOptions: opts})
	})
}

// storageOptions are those of every pipeline but for counting: storage calls
// aren't calls to Azure's control.
func (c *Client) storageOptions() (azcore.ClientOptions, error) {
	if !c.cfg.Storage.Set() {
		return azcore.ClientOptions{}, &fault.Error{Kind: fault.Invalid, Op: "opening the storage account", Err: &cause{text: "none is set up"},
			Next: "set AzureWebJobsStorage, or AzureWebJobsStorage__accountName"}
	}
	opts, err := c.baseOptions()
	opts.PerCallPolicies, opts.PerRetryPolicies = nil, nil
	return opts, err
}

func badKey(st config.Storage) error {
	return &fault.Error{Kind: fault.Invalid, Op: "opening storage account", Object: st.Account, Err: &cause{text: "its key is not base64"}, Next: "copy the connection string whole from the account's access keys"}
}

// ensure makes a container, table or queue, once in this process.
func (s *storage) ensure(name string, create func() error, k call) error {
	if _, ok := s.made.Load(name); ok {
		return nil
	}
	err := k.fault(create())
	if err != nil && !fault.Is(err, fault.Conflict) { // Conflict: it is there
		return err
	}
	s.made.Store(name, true)
	return nil
}

// retryMissing does an act, and if its container, table or queue isn't there,
// makes that and does it again.
func (s *storage) retryMissing(k call, name, missing string, create func() error, do func() error) error {
	err := k.fault(do())
	if fault.Code(err) != missing {
		return err
	}
	s.made.Delete(name)
	if err := s.ensure(name, create, k); err != nil {
		return err
	}
	return k.fault(do())
}

// Ready asks each of the three services for something small: whether the account
// can be reached and read.
func (c *Client) Ready(ctx context.Context) error {
	if _, err := c.Blobs().Exists(ctx, ledger.ContainerPolicy, "ready"); err != nil {
		return err
	}
	if _, err := c.Tables().Get(ctx, ledger.TableVMs, "ready", "ready"); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	k := call{"reading queue", ledger.QueueReconcile, "Microsoft.Storage/storageAccounts/queueServices/queues/read"}
	qs, err := c.storage.queues()
	if err != nil {
		return k.fault(err)
	}
	if _, err := qs.NewQueueClient(ledger.QueueReconcile).GetProperties(ctx, nil); err != nil {
		if err := k.fault(err); !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return nil
}

// onLoopback says whether a service's URL is this machine's own.
func onLoopback(service string) bool {
	u, err := url.Parse(service)
	return err == nil && config.Loopback(u.Hostname())
}
