package cvm

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	weu   = "https://sharedweu.weu.attest.azure.net"
	debug = `{"claim":"x-ms-sevsnpvm-is-debuggable","equals":false}`
)

// about lists the differences as about:relation.
func about(c PolicyComparison) string {
	var list []string
	for _, d := range c.Differences {
		list = append(list, d.About+":"+string(d.Relation))
	}
	return strings.Join(list, " ")
}

func TestCompareReleasePolicies(t *testing.T) {
	official := doc(at(neu+"/", all(good, obj(any1(tdx, snp)))))
	for name, c := range map[string]struct {
		a, b  string
		want  PolicyRelation
		about string
	}{
		"itself":                       {official, official, PolicyEquivalent, ""},
		"slash, case, order":           {official, doc(at("HTTPS://SharedNEU.neu.attest.azure.net", all(obj(any1(snp, tdx)), good))), PolicyEquivalent, ""},
		"written as anyOf of allOf":    {official, doc(at(neu, any1(obj(all(good, snp)), obj(all(tdx, good))))), PolicyEquivalent, ""},
		"authority twice":              {official, doc(at(neu, all(good, tdx)), at(neu+"/", all(good, snp))), PolicyEquivalent, ""},
		"needless alternative":         {doc(at(neu, all(good))), doc(at(neu, any1(good, obj(all(good, snp))))), PolicyEquivalent, ""},
		"contradiction":                {doc(at(neu, all(good))), doc(at(neu, any1(good, obj(all(snp, tdx)))), at(weu, all(good, snp, tdx))), PolicyEquivalent, ""},
		"authorities in another order": {doc(at(neu, all(good)), at(weu, all(good))), doc(at(weu, all(good)), at(neu, all(good))), PolicyEquivalent, ""},
		"minor version":                {doc(at(neu, all(good))), strings.Replace(doc(at(neu, all(good))), "1.0.0", "1.2", 1), PolicyEquivalent, ""},
		"compliance dropped":           {official, doc(at(neu, all(obj(any1(tdx, snp))))), PolicyWeaker, "claims:weaker"},
		"compliance or type":           {official, doc(at(neu, any1(good, snp))), PolicyWeaker, "claims:weaker"},
		"a claim more":                 {official, doc(at(neu, all(good, obj(any1(tdx, snp)), debug))), PolicyStronger, "claims:stronger"},
		"one TEE less":                 {official, doc(at(neu, all(good, snp))), PolicyStronger, "claims:stronger tee:stronger"},
		"one TEE more":                 {doc(at(neu, all(good, snp))), official, PolicyWeaker, "claims:weaker tee:weaker"},
		"the other TEE":                {doc(at(neu, all(good, snp))), doc(at(neu, all(good, tdx))), PolicyDifferent, "claims:weaker claims:stronger tee:different"},
		"a region more":                {doc(at(neu, all(good))), doc(at(neu, all(good)), at(weu, all(good))), PolicyWeaker, "authority:weaker region:weaker"},
		"another region":               {doc(at(neu, all(good))), doc(at(weu, all(good))), PolicyDifferent, "authority:stronger authority:weaker region:stronger region:weaker"},
		"a foreign authority":          {doc(at(neu, all(good))), doc(at(neu, all(good)), at("https://attest.example.org:8443/x", all(good))), PolicyWeaker, "authority:weaker"},
		"other dialect":                {doc(at(neu, all(good))), doc(at(neu, all(strings.Replace(good, "x-ms-", "x-ms-isolation-tee.x-ms-", 1)))), PolicyDifferent, "claims:weaker claims:stronger"},
		"text and number":              {doc(at(neu, all(good, `{"claim":"c","equals":1}`))), doc(at(neu, all(good, `{"claim":"c","equals":"1"}`))), PolicyDifferent, "claims:weaker claims:stronger"},
		"nobody":                       {doc(), doc(at(neu, any1())), PolicyEquivalent, ""},
		"another operator":             {official, strings.Replace(official, "equals", "notEquals", 1), PolicyNotCompared, "unreadable:not-compared"},
		"not JSON":                     {`{`, official, PolicyNotCompared, "unreadable:not-compared"},
		"both unreadable":              {`{`, `[]`, PolicyNotCompared, "unreadable:not-compared unreadable:not-compared"},
	} {
		got := CompareReleasePolicies(policyOf(c.a), policyOf(c.b))
		if got.Relation != c.want || about(got) != c.about {
			t.Errorf("%s: %s, %q; want %s, %q", name, got.Relation, about(got), c.want, c.about)
		}
		for _, d := range got.Differences {
			if d.Clause == "" || d.Text == "" {
				t.Errorf("%s: %+v names no clause", name, d)
			}
		}
	}
	if got := CompareReleasePolicies(ReleasePolicy{}, policyOf(official)); got.Relation != PolicyNotCompared || about(got) != "absent:not-compared" {
		t.Error(got)
	}
	got := CompareReleasePolicies(policyOf(doc(at(weu, all(good)), at(neu, all(good, snp)))), policyOf(doc(at(neu, all(snp)), at(weu, all(good)))))
	if len(got.Differences) != 1 || got.Differences[0].Clause != "b anyOf[0]" || !strings.Contains(got.Differences[0].Text, `x-ms-attestation-type = "sevsnpvm"`) {
		t.Errorf("%+v", got)
	}
}

