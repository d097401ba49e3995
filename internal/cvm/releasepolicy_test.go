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

func policyOf(text string) ReleasePolicy {
	return ReleasePolicy{Present: true, Immutable: true, Decoded: text}
}

func codes(faults []PolicyFault) string {
	var list []string
	for _, f := range faults {
		s := f.Code
		if f.State != Fail {
			s = string(f.State) + ":" + s
		}
		list = append(list, s)
	}
	return strings.Join(list, " ")
}

const (
	neu  = "https://sharedneu.neu.attest.azure.net"
	good = `{"claim":"x-ms-compliance-status","equals":"azure-compliant-cvm"}`
	snp  = `{"claim":"x-ms-attestation-type","equals":"sevsnpvm"}`
	tdx  = `{"claim":"x-ms-attestation-type","equals":"tdxvm"}`
	azvm = `{"claim":"x-ms-attestation-type","equals":"azurevm"}`
)

func doc(branches ...string) string {
	return `{"version":"1.0.0","anyOf":[` + strings.Join(branches, ",") + `]}`
}

func at(authority, rest string) string { return `{"authority":"` + authority + `",` + rest + `}` }

func all(c ...string) string  { return `"allOf":[` + strings.Join(c, ",") + `]` }
func any1(c ...string) string { return `"anyOf":[` + strings.Join(c, ",") + `]` }
func obj(s string) string     { return "{" + s + "}" }

