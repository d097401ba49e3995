package azuresim

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
)

func (x *exchange) keyNotFound(what string) {
	x.failInner(http.StatusNotFound, "KeyNotFound", "A key with (name/id) "+what+" was not found in this key vault. If you recently deleted this key you may be able to recover it using the correct recovery command.", "")
}

func (x *exchange) getKey(v *vault, segs []string) {
	version := ""
	if len(segs) > 2 {
		version = segs[2]
	}
	k := v.find(segs[1], version)
	if k == nil {
		x.keyNotFound(strings.Join(segs[1:], "/"))
		return
	}
	x.reply(http.StatusOK, copyOf(k.body))
}

func (x *exchange) listVersions(v *vault, segs []string) {
	k := v.keys[fold(segs[1])]
	if k == nil || k.deleted {
		x.keyNotFound(segs[1])
		return
	}
	var out []any
	for _, e := range k.versions {
		out = append(out, item(e, str(e.body, "key", "kid")))
	}
	x.pageKeys(out)
}

func (x *exchange) listKeys(v *vault, _ []string) {
	var out []any
	for _, name := range sortedKeys(v.keys) {
		if k := v.keys[name]; !k.deleted {
			out = append(out, item(k.newest(), "https://"+v.host+"/keys/"+k.name))
		}
	}
	x.pageKeys(out)
}

// pageKeys answers a listing of the key plane: maxresults at once, 25 at most.
func (x *exchange) pageKeys(out []any) {
	x.pageOf(out, min(25, x.s.opt.PageSize), "$skiptoken")
	if x.status == http.StatusOK && !strings.Contains(string(x.answer), `"nextLink"`) {
		var d doc
		if json.Unmarshal(x.answer, &d) == nil {
			d["nextLink"] = nil
			x.reply(http.StatusOK, d)
		}
	}
}

func item(k *keyVersion, kid string) doc {
	return doc{"kid": kid, "attributes": copyOf(k.body["attributes"]), "tags": copyOf(k.body["tags"])}
}

// keyRequest is what a creation or an update asks for.
type keyRequest struct {
	Type   string   `json:"kty"`
	Bits   int      `json:"key_size"`
	Ops    []string `json:"key_ops"`
	Curve  string   `json:"crv"`
	Policy doc      `json:"release_policy"`
	Tags   doc      `json:"tags"`
	Attr   doc      `json:"attributes"`
}

func (x *exchange) decodeKey(model any) (keyRequest, bool) {
	var q keyRequest
	if _, ok := x.decodeAs(model); !ok {
		return q, false
	}
	if err := json.Unmarshal(x.body, &q); err != nil {
		x.fail(http.StatusBadRequest, "BadParameter", err.Error())
		return q, false
	}
	return q, true
}

func (x *exchange) createKey(v *vault, segs []string) {
	q, ok := x.decodeKey(&azkeys.CreateKeyParameters{})
	if !ok {
		return
	}
	bad := func(text string) { x.fail(http.StatusBadRequest, "BadParameter", text) }
	hardware := strings.HasSuffix(q.Type, "-HSM")
	exportable := yes(q.Attr, "exportable")
	if k := v.keys[fold(segs[1])]; k != nil && k.deleted {
		x.failInner(http.StatusConflict, "Conflict", "Key "+segs[1]+" is currently in a deleted but recoverable state, and its name cannot be reused.", "ObjectIsDeletedButRecoverable")
		return
	}
	switch {
	case q.Type != "RSA" && q.Type != "RSA-HSM" && q.Type != "EC" && q.Type != "EC-HSM":
		bad("Property kty has the invalid value '" + q.Type + "'.")
		return
	case hardware && !v.hsm && !strings.EqualFold(str(v.res.props(), "sku", "name"), "premium"):
		bad("Property kty: hardware keys need a vault of SKU premium.")
		return
	case v.hsm && !hardware:
		bad("Property kty: a Managed HSM holds hardware keys only.")
		return
	case strings.HasPrefix(q.Type, "RSA") && q.Bits != 0 && q.Bits != 2048 && q.Bits != 3072 && q.Bits != 4096:
		bad(fmt.Sprintf("Property key_size has the invalid value %d.", q.Bits))
		return
	case exportable && !hardware:
		bad("AKV.SKR: an exportable key must be protected by an HSM.")
		return
	case exportable && q.Policy == nil:
		bad("AKV.SKR.1004: a release policy is required for an exportable key.")
		return
	case !exportable && q.Policy != nil:
		bad("AKV.SKR.1005: a key with a release policy must be exportable.")
		return
	case q.Policy != nil && policyFault(q.Policy) != "":
		bad("AKV.SKR: the release policy is not valid: " + policyFault(q.Policy))
		return
	}
	k := x.s.makeKey(v, segs[1], q)
	x.reply(http.StatusOK, copyOf(k.body))
	x.s.emitKey(v, k, "KeyNewVersionCreated")
}

// policyFault says what is wrong with a release policy as the service reads it.
func policyFault(p doc) string {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(str(p, "data"), "="))
	if err != nil || len(raw) == 0 {
		return "its data is not base64url"
	}
	var d doc
	if json.Unmarshal(raw, &d) != nil {
		return "its data is not a JSON object"
	}
	if len(anyList(d["anyOf"])) == 0 {
		return "it has no anyOf"
	}
	return ""
}

