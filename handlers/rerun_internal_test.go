package handlers

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzDecodeRerun holds the reader of a rerun's body to its word: a body is one
// scope that is fit to be put into a query, or a refusal that says what to do.
func FuzzDecodeRerun(f *testing.F) {
	for _, seed := range []string{"", "null", "{}", exampleRerun, `{"group":"rg"}`, `{"group":"/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg"}`,
		`{"group":"rg","subscription":"00000000-0000-0000-0000-000000000001"}`, `{"query":"tags.env =~ 'prod'"}`, `{"query":"a|b"}`, `{"vm":null,"VM":"x"}`, `{"vm":"x"} 1`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		check := func(p *problem) {
			if p.Field == "" || p.Message == "" || p.Example == "" {
				t.Errorf("refused without saying why or how: %+v", p)
			}
			if a := refuse(400, *p); !utf8.Valid(a.Body) || len(a.Body) > 4<<10 {
				t.Errorf("an answer of %d bytes", len(a.Body))
			}
		}
		b, p := decodeRerun(text)
		if p != nil {
			check(p)
			return
		}
		if b.VM != nil {
			return // read by the loop's own parser
		}
		s, p := b.scope()
		if p != nil {
			check(p)
			return
		}
		if s.Group == "" && s.Where == "" && len(s.Subscriptions) == 0 {
			t.Error("a scope of everything out of a body that names one")
		}
		if strings.ContainsAny(s.Group, "'\"\\|;\r\n/") || strings.ContainsAny(s.Where, "|;\r\n") {
			t.Errorf("a scope that could leave its clause: %+v", s)
		}
		for _, id := range s.Subscriptions {
			if !isGUID(id) {
				t.Errorf("subscription %q", id)
			}
		}
	})
}