func TestJudgeReleasePolicy(t *testing.T) {
	north := PolicyQuestion{Region: "northeurope", TEE: TEESNP}
	guest := strings.ReplaceAll(strings.ReplaceAll(all(good, obj(any1(snp, tdx))), "x-ms-compliance", "x-ms-isolation-tee.x-ms-compliance"), "x-ms-attestation", "x-ms-isolation-tee.x-ms-attestation")
	for name, c := range map[string]struct {
		text string
		q    PolicyQuestion
		want string
	}{
		"default of 2024":         {DraftReleasePolicy(neu), north, ""},
		"trailing slash, case":    {doc(at("HTTPS://SharedNEU.neu.attest.azure.net/", all(good))), north, ""},
		"both types":              {doc(at(neu, all(good, obj(any1(snp, tdx))))), north, ""},
		"written as anyOf":        {doc(at(neu, any1(obj(all(good, snp)), obj(all(good, tdx))))), north, ""},
		"absorbed":                {doc(at(neu, any1(good, obj(all(good, snp))))), north, ""},
		"nested deep":             {doc(at(neu, all(obj(any1(obj(all(obj(any1(good))))))))), north, ""},
		"contradiction dropped":   {doc(at(neu, any1(obj(all(good, snp)), obj(all(azvm, snp))))), north, ""},
		"one authority twice":     {doc(at(neu, all(good, tdx)), at(neu+"/", all(good, snp))), north, ""},
		"other claims too":        {doc(at(neu, all(good, `{"claim":"x-ms-sevsnpvm-is-debuggable","equals":false}`))), north, ""},
		"minor version":           {strings.Replace(doc(at(neu, all(good))), "1.0.0", "1.2", 1), north, ""},
		"weak: azurevm":           {doc(at(neu, all(azvm))), north, "key-policy-weak key-policy-tee-missing"},
		"weak: type alone":        {doc(at(neu, all(snp))), north, "key-policy-weak"},
		"weak: either":            {doc(at(neu, any1(good, snp))), north, "key-policy-weak"},
		"weak: type outside":      {doc(at(neu, all(good, obj(any1(snp, azvm))))), north, "key-policy-weak"},
		"weak: other status":      {doc(at(neu, all(`{"claim":"x-ms-compliance-status","equals":"azure-signed-uvm"}`))), north, "key-policy-weak"},
		"weak: nothing asked":     {doc(at(neu, all())), north, "key-policy-weak"},
		"weak: one of two":        {doc(at(neu, all(good)), at("https://sharedweu.weu.attest.azure.net", all(snp))), north, "key-policy-weak"},
		"weak: buried":            {doc(at(neu, any1(good, obj(all(snp, obj(any1(good, `{"claim":"x","equals":1}`))))))), north, "key-policy-weak"},
		"nothing buried":          {doc(at(neu, any1(good, obj(all(snp, obj(any1(good, tdx))))))), north, ""},
		"outside, absorbed":       {doc(at(neu, any1(good, obj(all(good, azvm))))), north, ""},
		"weak: status not text":   {doc(at(neu, all(`{"claim":"x-ms-compliance-status","equals":1}`))), north, "key-policy-weak"},
		"foreign":                 {doc(at("https://attest.example.org/", all(good))), north, "key-policy-foreign-authority key-policy-region-missing"},
		"customer's own":          {doc(at(neu, all(good)), at("https://mine.neu.attest.azure.net", all(good))), north, "key-policy-foreign-authority"},
		"port":                    {doc(at(neu+":443", all(good))), north, "key-policy-foreign-authority key-policy-region-missing"},
		"userinfo":                {doc(at("https://x@sharedneu.neu.attest.azure.net", all(good))), north, "key-policy-foreign-authority key-policy-region-missing"},
		"path":                    {doc(at(neu+"/x", all(good))), north, "key-policy-foreign-authority key-policy-region-missing"},
		"http":                    {doc(at("http://sharedneu.neu.attest.azure.net", all(good))), north, "key-policy-foreign-authority key-policy-region-missing"},
		"lookalike":               {doc(at(neu, all(good)), at("https://sharedneu.neu.attest.azure.net.example.org", all(good))), north, "key-policy-foreign-authority"},
		"unlisted":                {doc(at(neu, all(good)), at("https://sharednew.new.attest.azure.net", all(good))), north, "unknown:key-policy-authority-unlisted"},
		"unlisted, codes differ":  {doc(at(neu, all(good)), at("https://shareda.b.attest.azure.net", all(good))), north, "key-policy-foreign-authority"},
		"listed by policy":        {doc(at(neu, all(good)), at("https://mine.example.org/", all(good))), PolicyQuestion{Region: "northeurope", TEE: TEESNP, ExtraAuthorities: []string{"https://MINE.example.org"}}, ""},
		"Kelvin's sign":           {doc(at(neu, all(good)), at("https://shared\u212arc.\u212arc.attest.azure.net", all(good))), north, "key-policy-foreign-authority"},
		"two slashes":             {doc(at(neu, all(good)), at(neu+"//", all(good))), north, "key-policy-foreign-authority"},
		"a dot after the host":    {doc(at(neu, all(good)), at(neu+".", all(good))), north, "key-policy-foreign-authority"},
		"a query":                 {doc(at(neu, all(good)), at(neu+"?x", all(good))), north, "key-policy-foreign-authority"},
		"a member in capitals":    {doc(at(neu, all(strings.ToUpper(good[:33])+good[33:]))), north, "unknown:key-policy-unreadable"},
		"weak: claim's case":      {doc(at(neu, all(strings.Replace(good, "x-ms-c", "X-MS-C", 1)))), north, "key-policy-weak"},
		"weak: value's case":      {doc(at(neu, all(strings.Replace(good, "azure-c", "Azure-C", 1)))), north, "key-policy-weak"},
		"weak: a space":           {doc(at(neu, all(strings.Replace(good, "-cvm", "-cvm ", 1)))), north, "key-policy-weak"},
		"escaped, the same":       {doc(at(neu, all(strings.Replace(good, "-cvm", `\u002dcvm`, 1)))), north, ""},
		"weak: an empty allOf":    {doc(at(neu, any1(good, obj(all())))), north, "key-policy-weak"},
		"an empty allOf beside":   {doc(at(neu, all(good, obj(all())))), north, ""},
		"an empty anyOf beside":   {doc(at(neu, all(good, obj(any1())))), north, "key-policy-region-missing"},
		"number in two spellings": {doc(at(neu, any1(good, obj(all(`{"claim":"c","equals":1}`, `{"claim":"c","equals":1.0}`))))), north, "unknown:key-policy-unreadable"},
		"true and its text":       {doc(at(neu, any1(good, obj(all(`{"claim":"c","equals":true}`, `{"claim":"c","equals":"True"}`))))), north, "unknown:key-policy-unreadable"},
		"broken surrogates":       {doc(at(neu, any1(good, obj(all(`{"claim":"\ud800","equals":1}`, `{"claim":"\ud801","equals":2}`))))), north, "unknown:key-policy-unreadable"},
		"authority in a list":     {doc(`{"authority":["` + neu + `"],` + all(good) + `}`), north, "unknown:key-policy-unreadable"},
		"anyOf of one object":     {doc(at(neu, `"anyOf":`+good)), north, "unknown:key-policy-unreadable"},
		"member's case":           {doc(at(neu, strings.Replace(all(good), "allOf", "AllOf", 1))), north, "unknown:key-policy-unreadable"},
		"an authority within":     {doc(at(neu, all(good, at(neu, all(good))))), north, "unknown:key-policy-unreadable"},
		"a member more":           {doc(at(neu, all(good)+`,"comment":"x"`)), north, "unknown:key-policy-unreadable"},
		"region missing":          {doc(at("https://sharedweu.weu.attest.azure.net", all(good))), north, "key-policy-region-missing"},
		"region unsatisfiable":    {doc(at(neu, all(good, snp, tdx))), north, "key-policy-region-missing"},
		"region unknown":          {doc(at(neu, all(good))), PolicyQuestion{Region: "atlantis", TEE: TEESNP}, "unknown:key-policy-region-missing"},
		"region given":            {doc(at(neu, all(good))), PolicyQuestion{Region: "Atlantis", TEE: TEESNP, Authorities: map[string]string{"atlantis": neu}}, ""},
		"region not asked":        {doc(at("https://sharedweu.weu.attest.azure.net", all(good))), PolicyQuestion{TEE: TEESNP}, ""},
		"us gov":                  {doc(at("https://sharedugv.ugv.attest.azure.us", all(good))), PolicyQuestion{Region: "usgovvirginia", TEE: TEESNP}, ""},
		"tee missing":             {doc(at(neu, all(good, tdx))), north, "key-policy-tee-missing"},
		"tee missing, elsewhere":  {doc(at(neu, all(good, tdx)), at("https://sharedweu.weu.attest.azure.net", all(good, snp))), north, "key-policy-tee-missing"},
		"tee unknown":             {doc(at(neu, all(good, tdx))), PolicyQuestion{Region: "northeurope", TEE: TEEUnknown}, "unknown:key-policy-tee-missing"},
		"tee unknown, both":       {doc(at(neu, all(good))), PolicyQuestion{Region: "northeurope", TEE: TEEUnknown}, ""},
		"tee not asked":           {doc(at(neu, all(good, tdx))), PolicyQuestion{Region: "northeurope"}, ""},
		"guest dialect":           {doc(at(neu, guest)), north, "key-policy-weak key-policy-guest-dialect"},
		"guest dialect and right": {doc(at(neu, all(good)), at(neu, guest)), north, "key-policy-weak"},
		"no authorities":          {doc(), north, "key-policy-region-missing"},
		"version 2":               {strings.Replace(doc(at(neu, all(good))), "1.0.0", "2.0.0", 1), north, "unknown:key-policy-unreadable"},
		"no version":              {`{"anyOf":[]}`, north, "unknown:key-policy-unreadable"},
		"top allOf":               {`{"version":"1.0.0","allOf":[]}`, north, "unknown:key-policy-unreadable"},
		"top both":                {`{"version":"1.0.0","anyOf":[],"allOf":[]}`, north, "unknown:key-policy-unreadable"},
		"other operator":          {doc(at(neu, all(`{"claim":"a","notEquals":"b"}`))), north, "unknown:key-policy-unreadable"},
		"two operators":           {doc(at(neu, all(`{"claim":"a","equals":"b","in":[]}`))), north, "unknown:key-policy-unreadable"},
		"both lists":              {doc(at(neu, all(good)+","+any1(good))), north, "unknown:key-policy-unreadable"},
		"neither list":            {doc(`{"authority":"` + neu + `"}`), north, "unknown:key-policy-unreadable"},
		"claim at the top":        {doc(at(neu, `"claim":"a","equals":"b"`)), north, "unknown:key-policy-unreadable"},
		"no authority":            {doc(obj(all(good))), north, "unknown:key-policy-unreadable"},
		"key twice":               {strings.Replace(doc(at(neu, all(good))), `"allOf"`, `"allOf":[],"allOf"`, 1), north, "unknown:key-policy-unreadable"},
		"equals an object":        {doc(at(neu, all(`{"claim":"a","equals":{}}`))), north, "unknown:key-policy-unreadable"},
		"more after":              {doc(at(neu, all(good))) + "{}", north, "unknown:key-policy-unreadable"},
		"not JSON":                {`{"version":`, north, "unknown:key-policy-unreadable"},
		"a list":                  {`[]`, north, "unknown:key-policy-unreadable"},
		"too deep":                {doc(at(neu, all(strings.Repeat(`{"allOf":[`, 40)+good+strings.Repeat(`]}`, 40)))), north, "unknown:key-policy-unreadable"},
	} {
		if got := codes(JudgeReleasePolicy(policyOf(c.text), c.q)); got != c.want {
			t.Errorf("%s: %q, want %q\n%s", name, got, c.want, c.text)
		}
	}
}

