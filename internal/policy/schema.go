package policy

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

//go:embed policy.schema.json
var schemaJSON []byte

// Schema is the JSON Schema of a policy document.
func Schema() []byte { return bytes.Clone(schemaJSON) }

const schemaURL = "policy.schema.json"

var compiledSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemaJSON))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(schemaURL, doc); err != nil {
		return nil, err
	}
	return c.Compile(schemaURL)
})

// validate adds the schema's complaints to the faults.
func (t *tree) validate() error {
	schema, err := compiledSchema()
	if err != nil {
		return fault.New(fault.Bug, "compiling the policy's schema", schemaURL, "%w", err)
	}
	err = schema.Validate(t.root)
	var ve *jsonschema.ValidationError
	if errors.As(err, &ve) {
		t.complain(ve)
	} else if err != nil {
		return fault.New(fault.Bug, "validating the policy document", "", "%w", err)
	}
	return nil
}

func (t *tree) complain(e *jsonschema.ValidationError) {
	if _, ok := e.ErrorKind.(*kind.PropertyNames); ok {
		return // meaning says it: the library gives no reliable place for these
	}
	for _, c := range e.Causes {
		t.complain(c)
	}
	if len(e.Causes) > 0 {
		return
	}
	path := e.InstanceLocation
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, name := range slices.Sorted(slices.Values(k.Properties)) {
			what := "member"
			if len(path) == 1 && path[0] == "rules" {
				what = "rule"
			}
			t.at(append(slices.Clone(path), name), true, "there is no %s %q%s", what, name, didYouMean(name, schemaNames(e.SchemaURL)))
		}
	case *kind.Enum:
		t.at(path, false, "%s is not one of %s", shown(k.Got), list(k.Want))
	case *kind.Const:
		t.at(path, false, "%s must be %s", shown(k.Got), shown(k.Want))
	case *kind.Type:
		t.at(path, false, "it is %s where %s belongs", article(k.Got), article(strings.Join(k.Want, " or ")))
	case *kind.Required:
		t.at(path, true, "%s is missing", strings.Join(k.Missing, ", "))
	case *kind.Pattern:
		t.at(path, false, "%q doesn't have the form %s", cut(k.Got), k.Want)
	case *kind.Minimum:
		t.at(path, false, "%s is less than %s", k.Got.RatString(), k.Want.RatString())
	case *kind.Maximum:
		t.at(path, false, "%s is more than %s", k.Got.RatString(), k.Want.RatString())
	case *kind.MinProperties:
		t.at(path, false, "it needs at least %d member", k.Want)
	case *kind.MinLength:
		t.at(path, false, "it is empty")
	case *kind.MaxLength:
		t.at(path, false, "it is %d characters long, more than %d", k.Got, k.Want)
	case *kind.MaxItems:
		t.at(path, false, "it has %d elements, more than %d", k.Got, k.Want)
	default:
		t.at(path, false, "it is not what the schema allows at %s", strings.Join(k.KeywordPath(), "/"))
	}
}

// schemaNames are the members that the schema names at one of its places.
func schemaNames(url string) []string {
	_, pointer, _ := strings.Cut(url, "#")
	var node any
	if json.Unmarshal(schemaJSON, &node) != nil {
		return nil
	}
	for _, part := range strings.Split(strings.Trim(pointer, "/"), "/") {
		m, ok := node.(map[string]any)
		if part == "" || !ok {
			continue
		}
		node = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]
	}
	m, ok := node.(map[string]any)
	if !ok {
		return nil
	}
	props, ok := m["properties"].(map[string]any)
	if !ok {
		return nil
	}
	return slices.Sorted(maps.Keys(props))
}

func shown(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "the value"
	}
	return cut(string(b))
}

func cut(s string) string {
	if len(s) > 80 {
		return s[:77] + "…"
	}
	return s
}

func list(values []any) string {
	out := make([]string, 0, len(values))
	for _, v := range values {
		out = append(out, strings.Trim(shown(v), `"`))
	}
	return strings.Join(out, ", ")
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
	regions, _ := root["regions"].(map[string]any)
	for name, r := range regions {
		if !regionName().MatchString(name) {
			t.at([]string{"regions", name}, true, "%q is not a region's short name such as northeurope", cut(name))
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
