package policy

import (
	"encoding/json"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"cvmguard/internal/cvm"
)

func shown(v any) string {
	if s, ok := v.(string); ok {
		return quoted(s)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "the value"
	}
	return cut(string(b))
}

func cut(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:77], "") + "…"
	}
	return s
}

// quoted is a text in quotes, which are there too where it is cut.
func quoted(s string) string { return strconv.Quote(cut(s)) }

func list(values []any) string {
	out := make([]string, 0, len(values))
	for _, v := range values {
		out = append(out, strings.Trim(shown(v), `"`))
	}
	return strings.Join(out, ", ")
}

// texts are the values that are text.
func texts(values []any) []string {
	var out []string
	for _, v := range values {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

func article(s string) string {
	switch {
	case s == "null":
		return "nothing"
	case strings.IndexAny(s, "aeiou") == 0:
		return "an " + s
	}
	return "a " + s
}

var regionName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]{1,40}$`) })

// meaning checks what a schema can't say, on whatever has the right shape, so
// that these faults are listed together with the schema's.
func (t *tree) meaning() {
	root, ok := t.root.(map[string]any)
	if !ok {
		return // the schema says so
	}
	authorities, ok := root["authorities"].([]any)
	if !ok {
		authorities = nil
	}
	for i, a := range authorities {
		if text, ok := a.(string); ok && !cvm.IsAttestationURL(text) {
			t.at([]string{"authorities", strconv.Itoa(i)}, false, "%q is not a provider's address such as https://myprovider.weu.attest.azure.net", cut(text))
		}
	}
	t.meaningOfExemptions(root)
	t.meaningOfBrakes(root)
	regions, _ := root["regions"].(map[string]any)
	for name, r := range regions {
		if !regionName().MatchString(name) {
			near := ""
			if short := cvm.FoldRegion(name); short != name && regionName().MatchString(short) {
				near = ", did you mean " + quoted(short) + "?"
			}
			t.at([]string{"regions", name}, true, "%q is not a region's short name such as northeurope%s", cut(name), near)
		}
		region, _ := r.(map[string]any)
		check := func(member string, parse func(string) error) {
			if text, ok := region[member].(string); ok {
				if err := parse(text); err != nil {
					t.at([]string{"regions", name, member}, false, "%s", strings.TrimPrefix(err.Error(), "reading "))
				}
			}
		}
		check("vault", func(s string) error { _, err := cvm.ParseVaultID(s); return err })
		check("des", func(s string) error { _, err := cvm.ParseDESID(s); return err })
		check("dataDES", func(s string) error {
			if des, ok := region["des"].(string); ok && strings.EqualFold(des, s) {
				return errors.New("it is the same set as des; data disks need an ordinary one")
			}
			_, err := cvm.ParseDESID(s)
			return err
		})
	}
}