// What would explode is refused in little time.
func TestCompareBounds(t *testing.T) {
	var list []string
	for i := range 40 {
		list = append(list, obj(any1(fmt.Sprintf(`{"claim":"a%d","equals":1}`, i), fmt.Sprintf(`{"claim":"b%d","equals":1}`, i))))
	}
	var wide, wider []string
	for i := range 1900 {
		wide = append(wide, fmt.Sprintf(`{"claim":"a","equals":%d}`, i))
		wider = append(wider, fmt.Sprintf(`{"claim":"b","equals":%d}`, i))
	}
	plain := doc(at(neu, all(good)))
	start := time.Now()
	for name, c := range map[string][2]string{
		"alternatives":  {doc(at(neu, all(list...))), plain},
		"pairs":         {doc(at(neu, any1(wide...)), at(neu, any1(wider...))), doc(at(neu, any1(wider...)), at(neu, any1(wide...)), at(neu, all(good)))},
		"long":          {strings.Repeat(" ", 1<<20) + plain, plain},
		"deep":          {plain, doc(at(neu, all(strings.Repeat(`{"allOf":[`, 2000)+good+strings.Repeat(`]}`, 2000))))},
		"very deep":     {plain, strings.Repeat(`{"anyOf":[`, 200_000)},
		"as an array":   {`[]`, plain},
		"with twice":    {strings.Replace(plain, `"anyOf"`, `"anyOf":[],"anyOf"`, 1), plain},
		"after the end": {plain, plain + "x"},
	} {
		if got := CompareReleasePolicies(policyOf(c[0]), policyOf(c[1])); got.Relation != PolicyNotCompared {
			t.Errorf("%s: %s", name, got.Relation)
		}
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}

// What is drafted passes the judge, for every region, TEE and set of regions.
func TestDraftsPass(t *testing.T) {
	var regions []string
	for r := range providers().byRegion {
		regions = append(regions, r)
	}
	slices.Sort(regions)
	every, err := Authorities(regions, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tee := range []TEE{"", TEESNP, TEETDX, TEEUnknown} {
		for _, r := range regions {
			one, err := Authorities([]string{r}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range []string{DraftReleasePolicies(tee, one...), DraftReleasePolicies(tee, append(every, every...)...)} {
				asked := []TEE{tee}
				if attestationTypes[tee] == "" {
					asked = []TEE{TEESNP, TEETDX, TEEUnknown}
				}
				for _, ask := range asked {
					if got := JudgeReleasePolicy(policyOf(text), PolicyQuestion{Region: r, TEE: ask}); got != nil {
						t.Fatalf("%s %s: %v\n%s", r, ask, got, text)
					}
				}
			}
		}
	}
	if got, want := DraftReleasePolicies(TEETDX, neu, neu+"/"), doc(at(neu, all(good, tdx))); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	own, err := Authorities([]string{"Atlantis", "North Europe"}, map[string]string{"atlantis": "https://mine.example.org"})
	if err != nil || !slices.Equal(own, []string{"https://mine.example.org", neu}) {
		t.Error(own, err)
	}
	if _, err := Authorities([]string{"atlantis", "mu"}, nil); err == nil || !strings.Contains(err.Error(), `["atlantis" "mu"]`) {
		t.Error(err)
	}
}

func TestReadReleasePolicy(t *testing.T) {
	text := DraftReleasePolicy(neu)
	data := base64.RawURLEncoding.EncodeToString([]byte(text))
	policy := `{"contentType":"application/json; charset=utf-8","data":"` + data + `","immutable":true}`
	for name, c := range map[string]struct {
		in    string
		whole bool
	}{
		"the text":       {text, false},
		"with a mark":    {"\xef\xbb\xbf" + text, false},
		"release_policy": {policy, true},
		"key bundle":     {`{"key":{"kid":"https://kv.vault.azure.net/keys/k/1"},"release_policy":` + policy + `}`, true},
		"ARM's key":      {`{"id":"x","properties":{"kty":"RSA-HSM","release_policy":` + policy + `}}`, true},
		"command line":   {`{"key":{},"releasePolicy":{"encodedPolicy":"` + data + `","immutable":true}}`, true},
	} {
		p, whole := ReadReleasePolicy([]byte(c.in))
		if !p.Present || p.Decoded != text || !p.Immutable || p.Problem != "" || whole != c.whole {
			t.Errorf("%s: %+v, %v", name, p, whole)
		}
	}
	if p, whole := ReadReleasePolicy([]byte(`{"key":{"kid":"x"},"attributes":{}}`)); p.Present || !whole {
		t.Errorf("a key without a policy: %+v, %v", p, whole)
	}
	for name, in := range map[string]string{
		"empty": "", "not JSON": "x", "a list": "[]", "null data": `{"data":null}`, "not base64": `{"data":"!"}`, "not text": "{\"\xff\":1}",
		"deep": strings.Repeat(`{"a":`, 100_000), "1 MB of nothing": strings.Repeat("a", 1<<20), "too long": strings.Repeat(" ", maxPolicyInput) + text,
		"1 MB of policy": `{"version":"1.0.0","anyOf":[` + strings.Repeat(" ", 1<<20) + `]}`,
	} {
		p, _ := ReadReleasePolicy([]byte(in))
		if got := codes(JudgeReleasePolicy(p, PolicyQuestion{})); got != "unknown:key-policy-unreadable" && got != "unknown:key-policy-unreadable pass:key-policy-mutable" {
			t.Errorf("%s: %q", name, got)
		}
		if got := CompareReleasePolicies(p, policyOf(text)); got.Relation != PolicyNotCompared {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestExplainReleasePolicy(t *testing.T) {
	text := doc(at(neu, all(good)), at("https://mine.example.org", any1(good, snp)), at("https://sharednew.new.attest.azure.net", all(good, tdx)), at(weu, all(snp, tdx)))
	got := ExplainReleasePolicy(policyOf(text), nil)
	body, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"clause":"anyOf[0]","authority":"` + neu + `","kind":"shared","regions":["northeurope"],"tees":["sev-snp","tdx"],"takes":"x-ms-compliance-status = \"azure-compliant-cvm\"","codes":[]},` +
		`{"clause":"anyOf[1]","authority":"https://mine.example.org","kind":"foreign","regions":[],"tees":["sev-snp","tdx"],"takes":"x-ms-attestation-type = \"sevsnpvm\", or x-ms-compliance-status = \"azure-compliant-cvm\"","codes":["key-policy-weak","key-policy-foreign-authority"]},` +
		`{"clause":"anyOf[2]","authority":"https://sharednew.new.attest.azure.net","kind":"unlisted","regions":[],"tees":["tdx"],"takes":"x-ms-attestation-type = \"tdxvm\" and x-ms-compliance-status = \"azure-compliant-cvm\"","codes":["key-policy-authority-unlisted"]},` +
		`{"clause":"anyOf[3]","authority":"` + weu + `","kind":"shared","regions":["westeurope"],"tees":[],"takes":"nothing: its conditions contradict each other","codes":[]}]`
	if string(body) != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
	if list := ExplainReleasePolicy(policyOf(text), []string{"https://mine.example.org/"}); list[1].Kind != "listed" {
		t.Error(list[1])
	}
	for _, bad := range []string{"", "{", "[]"} {
		if list := ExplainReleasePolicy(policyOf(bad), nil); list == nil || len(list) != 0 {
			t.Errorf("%q: %v", bad, list)
		}
	}
}

// admits is the meaning of a policy, by the book.
func admits(branches []branch, authority string, world map[string]string) bool {
	return slices.ContainsFunc(branches, func(b branch) bool { return comparableAuthority(b.authority) == authority && evaluate(b.when, world) })
}

// The comparison by alternatives must agree with trying out every world, be the
// other way round when the policies are, and find a policy equivalent to itself.
func FuzzReleasePolicyDiff(f *testing.F) {
	both := doc(at(neu, all(good, obj(any1(snp, tdx)))))
	for _, s := range []string{both, doc(at(neu, all(good))), doc(at(neu, any1(good, azvm)), at(weu, all(good))), doc(at(neu, all(obj(any1(good, snp)), obj(any1(good, tdx))))), `{}`, ``} {
		f.Add(s, both)
	}
	inverse := map[PolicyRelation]PolicyRelation{PolicyWeaker: PolicyStronger, PolicyStronger: PolicyWeaker}
	f.Fuzz(func(t *testing.T, a, b string) {
		ExplainReleasePolicy(policyOf(a), nil)
		pa, _ := ReadReleasePolicy([]byte(a))
		JudgeReleasePolicy(pa, PolicyQuestion{Region: "northeurope", TEE: TEESNP})
		got := CompareReleasePolicies(policyOf(a), policyOf(b))
		want := got.Relation
		if i, ok := inverse[want]; ok {
			want = i
		}
		if back := CompareReleasePolicies(policyOf(b), policyOf(a)); back.Relation != want {
			t.Fatalf("%s one way, %s the other", got.Relation, back.Relation)
		}
		if got.Relation == PolicyNotCompared {
			return
		}
		if self := CompareReleasePolicies(policyOf(a), policyOf(a)); self.Relation != PolicyEquivalent {
			t.Fatalf("itself: %v", self)
		}
		one, err1 := parsePolicy(a)
		two, err2 := parsePolicy(b)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		weaker, stronger, ok := byWorlds(one, two)
		if !ok {
			return
		}
		byHand := map[[2]bool]PolicyRelation{{false, false}: PolicyEquivalent, {true, false}: PolicyWeaker, {false, true}: PolicyStronger, {true, true}: PolicyDifferent}[[2]bool{weaker, stronger}]
		if byHand != got.Relation {
			t.Fatalf("by worlds %s, compared %s\n%s\n%s", byHand, got.Relation, a, b)
		}
	})
}

// byWorlds tries every authority with every assignment of the values that the
// policies name, and one that they don't; ok is false where there are too many.
func byWorlds(one, two []branch) (weaker, stronger, ok bool) {
	values := map[string][]string{}
	authorities := map[string]bool{}
	for _, b := range append(slices.Clone(one), two...) {
		authorities[comparableAuthority(b.authority)] = true
		b.when.leaves(func(l condition) {
			if values[l.claim] == nil {
				values[l.claim] = []string{"-"}
			}
			if !slices.Contains(values[l.claim], l.value) {
				values[l.claim] = append(values[l.claim], l.value)
			}
		})
	}
	worlds := []map[string]string{{}}
	for claim, vs := range values {
		var next []map[string]string
		for _, w := range worlds {
			for _, v := range vs {
				n := map[string]string{claim: v}
				for k, x := range w {
					n[k] = x
				}
				next = append(next, n)
			}
		}
		if worlds = next; len(worlds)*len(authorities) > 3000 {
			return false, false, false
		}
	}
	for authority := range authorities {
		for _, w := range worlds {
			x, y := admits(one, authority, w), admits(two, authority, w)
			weaker, stronger = weaker || y && !x, stronger || x && !y
		}
	}
	return weaker, stronger, true
}