func TestReleasePolicyBounds(t *testing.T) {
	if got := codes(JudgeReleasePolicy(ReleasePolicy{}, PolicyQuestion{})); got != "key-no-release-policy" {
		t.Error(got)
	}
	if got := codes(JudgeReleasePolicy(ReleasePolicy{Present: true, Problem: "x"}, PolicyQuestion{})); got != "unknown:key-policy-unreadable" {
		t.Error(got)
	}
	// Whether it is mutable can be read of one that can't.
	if got := codes(JudgeReleasePolicy(decodePolicy([]byte(`{"data":"!"}`)), PolicyQuestion{})); got != "unknown:key-policy-unreadable pass:key-policy-mutable" {
		t.Error(got)
	}
	if got := codes(JudgeReleasePolicy(decodePolicy([]byte(`{"data":"e30","immutable":true}`)), PolicyQuestion{})); got != "unknown:key-policy-unreadable" {
		t.Error(got)
	}
	p := policyOf(DraftReleasePolicy(neu))
	p.Immutable = false
	if got := codes(JudgeReleasePolicy(p, PolicyQuestion{})); got != "pass:key-policy-mutable" {
		t.Error(got)
	}
	// Conditions whose alternatives explode are too complex, in little time.
	var list []string
	for i := range 40 {
		list = append(list, obj(any1(fmt.Sprintf(`{"claim":"a%d","equals":1}`, i), fmt.Sprintf(`{"claim":"b%d","equals":1}`, i))))
	}
	if got := codes(JudgeReleasePolicy(policyOf(doc(at(neu, all(append(list, good)...)))), PolicyQuestion{})); got != "unknown:key-policy-unreadable" {
		t.Error(got)
	}
	if got := codes(JudgeReleasePolicy(policyOf(strings.Repeat(" ", 1<<20)+"{}"), PolicyQuestion{})); got != "unknown:key-policy-unreadable" {
		t.Error(got)
	}
	// As many weak alternatives as a policy has room for are no burden.
	var weak, wide []string
	for i := range 1900 {
		weak = append(weak, fmt.Sprintf(`{"claim":"a","equals":%d}`, i))
	}
	for range 3 {
		wide = append(wide, at(neu, any1(weak...)))
	}
	start := time.Now()
	if got := codes(JudgeReleasePolicy(policyOf(doc(wide...)), PolicyQuestion{})); got != "key-policy-weak" || time.Since(start) > 5*time.Second {
		t.Errorf("%s after %v", got, time.Since(start))
	}
	// The clause is named, and a policy of sixty authorities is no burden.
	var many []string
	for _, url := range providers().byRegion {
		many = append(many, at(url+"/", all(good, obj(any1(tdx, snp)))))
	}
	if got := JudgeReleasePolicy(policyOf(doc(many...)), PolicyQuestion{Region: "westeurope", TEE: TEETDX}); got != nil {
		t.Error(got)
	}
	faults := JudgeReleasePolicy(policyOf(doc(at(neu, all(good)), at(neu, all(snp)))), PolicyQuestion{})
	if len(faults) != 1 || faults[0].Clause != "anyOf[1]" || faults[0].Severity != "critical" {
		t.Error(faults)
	}
}

