package cvm

import (
	"bytes"
	"encoding/json"
	"net/url"
	"sort"
	"strings"
	"time"

	"cvmguard/internal/fault"
)

// maxBody bounds a resource's JSON; ARM's own are a few tens of KiB.
const maxBody = 4 << 20

// unmarshal reads one JSON document into v. Unknown members are let be; a wrong
// type of a member that is needed is fault.Invalid.
func unmarshal(op string, body []byte, v any) error {
	if len(body) > maxBody {
		return fault.New(fault.Invalid, op, "", "the body is %d bytes long, more than %d", len(body), maxBody)
	}
	if trimmed := bytes.TrimSpace(body); len(trimmed) == 0 || trimmed[0] != '{' {
		return fault.New(fault.Invalid, op, "", "the body is not a JSON object")
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fault.New(fault.Invalid, op, "", "the body is not what the service documents: %w", err)
	}
	return nil
}

func tri(b *bool) Tri {
	switch {
	case b == nil:
		return Unread
	case *b:
		return True
	}
	return False
}

// reference is ARM's {"id": …}.
type reference struct {
	ID string `json:"id"`
}

func (r *reference) id() string {
	if r == nil {
		return ""
	}
	return r.ID
}

// armTime reads ARM's times, which have seven decimals.
func armTime(op, field, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, fault.New(fault.Invalid, op, field, "%q is not a time", s)
	}
	return t.UTC(), nil
}

// armIdentity is a resource's identity.
type armIdentity struct {
	Type        string `json:"type"`
	PrincipalID string `json:"principalId"`
	User        map[string]*struct {
		PrincipalID string `json:"principalId"`
	} `json:"userAssignedIdentities"`
}

// principal is the system identity's object id, else that of the first user
// identity in the order of their ids.
func (i *armIdentity) principal() string {
	if i == nil {
		return ""
	}
	if i.PrincipalID != "" {
		return i.PrincipalID
	}
	names := make([]string, 0, len(i.User))
	for n := range i.User {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		if u := i.User[n]; u != nil && u.PrincipalID != "" {
			return u.PrincipalID
		}
	}
	return ""
}

func (i *armIdentity) kind() string {
	if i == nil {
		return ""
	}
	return i.Type
}

// lowerAll lower-cases and trims a list.
func lowerAll(list []string) []string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, strings.ToLower(strings.TrimSpace(s)))
	}
	return out
}

// hostOf is the host of a vault's URI in lower case, "" if there is none.
func hostOf(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}
