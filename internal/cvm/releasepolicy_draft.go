package cvm

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// DraftReleasePolicy is a release policy for CVM keys in the form that Azure's
// own tools have made since July 2024: one authority, the region's shared
// provider, and the platform's word that the VM is a compliant CVM.
func DraftReleasePolicy(authority string) string { return DraftReleasePolicies("", authority) }

// DraftReleasePolicies is the same for several authorities, each named once, in
// their order. With TEESNP or TEETDX the attestation type is asked for as well;
// with any other value both TEEs are admitted, now and later.
func DraftReleasePolicies(tee TEE, authorities ...string) string {
	type leaf struct {
		Claim  string `json:"claim"`
		Equals string `json:"equals"`
	}
	type one struct {
		Authority string `json:"authority"`
		AllOf     []leaf `json:"allOf"`
	}
	doc := struct {
		Version string `json:"version"`
		AnyOf   []one  `json:"anyOf"`
	}{"1.0.0", []one{}}
	asked := []leaf{{claimCompliance, compliantCVM}}
	if typ := attestationTypes[tee]; typ != "" {
		asked = append(asked, leaf{claimType, typ})
	}
	seen := map[string]bool{}
	for _, a := range authorities {
		if key := comparableAuthority(a); !seen[key] {
			seen[key] = true
			doc.AnyOf = append(doc.AnyOf, one{a, asked})
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		panic("cvm: drafting a release policy: " + err.Error()) // strings always encode
	}
	return strings.TrimSpace(b.String())
}

// attestationTypes are the attestation types of the TEEs that confidential VMs have.
var attestationTypes = map[TEE]string{TEESNP: "sevsnpvm", TEETDX: "tdxvm"}

// comparableAuthority is the text by which two authorities are the same.
func comparableAuthority(authority string) string {
	if base, ok := authorityBase(authority); ok {
		return base
	}
	return authority
}

// ReadReleasePolicy takes a release policy out of what a person has of it: the
// policy's own JSON text; a release_policy object with its data in base64; or a
// key with one, as the key plane, Resource Manager or Azure's command line show
// it. whole says that it was more than the bare text, so that Immutable is known.
// What can't be read is a policy with a Problem, never an error.
func ReadReleasePolicy(text []byte) (p ReleasePolicy, whole bool) {
	bare := ReleasePolicy{Present: true, Immutable: true}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	if len(text) > maxPolicyInput {
		bare.Problem = "it is longer than what a key's body can be"
		return bare, false
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil || !utf8.Valid(text) {
		bare.Problem = "it is not a JSON object"
		return bare, false
	}
	inner := members
	if props := objectOf(members["properties"]); props != nil && members["anyOf"] == nil {
		inner = props
	}
	for _, name := range []string{"release_policy", "releasePolicy"} {
		if raw, ok := inner[name]; ok {
			return decodePolicy(asReleasePolicy(raw)), true
		}
	}
	switch {
	case members["anyOf"] == nil && (members["data"] != nil || members["encodedPolicy"] != nil):
		return decodePolicy(asReleasePolicy(text)), true
	case members["key"] != nil || inner["kty"] != nil:
		return ReleasePolicy{}, true // a key without a release policy
	}
	bare.Decoded = string(text)
	return bare, false
}

// maxPolicyInput bounds what ReadReleasePolicy looks at, in bytes.
const maxPolicyInput = 4 << 20

// asReleasePolicy gives an object with encodedPolicy, as Azure's command line
// prints it, the name that the wire has.
func asReleasePolicy(raw json.RawMessage) json.RawMessage {
	members := objectOf(raw)
	if members == nil || members["data"] != nil || members["encodedPolicy"] == nil {
		return raw
	}
	members["data"] = members["encodedPolicy"]
	renamed, err := json.Marshal(members)
	if err != nil {
		return raw
	}
	return renamed
}

func objectOf(raw json.RawMessage) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	if len(raw) == 0 || json.Unmarshal(raw, &m) != nil {
		return nil
	}
	return m
}
