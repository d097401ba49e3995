package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"cvmguard/internal/cvm"
)

// maxTagText is Azure's bound on a tag's value, in characters.
const maxTagText = 256

// ParseExemptionTag reads the value of an exemption tag. It is strict, for what
// can't be read exempts nothing: four fields, each once, in any order, parted by
// semicolons, such as
//
//	rules=secure-boot,key-expiry; until=2027-01-31; owner=jane@example.com; reason=unsigned driver
//
// rules are ids parted by commas, until is a day (its beginning, UTC) or a time of
// RFC 3339, owner and reason are free text without a semicolon. The scope of what
// it gives is empty: it is the VM that bears the tag. Errors are plain sentences.
func ParseExemptionTag(value string) (Exemption, error) {
	var e Exemption
	if n := utf8.RuneCountInString(value); n > maxTagText {
		return e, fmt.Errorf("it is %d characters long, more than %d", n, maxTagText)
	}
	if !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
		return e, errors.New("it holds control characters")
	}
	seen := map[string]bool{}
	for field := range strings.SplitSeq(value, ";") {
		name, text, ok := strings.Cut(field, "=")
		name, text = strings.TrimSpace(name), strings.TrimSpace(text)
		switch {
		case !ok:
			return Exemption{}, fmt.Errorf("%q is not a field such as owner=jane@example.com", cut(strings.TrimSpace(field)))
		case !slices.Contains(tagFields, name):
			return Exemption{}, fmt.Errorf("there is no field %q%s", cut(name), didYouMean(name, tagFields))
		case seen[name]:
			return Exemption{}, fmt.Errorf("field %s stands there a second time", name)
		case text == "":
			return Exemption{}, fmt.Errorf("field %s is empty", name)
		}
		seen[name] = true
		if err := e.field(name, text); err != nil {
			return Exemption{}, err
		}
	}
	for _, name := range tagFields {
		if !seen[name] {
			return Exemption{}, fmt.Errorf("field %s is missing", name)
		}
	}
	return e, nil
}

var tagFields = []string{"rules", "until", "owner", "reason"}

func (e *Exemption) field(name, text string) (err error) {
	switch name {
	case "owner":
		e.Owner = text
	case "reason":
		e.Reason = text
	case "until":
		e.Until, err = parseUntil(text)
	case "rules":
		for id := range strings.SplitSeq(text, ",") {
			id = strings.TrimSpace(id)
			if why := notExemptable(id); why != "" {
				return errors.New(why)
			}
			if slices.Contains(e.Rules, id) {
				return fmt.Errorf("rule %q stands there a second time", id)
			}
			e.Rules = append(e.Rules, id)
		}
	}
	return err
}

// ExemptionTagOf is the value of the tag by which policy lets a VM be exempt;
// there is false where policy knows no such tag or the VM doesn't bear it.
func (d *Document) ExemptionTagOf(vm cvm.VM) (value string, there bool) {
	if d.ExemptionTag.Name == "" {
		return "", false
	}
	for name, v := range vm.Tags { // Azure knows a tag's name in one spelling only
		if strings.EqualFold(name, d.ExemptionTag.Name) {
			return v, true
		}
	}
	return "", false
}

// takes says whether all parts of a scope hold of an object. vm is nil for a
// shared object and for a VM that wasn't read: no selector takes it.
func (s ExemptionScope) takes(id string, vm *cvm.VM) bool {
	low := strings.ToLower(id)
	switch {
	case s.VM != "" && !strings.EqualFold(s.VM, id),
		s.ResourceGroup != "" && !strings.HasPrefix(low, strings.ToLower(s.ResourceGroup)+"/"),
		s.Subscription != "" && !strings.HasPrefix(low, "/subscriptions/"+strings.ToLower(s.Subscription)+"/") && !strings.HasPrefix(low, strings.ToLower(s.Subscription)+"/regions/"),
		s.Selector != nil && (vm == nil || !s.Selector.takes(*vm)):
		return false
	}
	return s != (ExemptionScope{})
}

// grant is one exemption that may concern the object under judgement.
type grant struct {
	Exemption
	from  string
	setBy string
	own   bool // of the object under judgement as a whole; else of a shared object behind it alone
}

// grants are what exempts the object, what did until a while ago, and what is
// wrong with its tag.
type grants struct {
	good, expired []grant
	wrong         []Finding
	tagged        bool // policy knows a tag
}

// exempting sorts the exemptions that concern the object under judgement.
func (s *subject) exempting() grants {
	var g grants
	var vm *cvm.VM
	if s.on == onVM && s.p.VM.Known {
		vm = &s.vm
	}
	for _, e := range s.doc.Exemptions {
		own := e.Scope.takes(s.id, vm) && (s.on == onVM || e.Scope.VM != "")
		if own || s.on == onVM && e.Scope.VM != "" {
			g.add(grant{Exemption: e, from: FromPolicy, own: own}, s.now)
		}
	}
	if s.on != onVM || s.doc.ExemptionTag.Name == "" {
		return g
	}
	g.tagged = true
	if vm == nil {
		g.wrong = one(unread(s.p.VM, "vm-unreadable", "vm"))
		return g
	}
	value, there := s.doc.ExemptionTagOf(*vm)
	if !there {
		return g
	}
	e, err := ParseExemptionTag(value)
	switch {
	case err != nil:
		g.wrong = one(s.tagWrong(fail(reasonExemptionInvalid, NeedsPerson, "can't be read: "+err.Error()+".")))
	case !s.now.Before(e.Until):
		g.add(grant{Exemption: e, from: FromTag, own: true}, s.now)
	default:
		if f, bad := s.tagSetter(value); bad {
			g.wrong = one(s.tagWrong(f))
			return g
		}
		g.add(grant{Exemption: e, from: FromTag, setBy: s.p.TagSetter.Value.Principal, own: true}, s.now)
	}
	return g
}

