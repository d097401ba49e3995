package memstore

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
)

// Blobs is a Store's view as blob storage.
type Blobs struct{ s *Store }

var (
	_ ledger.Blobs    = Blobs{}
	_ ledger.SASBlobs = Blobs{}
)

// Create implements ledger.Blobs.
func (b Blobs) Create(ctx context.Context, container, name string, body []byte) error {
	return b.s.act(ctx, "create", container+"/"+name, func() error {
		c, err := b.container("create", container, name)
		if err != nil {
			return err
		}
		if _, there := c[name]; there {
			return fault.New(fault.Conflict, "creating blob", container+"/"+name, "it is there already")
		}
		c[name] = slices.Clone(body)
		return nil
	})
}

// Read implements ledger.Blobs.
func (b Blobs) Read(ctx context.Context, container, name string, limit int64) (body []byte, err error) {
	err = b.s.read(ctx, "read", container+"/"+name, func() error {
		c, err := b.container("read", container, name)
		if err != nil {
			return err
		}
		there, ok := c[name]
		if !ok {
			return fault.New(fault.NotFound, "reading blob", container+"/"+name, "it isn't there")
		}
		if int64(len(there)) > limit {
			return fault.New(fault.Invalid, "reading blob", container+"/"+name, "it has %d bytes, the most is %d", len(there), limit)
		}
		body = append([]byte{}, there...)
		return nil
	})
	return body, err
}

// Exists implements ledger.Blobs.
func (b Blobs) Exists(ctx context.Context, container, name string) (there bool, err error) {
	err = b.s.read(ctx, "exists", container+"/"+name, func() error {
		c, err := b.container("look for", container, name)
		if err == nil {
			_, there = c[name]
		}
		return err
	})
	return there, err
}

// List implements ledger.Blobs. It shows the names as they are when it is called.
func (b Blobs) List(ctx context.Context, container, prefix string, yield func(string) bool) error {
	var names []string
	err := b.s.read(ctx, "list", container+"/"+prefix, func() error {
		c, err := b.container("list", container, prefix)
		for name := range c {
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if !yield(name) {
			return nil
		}
	}
	return nil
}

// Delete implements ledger.Blobs.
func (b Blobs) Delete(ctx context.Context, container, name string) error {
	return b.s.act(ctx, "delete-blob", container+"/"+name, func() error {
		c, err := b.container("delete", container, name)
		if err != nil {
			return err
		}
		if _, there := c[name]; !there {
			return fault.New(fault.NotFound, "deleting blob", container+"/"+name, "it isn't there")
		}
		delete(c, name)
		return nil
	})
}

// Overwrite changes a blob behind the ledger's back, for tests of what notices.
func (b Blobs) Overwrite(container, name string, body []byte) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.blobs[container][name] = slices.Clone(body)
}

// container gives a container's blobs. The lock is held.
func (b Blobs) container(doing, container, name string) (map[string][]byte, error) {
	c, ok := b.s.blobs[container]
	if !ok {
		return nil, fault.New(fault.NotFound, doing, container+"/"+name, "there is no container %q", container)
	}
	return c, nil
}

// ReadURL implements ledger.SASBlobs. Get serves the URL.
func (b Blobs) ReadURL(ctx context.Context, container, name string, life time.Duration) (string, error) {
	return b.sign(ctx, "r", container, name, life)
}

// AppendURL implements ledger.SASBlobs. Append serves the URL.
func (b Blobs) AppendURL(ctx context.Context, container, name string, life time.Duration) (string, error) {
	return b.sign(ctx, "ca", container, name, life)
}

func (b Blobs) sign(ctx context.Context, rights, container, name string, life time.Duration) (string, error) {
	u := url.URL{Scheme: "mem", Host: "store", Path: "/" + container + "/" + name}
	err := b.s.read(ctx, "sign", container+"/"+name, func() error {
		_, err := b.container("sign for", container, name)
		return err
	})
	u.RawQuery = url.Values{"sp": {rights}, "se": {ledger.TimeText(b.s.Clock.Now().Add(life))}}.Encode()
	return u.String(), err
}

// Get reads through a URL of ReadURL, as a guest does. Denied when the URL has no
// such right or is past its time.
func (b Blobs) Get(ctx context.Context, sas string) ([]byte, error) {
	container, name, err := b.open(sas, "r")
	if err != nil {
		return nil, err
	}
	return b.Read(ctx, container, name, 1<<30)
}

// Append creates a blob or appends to it through a URL of AppendURL, as a guest
// does. Denied when the URL has no such right or is past its time.
func (b Blobs) Append(ctx context.Context, sas string, body []byte) error {
	container, name, err := b.open(sas, "ca")
	if err != nil {
		return err
	}
	return b.s.act(ctx, "append", container+"/"+name, func() error {
		c, err := b.container("append to", container, name)
		if err == nil {
			c[name] = append(c[name], body...)
		}
		return err
	})
}

func (b Blobs) open(sas, rights string) (container, name string, err error) {
	u, err := url.Parse(sas)
	if err != nil {
		return "", "", fault.New(fault.Invalid, "using a URL", "", "%w", err)
	}
	container, name, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	ends, err := ledger.ParseTime(u.Query().Get("se"))
	if !ok || err != nil || u.Query().Get("sp") != rights || !b.s.Clock.Now().Before(ends) {
		return "", "", fault.New(fault.Denied, "using a URL for", fmt.Sprintf("%s/%s", container, name), "it has no such right, or its time is over")
	}
	return container, name, nil
}