// A weak policy's finding names the clause that alone gives the key away, and what
// is enough there.
func TestWeakClauseNamed(t *testing.T) {
	for text, want := range map[string]string{
		doc(at(neu, all(azvm))): `anyOf[0]: The key can be released without the platform's word that the VM is a compliant CVM; x-ms-attestation-type = "azurevm" is enough.`,
		doc(at(neu, all(good)), at(weu, any1(obj(all(good, tdx)), obj(any1(obj(all(good, snp)), snp))))): `anyOf[1].anyOf[1].anyOf[1]: The key can be released without the platform's word that the VM is a compliant CVM; x-ms-attestation-type = "sevsnpvm" is enough.`,
		doc(at(neu, all(good, obj(any1(snp, azvm))))):                                                    `anyOf[0]: The key can be released to attestation type "azurevm"; x-ms-attestation-type = "azurevm" and x-ms-compliance-status = "azure-compliant-cvm" is enough.`,
		doc(at(neu, all())): `anyOf[0]: The key can be released without the platform's word that the VM is a compliant CVM; any token of the authority is enough.`,
		doc(at(neu, any1(`{"claim":"a\u001b[2J","equals":"`+strings.Repeat("é", 300)+`"}`))): `anyOf[0].anyOf[0]: The key can be released without the platform's word that the VM is a compliant CVM; a?[2J = "` + strings.Repeat("é", 191) + `… is enough.`,
	} {
		faults := JudgeReleasePolicy(policyOf(text), PolicyQuestion{})
		if len(faults) != 1 || faults[0].Clause+": "+faults[0].Text != want {
			t.Errorf("%s:\n%+v, want\n%s", text, faults, want)
		}
	}
	// Many weak branches are counted, not dropped.
	var many []string
	for range 60 {
		many = append(many, at(neu, all(snp)))
	}
	if f := JudgeReleasePolicy(policyOf(doc(many...)), PolicyQuestion{}); len(f) != 1 || f[0].Clause != "anyOf[0], anyOf[1], anyOf[2], anyOf[3], anyOf[4] and 55 more" {
		t.Errorf("%+v", f)
	}
}

