package policy

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

//go:embed embedded.yaml
var embeddedYAML []byte

// Embedded is the policy that is in force where no other is given. It is read on
// first use.
func Embedded() *Document { return embedded() }

var embedded = sync.OnceValue(func() *Document {
	d, err := Parse(embeddedYAML)
	if err != nil {
		panic("policy: the embedded document is broken: " + err.Error())
	}
	return d
})

// raw is the document as it is spelled.
type raw struct {
	Name string `json:"name"`
	Mode string `json:"mode"`
	Want struct {
		Include []rawSelector `json:"include"`
		Exclude []rawSelector `json:"exclude"`
	} `json:"want"`
	Rules  map[string]rawRule `json:"rules"`
	Remedy struct {
		Allow                   *Class  `json:"allow"`
		CollectEvidence         *bool   `json:"collectEvidence"`
		InstallGuestAttestation *bool   `json:"installGuestAttestation"`
		EncryptTempDisk         *bool   `json:"encryptTempDisk"`
		DeallocateForDataDisks  *bool   `json:"deallocateForDataDisks"`
		Tag                     *bool   `json:"tag"`
		QuarantineTag           *string `json:"quarantineTag"`
		DisableAutoRotation     *bool   `json:"disableAutoRotation"`
		ReplaceReleasePolicy    *bool   `json:"replaceReleasePolicy"`
		GrantRights             *bool   `json:"grantRights"`
		EnsureRegionKey         *bool   `json:"ensureRegionKey"`
		EnsureRegionDES         *bool   `json:"ensureRegionDES"`
	} `json:"remedy"`
	Regions map[string]struct {
		Vault   string `json:"vault"`
		Key     string `json:"key"`
		KeyBits *int   `json:"keyBits"`
		DES     string `json:"des"`
		DataDES string `json:"dataDES"`
	} `json:"regions"`
	Orchestrator string   `json:"orchestratorObjectId"`
	Authorities  []string `json:"authorities"`
	Attestation  struct {
		Asked  *bool  `json:"asked"`
		MaxAge string `json:"maxAge"`
	} `json:"attestation"`
	Brakes       rawBrakes      `json:"brakes"`
	Exemptions   []rawExemption `json:"exemptions"`
	ExemptionTag struct {
		Name       string   `json:"name"`
		Principals []string `json:"principals"`
	} `json:"exemptionTag"`
}

type rawSelector struct {
	Name          string            `json:"name"`
	ResourceGroup string            `json:"resourceGroup"`
	Size          string            `json:"size"`
	Image         string            `json:"image"`
	Tags          map[string]string `json:"tag"`
}

// rawRule is an effect, or an object with one and options.
type rawRule struct {
	Effect   Effect `json:"effect"`
	MinBits  *int   `json:"minBits"`
	Required *bool  `json:"required"`
	Near     string `json:"near"`
}

// UnmarshalJSON takes the short form, a text, for the effect alone.
func (r *rawRule) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &r.Effect)
	}
	type plain rawRule
	return json.Unmarshal(b, (*plain)(r))
}

// Parse reads a policy document, YAML or JSON. Its error is fault.Invalid around
// a *ParseError that lists every fault with line and column.
func Parse(text []byte) (*Document, error) {
	t := readYAML(text)
	if len(t.faults) == 0 || t.root != nil {
		if err := t.validate(); err != nil {
			return nil, err
		}
		t.meaning()
	}
	var d *Document
	if len(t.faults) == 0 {
		d = t.document()
	}
	if len(t.faults) > 0 {
		return nil, &fault.Error{Kind: fault.Invalid, Op: "reading the policy document", Err: &ParseError{Faults: t.sorted()},
			Next: "correct the places named; the policy in force stays"}
	}
	sum := sha256.Sum256(text)
	d.Hash, d.Source = hex.EncodeToString(sum[:]), bytes.Clone(text)
	return d, nil
}

