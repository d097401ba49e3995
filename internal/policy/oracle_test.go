package policy

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// oracle is a public JSON Schema library with the same schema.
var oracle = sync.OnceValues(func() (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemaJSON))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("policy.schema.json", doc); err != nil {
		return nil, err
	}
	return c.Compile("policy.schema.json")
})

// agree says whether our walk and the library think alike of a document.
func agree(t *testing.T, text string) {
	t.Helper()
	schema, err := oracle()
	if err != nil {
		t.Fatal(err)
	}
	tr := readYAML([]byte(text))
	if len(tr.faults) > 0 {
		return // not a tree: neither is asked
	}
	root, err := schemaShape()
	if err != nil {
		t.Fatal(err)
	}
	w := walk{t: tr, defs: root.Defs}
	w.check(*root, tr.root, nil)
	if theirs := schema.Validate(tr.root); (theirs == nil) == w.bad {
		t.Errorf("our walk says bad=%v, the library %v, of\n%s", w.bad, theirs, text)
	}
}

func TestTheWalkAgreesWithALibrary(t *testing.T) {
	whole := strings.Replace(strings.Replace(string(embeddedYAML), "exemptions: []\n", exempting, 1), "brakes:\n", "spare:\n", 1) + braking
	agree(t, whole)
	whole = strings.Replace(whole, "spare:", "", 1)
	whole = strings.NewReplacer("  maxSendsPerStepPerDay: 8\n", "", "  maxStepsPerVMPerDay: 40\n", "", "  breaker: {vmsPerHour: 500, sharePerHour: 50%, shareFrom: 20}\n", "", "  maxChangedBack: 2\n", "").Replace(whole)
	agree(t, whole)
	lines := strings.Split(whole, "\n")
	agree(t, whole)
	plain := 0 // rules without options are all alike: a few will do
	lines = slices.DeleteFunc(lines, func(l string) bool {
		if strings.HasSuffix(l, ": enforce") {
			plain++
		}
		return plain > 4 && strings.HasSuffix(l, ": enforce") || strings.HasPrefix(strings.TrimSpace(l), "#")
	})
	values := []string{"", "null", "true", "off", "enforce", "3", "3.5", "-1", "99999", "x", "50%", "\"22:00\"", "2027-01-31", "[sat]", "[vtpm, vtpm]", "{}", "[]", "[1]", "{a: b}", "{effect: audit}", "{minBits: 3072}",
		"{minBits: 5}", "30d", "0d", "\"" + strings.Repeat("a", 300) + "\""}
	n := 0
	for i, line := range lines {
		key, _, ok := strings.Cut(line, ":")
		if !ok || strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for j, v := range values {
			if (i+j)%2 == 1 { // every other value, by turns
				continue
			}
			changed := append([]string{}, lines...)
			changed[i] = key + ": " + v
			agree(t, strings.Join(changed, "\n"))
			n++
		}
		agree(t, strings.Join(append(append([]string{}, lines[:i]...), lines[i+1:]...), "\n"))
		changed := append([]string{}, lines...)
		changed[i] = key + "x" + line[len(key):]
		agree(t, strings.Join(changed, "\n"))
	}
	t.Logf("%d documents", n)
}