func TestReleasePolicyVectors(t *testing.T) {
	for file, want := range map[string]string{
		"release-policy-good.json":         "",
		"release-policy-default-2024.json": "",
		"release-policy-guest-skr.json":    "key-policy-weak key-policy-guest-dialect",
	} {
		for _, tee := range []TEE{TEESNP, TEETDX} {
			if got := codes(JudgeReleasePolicy(policyOf(string(vector(t, file))), PolicyQuestion{Region: "northeurope", TEE: tee})); got != want {
				t.Errorf("%s: %q, want %q", file, got, want)
			}
		}
	}
	var a, b any
	if json.Unmarshal([]byte(DraftReleasePolicy(neu)), &a) != nil || json.Unmarshal(vector(t, "release-policy-default-2024.json"), &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("the draft %v isn't the form of Azure's tools %v", a, b)
	}
}

func TestDecodePolicy(t *testing.T) {
	text := `{"version":"1.0.0","anyOf":[],"x":"???>>>~~~"}`
	for name, data := range map[string]string{
		"base64url": base64.RawURLEncoding.EncodeToString([]byte(text)), "padded url": base64.URLEncoding.EncodeToString([]byte(text)),
		"base64": base64.StdEncoding.EncodeToString([]byte(text)), "unpadded": base64.RawStdEncoding.EncodeToString([]byte(text)),
	} {
		k, err := ParseKey([]byte(`{"key":{"kid":"` + exampleKey + `","kty":"RSA-HSM"},"release_policy":{"data":"` + data + `","immutable":true}}`))
		if err != nil || k.Policy.Decoded != text || !k.Policy.Immutable || k.Policy.Problem != "" {
			t.Errorf("%s: %+v, %v", name, k.Policy, err)
		}
	}
	for _, policy := range []string{`7`, `"x"`, `{}`, `{"data":7}`, `{"data":"!!!"}`, `{"data":"e30\n"}`, `{"data":"eyI"}`, `{"data":"//4"}`, `{"data":null}`} {
		k, err := ParseKey([]byte(`{"key":{"kid":"` + exampleKey + `","kty":"RSA-HSM"},"attributes":{"enabled":true},"release_policy":` + policy + `}`))
		if err != nil || !k.Policy.Present || k.Policy.Decoded != "" || k.Policy.Problem == "" || k.Type != "RSA-HSM" || k.Enabled != True {
			t.Errorf("%s: %+v, %v", policy, k, err)
		}
	}
	for _, policy := range []string{`null`, ``} {
		body := `{"key":{"kid":"` + exampleKey + `"}`
		if policy != "" {
			body += `,"release_policy":` + policy
		}
		if k, err := ParseKey([]byte(body + "}")); err != nil || k.Policy.Present {
			t.Errorf("%q: %+v, %v", policy, k.Policy, err)
		}
	}
}

