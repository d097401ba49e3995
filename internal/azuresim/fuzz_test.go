package azuresim

import (
	"strings"
	"testing"
)

func FuzzParseKQL(f *testing.F) {
	for _, s := range []string{"resources | where type =~ 'a' and (b.c['d'][0] != 3 or e in~ ('x', \"y\")) | project id, n = tolower(f) | order by id asc | take 3", "resources // x", "resources | where !", "resources|where a !in(1.2.3)"} {
		f.Add(s)
	}
	rows := []doc{{"id": "1", "b": doc{"c": doc{"d": []any{1.0}}}, "e": "x", "type": "a"}}
	f.Fuzz(func(t *testing.T, s string) {
		q, err := parseKQL(s)
		if err != nil {
			return
		}
		if _, err := q.run(rows); err != nil {
			t.Skip(err)
		}
	})
}

func FuzzParseARM(f *testing.F) {
	for _, s := range []string{"/subscriptions/s/resourceGroups/g/providers/N.T/a/b/c/d", "/providers/x", "//providers//", "/subscriptions/s/providers/Microsoft.Compute/skus"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseARM(s)
		if err != nil {
			return
		}
		if p.ns == "" || strings.Contains(p.pattern(), "//") {
			t.Fatalf("%q parsed as %+v", s, p)
		}
		_ = p.id()
	})
}

func FuzzMatch(f *testing.F) {
	f.Add("Microsoft.*/read", "Microsoft.Compute/x/read")
	f.Add("*", "")
	f.Add("a*a", "a")
	f.Fuzz(func(t *testing.T, p, s string) {
		if !strings.Contains(p, "*") && match(p, s) != strings.EqualFold(p, s) {
			t.Fatalf("%q against %q", p, s)
		}
		if !match("*", s) || !match(s+"*", s) && !strings.Contains(s, "*") {
			t.Fatalf("%q does not match itself", s)
		}
	})
}

func FuzzPublication(f *testing.F) {
	f.Add(false, `[{"id":"1","subject":"s","eventType":"t","eventTime":"2026-01-01T00:00:00Z","dataVersion":"1","data":{}}]`)
	f.Add(true, `{"id":"1","source":"s","type":"t","specversion":"1.0"}`)
	f.Fuzz(func(t *testing.T, cloud bool, body string) {
		tp := &topic{TopicSpec: TopicSpec{CloudEvents: cloud}, id: "/t"}
		ct := "application/json"
		if cloud {
			ct = "application/cloudevents+json"
		}
		events, why := tp.decode(ct, []byte(body))
		for _, e := range events {
			if why == "" && (e.ID == "" || e.Type == "") {
				t.Fatalf("%q gave %+v", body, e)
			}
		}
	})
}

func FuzzParseRole(f *testing.F) {
	f.Add(`{"actions":["*"]}`)
	f.Add(`{"properties":{"permissions":[{"dataActions":["a/*/b"]}]}}`)
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseRole([]byte(s)); err == nil && len(r.Actions)+len(r.DataActions) == 0 {
			t.Fatalf("%q is a role without actions", s)
		}
	})
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		p, s string
		want bool
	}{
		{"Microsoft.Compute/*/read", "microsoft.compute/virtualMachines/read", true},
		{"Microsoft.Compute/*/read", "Microsoft.Compute/virtualMachines/write", false},
		{"*", "anything", true}, {"a*a", "a", false}, {"a/b", "A/B", true}, {"a/b", "a/b/c", false}, {"*/read", "read", false},
	} {
		if match(c.p, c.s) != c.want {
			t.Errorf("match(%q, %q) is %v", c.p, c.s, !c.want)
		}
	}
}