// makeKey adds a version. Key material is a stream of hashes: it looks like a
// modulus and is none. Under Sim.mu.
func (s *Sim) makeKey(v *vault, name string, q keyRequest) *keyVersion {
	n := v.keys[fold(name)]
	if n == nil {
		n = &keyName{name: name}
		v.keys[fold(name)] = n
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", v.host, name, len(n.versions)))
	version := hex.EncodeToString(sum[:16])
	key := doc{"kid": "https://" + v.host + "/keys/" + n.name + "/" + version, "kty": q.Type}
	ops := q.Ops
	if ops == nil {
		ops = []string{"encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"}
	}
	key["key_ops"] = toAny(ops)
	if strings.HasPrefix(q.Type, "EC") {
		key["crv"] = orElse(q.Curve, "P-256")
		key["x"], key["y"] = stream("x", version, 32), stream("y", version, 32)
	} else {
		bits := q.Bits
		if bits == 0 {
			bits = 2048
		}
		key["n"], key["e"] = stream("n", version, bits/8), "AQAB"
	}
	now := float64(s.now().Unix())
	level, days := "Recoverable+Purgeable", 90.0
	if yes(v.res.props(), "enablePurgeProtection") {
		level = "Recoverable"
	}
	attr := doc{"enabled": true, "created": now, "updated": now, "recoveryLevel": level, "recoverableDays": days}
	if q.Policy != nil || at(q.Attr, "exportable") != nil {
		attr["exportable"] = yes(q.Attr, "exportable")
	}
	if strings.HasSuffix(q.Type, "-HSM") {
		attr["hsmPlatform"] = "2"
	}
	for _, k := range []string{"enabled", "nbf", "exp"} {
		if e, ok := q.Attr[k]; ok {
			attr[k] = e
		}
	}
	body := doc{"key": key, "attributes": attr, "tags": q.Tags}
	if q.Tags == nil {
		body["tags"] = doc{}
	}
	if q.Policy != nil {
		body["release_policy"] = normalPolicy(q.Policy)
	}
	k := &keyVersion{name: n.name, version: version, body: body}
	n.versions = append(n.versions, k)
	return k
}

func normalPolicy(p doc) doc {
	out := doc{"contentType": orElse(str(p, "contentType"), "application/json; charset=utf-8"), "data": strings.TrimRight(str(p, "data"), "="), "immutable": yes(p, "immutable")}
	return out
}

func toAny(in []string) []any {
	out := make([]any, len(in))
	for i, v := range in {
		out[i] = v
	}
	return out
}

// stream is n bytes of a hash stream as base64url, the first bit set.
func stream(kind, seed string, n int) string {
	var b []byte
	for i := 0; len(b) < n; i++ {
		h := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", kind, seed, i))
		b = append(b, h[:]...)
	}
	b[0] |= 0x80
	return base64.RawURLEncoding.EncodeToString(b[:n])
}

func (x *exchange) updateKey(v *vault, segs []string) {
	version := ""
	if len(segs) > 2 {
		version = segs[2]
	}
	k := v.find(segs[1], version)
	if k == nil {
		x.keyNotFound(strings.Join(segs[1:], "/"))
		return
	}
	q, ok := x.decodeKey(&azkeys.UpdateKeyParameters{})
	if !ok {
		return
	}
	if e, ok := q.Attr["exportable"].(bool); ok && e != yes(k.body, "attributes", "exportable") {
		x.fail(http.StatusBadRequest, "BadParameter", "The property exportable cannot be changed after the key was created.")
		return
	}
	if q.Policy != nil && x.refusePolicy(k, q.Policy) {
		return
	}
	for _, a := range []string{"enabled", "nbf", "exp"} {
		if e, ok := q.Attr[a]; ok {
			put(k.body, e, "attributes", a)
		}
	}
	if q.Ops != nil {
		put(k.body, toAny(q.Ops), "key", "key_ops")
	}
	if q.Tags != nil {
		k.body["tags"] = q.Tags
	}
	if q.Policy != nil {
		k.body["release_policy"] = normalPolicy(q.Policy)
	}
	put(k.body, float64(x.s.now().Unix()), "attributes", "updated")
	x.reply(http.StatusOK, copyOf(k.body))
}

// refusePolicy answers for a release policy that the key version cannot get. The
// service's codes are not known for certain: BadParameter is our choice.
func (x *exchange) refusePolicy(k *keyVersion, p doc) bool {
	why := ""
	switch {
	case !yes(k.body, "attributes", "exportable"):
		why = "AKV.SKR.1005: a key with a release policy must be exportable."
	case yes(k.body, "release_policy", "immutable"):
		why = "AKV.SKR: the release policy is immutable."
	default:
		if f := policyFault(p); f != "" {
			why = "AKV.SKR: the release policy is not valid: " + f
		}
	}
	if why == "" {
		return false
	}
	x.fail(http.StatusBadRequest, "BadParameter", why)
	return true
}

func (x *exchange) removeKey(v *vault, segs []string) {
	k := v.keys[fold(segs[1])]
	if k == nil || k.deleted {
		x.keyNotFound(segs[1])
		return
	}
	k.deleted = true
	x.reply(http.StatusOK, x.deletedDoc(v, k))
}

func (x *exchange) deletedDoc(v *vault, k *keyName) doc {
	b := copyOf(k.newest().body)
	b["recoveryId"] = "https://" + v.host + "/deletedkeys/" + k.name
	b["deletedDate"] = float64(x.s.now().Unix())
	b["scheduledPurgeDate"] = float64(x.s.now().AddDate(0, 0, 90).Unix())
	return b
}

func (x *exchange) getDeletedKey(v *vault, segs []string) {
	k := v.keys[fold(segs[1])]
	if k == nil || !k.deleted {
		x.keyNotFound(segs[1])
		return
	}
	x.reply(http.StatusOK, x.deletedDoc(v, k))
}

func (x *exchange) recoverKey(v *vault, segs []string) {
	k := v.keys[fold(segs[1])]
	if k == nil || !k.deleted {
		x.keyNotFound(segs[1])
		return
	}
	k.deleted = false
	x.reply(http.StatusOK, copyOf(k.newest().body))
}