func TestAttestationProvider(t *testing.T) {
	for region, want := range map[string]string{
		"northeurope": neu, "West Europe": "https://sharedweu.weu.attest.azure.net", "usgovtexas": "https://shareduga.uga.attest.azure.us", "atlantis": "", "": "",
	} {
		if got, ok := AttestationProvider(region); got != want || ok != (want != "") {
			t.Errorf("AttestationProvider(%q) = %q, %v", region, got, ok)
		}
	}
	if n := len(providers().byRegion); n < 60 {
		t.Errorf("%d regions", n)
	}
}

// evaluate is the meaning of a condition, by the book: an assignment gives each
// claim one value.
func evaluate(c condition, world map[string]string) bool {
	if c.isLeaf {
		return world[c.claim] == c.value
	}
	for _, kid := range c.kids {
		if evaluate(kid, world) == c.any {
			return c.any
		}
	}
	return !c.any
}

// The judgement by alternatives must agree with trying out every world.
func FuzzReleasePolicy(f *testing.F) {
	for _, s := range []string{doc(at(neu, all(good, obj(any1(snp, tdx))))), doc(at(neu, any1(good, azvm))), doc(at(neu, all(obj(any1(good, snp)), obj(any1(good, tdx))))), `{}`} {
		f.Add(s)
	}
	seed2 := func(pattern string) { seedText(f, pattern) }
	seed2("release-policy-*.json")
	f.Fuzz(func(t *testing.T, text string) {
		faults := JudgeReleasePolicy(policyOf(text), PolicyQuestion{Region: "northeurope", TEE: TEESNP})
		branches, err := parsePolicy(text)
		if err != nil || strings.Contains(codes(faults), "unreadable") {
			return
		}
		weak := false
		for _, b := range branches {
			w, ok := weakByWorlds(b.when)
			if !ok {
				return
			}
			weak = weak || w
		}
		if weak != strings.Contains(codes(faults), "key-policy-weak") {
			t.Fatalf("weak by worlds %v, judged %q: %s", weak, codes(faults), text)
		}
	})
}

// weakByWorlds tries every assignment of the values that a condition names, and
// one that it doesn't; ok is false where there are too many.
func weakByWorlds(c condition) (weak, ok bool) {
	values := map[string][]string{claimCompliance: {"-"}, claimType: {"-"}}
	c.leaves(func(l condition) {
		if values[l.claim] == nil {
			values[l.claim] = []string{"-"}
		}
		values[l.claim] = append(values[l.claim], l.value)
	})
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
		if worlds = next; len(worlds) > 2000 {
			return false, false
		}
	}
	for _, w := range worlds {
		if !evaluate(c, w) {
			continue
		}
		typ := w[claimType]
		named := false
		c.leaves(func(l condition) { named = named || l.claim == claimType && l.value == typ })
		if w[claimCompliance] != quoted(compliantCVM) {
			return true, true
		}
		// A type outside counts where it takes part: the world holds by it and not without it.
		if named && typ != quoted("sevsnpvm") && typ != quoted("tdxvm") {
			without := map[string]string{}
			for k, v := range w {
				without[k] = v
			}
			without[claimType] = "-"
			if !evaluate(c, without) {
				return true, true
			}
		}
	}
	return false, true
}

// A policy that nothing can satisfy lets no VM boot, whatever its region.
func TestAPolicyForNobody(t *testing.T) {
	const a = `"authority":"https://sharedweu.weu.attest.azure.net"`
	for _, text := range []string{
		`{"version":"1.0.0","anyOf":[]}`,
		`{"version":"1.0.0","anyOf":[{` + a + `,"anyOf":[]}]}`,
		`{"version":"1.0.0","anyOf":[{` + a + `,"allOf":[{"claim":"x-ms-compliance-status","equals":"azure-compliant-cvm"},{"claim":"x-ms-compliance-status","equals":"no"}]}]}`,
	} {
		for _, region := range []string{"", "westeurope"} {
			var codes []string
			for _, f := range JudgeReleasePolicy(ReleasePolicy{Present: true, Immutable: true, Decoded: text}, PolicyQuestion{Region: region, TEE: TEESNP}) {
				codes = append(codes, string(f.State)+" "+f.Code)
			}
			if !slices.Contains(codes, "fail key-policy-region-missing") && !slices.Contains(codes, "unknown key-policy-unreadable") {
				t.Errorf("%s in %q: %q", text, region, codes)
			}
		}
	}
}