func (g *grants) add(e grant, now time.Time) {
	if now.Before(e.Until) {
		g.good = append(g.good, e)
	} else if e.own {
		g.expired = append(g.expired, e)
	}
}

// The reasons of rule exemptions.
const (
	reasonExemptionInvalid = "exemption-invalid"
	reasonExemptionExpired = "exemption-expired"
)

// tagSetter says what is wrong with who set the tag. Everybody counts who may
// have: the log doesn't say which tag a write changed.
func (s *subject) tagSetter(value string) (f Finding, bad bool) {
	by := s.p.TagSetter
	switch {
	case !by.Known:
		f = unknown(reasonExemptionInvalid, NeedsPerson, "counts for nothing as long as it isn't known who set it")
		if by.Why.Detail != "" {
			f.Text += ": " + strings.TrimSuffix(by.Why.Detail, ".")
		}
		f.Text += "."
		if by.Why.Action != "" {
			f.Action = by.Why.Action
			f.Text += " Grant " + by.Why.Action + "."
		}
		return f, true
	case !strings.EqualFold(by.Value.Tag, s.doc.ExemptionTag.Name) || by.Value.Value != value:
		return unknown(reasonExemptionInvalid, NeedsPerson, "was changed since it was found out who set it."), true
	}
	for _, who := range append([]string{by.Value.Principal}, by.Value.Others...) {
		if !slices.Contains(s.doc.ExemptionTag.Principals, strings.ToLower(who)) {
			return fail(reasonExemptionInvalid, NeedsPerson, fmt.Sprintf("was set, or may have been, by %s, whom policy doesn't let exempt. "+
				"Take the tag away; once cvmguard has looked at the VM, let one of exemptionTag.principals set it, with nobody else changing the VM meanwhile.", orWho(who))), true
		}
	}
	return Finding{}, false
}

func orWho(id string) string {
	if id == "" {
		return "somebody whom the Activity Log doesn't name"
	}
	return cut(id)
}

// tagWrong completes a finding about the tag.
func (s *subject) tagWrong(f Finding) Finding {
	f.Text = "The tag " + s.doc.ExemptionTag.Name + " " + f.Text
	f.Facts = []string{"vm.tags", "tagSetter"}
	return f
}

// exempt is the finding as an exemption leaves it, if one covers it: of those that
// do the one that holds longest.
func (s *subject) exempt(f Finding) Finding {
	if f.State != cvm.Fail && f.State != cvm.UnknownState || !Exemptible(f.Rule) {
		return f
	}
	var by *grant
	for i, e := range s.granted.good {
		covers := e.own || f.Object != "" && e.Scope.takes(f.Object, nil)
		if covers && slices.Contains(e.Rules, f.Rule) && (by == nil || e.Until.After(by.Until)) {
			by = &s.granted.good[i]
		}
	}
	if by == nil {
		return f
	}
	f.State = cvm.Exempt
	f.Exemption = &ExemptionUse{Owner: by.Owner, Reason: by.Reason, Until: by.Until, From: by.from, SetBy: by.setBy}
	f.Text += " " + by.words() + "."
	return f
}

// words say who answers for an exemption, until when and why.
func (e grant) words() string {
	from := "the policy document"
	if e.from == FromTag {
		from = "the VM's tag"
	}
	return fmt.Sprintf("Exempt by %s until %s, for which %s answers: %s", from, dayOrTime(e.Until), e.Owner, strings.TrimSuffix(strings.TrimSpace(e.Reason), "."))
}

func dayOrTime(t time.Time) string {
	if t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return t.Format(time.RFC3339)
}

func judgeExemptions(s *subject) []Finding {
	g := s.granted
	list := slices.Clone(g.wrong)
	var told []string
	for _, e := range g.good {
		if e.own {
			told = append(told, strings.Join(e.Rules, ", ")+": "+e.words()+".")
		}
	}
	for _, e := range g.expired {
		list = append(list, note(reasonExemptionExpired, fmt.Sprintf("The exemption from %s by %s ended on %s (%s answered for it): it exempts no longer.",
			strings.Join(e.Rules, ", "), e.from, dayOrTime(e.Until), e.Owner), "exemptions"))
	}
	switch {
	case len(told) > 0:
		return append(list, pass(strings.Join(told, " "), "exemptions")...)
	case len(list) > 0:
		return list
	case g.tagged:
		return pass("Nothing exempts the VM.", "vm.tags")
	}
	return notApplicable("Policy exempts nothing here.")
}

func exemptRules() []Rule {
	return []Rule{
		{ID: ruleExemptions, Title: "Exemptions are in order", Severity: Medium, Class: NeedsPerson, Needs: NeedsAzure,
			Doc: docExemptions, On: []string{onVM, onDES, onKey, onVault, onRegion}, judge: judgeExemptions,
			Checks: "An exemption tag on the VM can be read, names rules that there are, and was set by a principal that policy names, as the Activity Log says; what is exempt, and what has expired, is told.",
			Why:    "Whoever may write a tag could else exempt a VM from every rule.",
			Fix:    "Correct the tag, or take it away; have one of exemptionTag.principals set it; renew what has expired, or let it go. An exemption is undone by taking it out of the policy document, or the tag off the VM."},
	}
}