func (t *tree) document() *Document {
	var r raw
	b, err := json.Marshal(t.root)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		t.faults = append(t.faults, Fault{Text: "the document can't be read: " + err.Error()})
		return nil
	}
	d := &Document{Name: r.Name, mode: r.Mode, Rules: t.settings(r.Rules), Regions: map[string]Region{},
		OrchestratorObjectID: strings.ToLower(r.Orchestrator), Authorities: r.Authorities,
		Want:        Want{Include: selectors(r.Want.Include), Exclude: selectors(r.Want.Exclude)},
		Attestation: Attestation{Asked: or(r.Attestation.Asked, true), MaxAge: t.duration([]string{"attestation", "maxAge"}, r.Attestation.MaxAge, 24*time.Hour)},
		Brakes:      t.brakes(r.Brakes),
		Remedy: Remedy{Allow: or(r.Remedy.Allow, InPlace), CollectEvidence: or(r.Remedy.CollectEvidence, true),
			InstallGuestAttestation: or(r.Remedy.InstallGuestAttestation, true), EncryptTempDisk: or(r.Remedy.EncryptTempDisk, false),
			DeallocateForDataDisks: or(r.Remedy.DeallocateForDataDisks, false), Tag: or(r.Remedy.Tag, true),
			QuarantineTag: or(r.Remedy.QuarantineTag, "cvmguard-quarantine"), DisableAutoRotation: or(r.Remedy.DisableAutoRotation, true),
			ReplaceReleasePolicy: or(r.Remedy.ReplaceReleasePolicy, false), GrantRights: or(r.Remedy.GrantRights, false),
			EnsureRegionKey: or(r.Remedy.EnsureRegionKey, true), EnsureRegionDES: or(r.Remedy.EnsureRegionDES, true)},
	}
	if d.mode == "" {
		d.mode = ModeObserve
	}
	d.Exemptions = exemptions(r.Exemptions)
	d.ExemptionTag.Name = r.ExemptionTag.Name
	for _, p := range r.ExemptionTag.Principals {
		d.ExemptionTag.Principals = append(d.ExemptionTag.Principals, strings.ToLower(p))
	}
	for name, w := range r.Regions {
		d.Regions[name] = Region{Vault: w.Vault, Key: w.Key, KeyBits: or(w.KeyBits, 3072), DES: cvm.DESID(w.DES), DataDES: cvm.DESID(w.DataDES)}
	}
	return d
}

// settings completes the document's rules from the table.
func (t *tree) settings(given map[string]rawRule) map[string]Setting {
	out := map[string]Setting{}
	for _, r := range ruleTable() {
		s := Setting{Effect: r.Default}
		g := given[r.ID]
		if g.Effect != "" {
			s.Effect = g.Effect
		}
		switch r.ID {
		case "key-size":
			s.MinBits = or(g.MinBits, 2048)
		case "key-expiry":
			s.Required = or(g.Required, false)
			s.Near = t.duration([]string{"rules", r.ID, "near"}, g.Near, 30*24*time.Hour)
		}
		out[r.ID] = s
	}
	return out
}

// duration reads a number and d, h, m or s.
func (t *tree) duration(path []string, s string, otherwise time.Duration) time.Duration {
	if s == "" {
		return otherwise
	}
	unit := map[byte]time.Duration{'d': 24 * time.Hour, 'h': time.Hour, 'm': time.Minute, 's': time.Second}[s[len(s)-1]]
	n, err := strconv.Atoi(s[:len(s)-1])
	if err != nil || unit == 0 || n <= 0 {
		t.at(path, false, "%q is not a duration such as 30d or 24h", cut(s))
		return otherwise
	}
	return time.Duration(n) * unit
}

func selectors(list []rawSelector) []Selector {
	var out []Selector
	for _, s := range list {
		out = append(out, Selector(s))
	}
	return out
}

func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

var modeLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^mode[ \t]*:[^\n]*$`) })

// WithMode is the document in another mode. Its Source is the same text but for
// the one line that says the mode, or, where that can't be edited in place, the
// document written as JSON; its Hash is that of the new Source, so it still
// covers every byte. A mode that there isn't gives ModeObserve.
func (d *Document) WithMode(mode string) *Document {
	if mode != ModeEnforce {
		mode = ModeObserve
	}
	if d.mode == mode {
		return d
	}
	line := []byte("mode: " + mode)
	edited := bytes.Clone(d.Source)
	if at := modeLine().FindIndex(edited); at != nil {
		edited = slices.Concat(edited[:at[0]], line, edited[at[1]:])
	} else {
		edited = slices.Concat(bytes.TrimRight(edited, "\n"), []byte("\n"), line, []byte("\n"))
	}
	if e, err := Parse(edited); err == nil && e.sameBut(d, mode) {
		return e
	}
	root, ok := readYAML(d.Source).root.(map[string]any)
	if ok {
		root["mode"] = mode
		if text, err := json.MarshalIndent(root, "", "  "); err == nil {
			if e, err := Parse(append(text, '\n')); err == nil {
				return e
			}
		}
	}
	panic(fmt.Sprintf("policy: document %s can't be written in mode %s", d.Hash, mode)) // it was parsed once
}

// sameBut says whether e is d in another mode.
func (d *Document) sameBut(other *Document, mode string) bool {
	a, b := *d, *other
	if a.mode != mode {
		return false
	}
	a.Hash, a.Source, a.mode = b.Hash, b.Source, b.mode
	return reflect.DeepEqual(a, b)
}
