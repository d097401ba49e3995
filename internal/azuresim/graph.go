package azuresim

import (
	"net/http"
	"strings"
)

// queryGraph is Resource Graph's POST …/resources, on the tables Resources and
// ComputeResources (instances of uniform scale sets).
// Rows are filtered by what the caller may read, as in Azure; they are never
// stale here.
func (x *exchange) queryGraph(armPath) {
	body, ok := x.decode()
	if !ok {
		return
	}
	bad := func(code, text string) {
		x.reply(http.StatusBadRequest, doc{"error": doc{
			"code": "BadRequest", "message": "Please provide below info when asking for support: the query is not valid.",
			"details": []any{doc{"code": code, "message": text}},
		}})
	}
	q, err := parseKQL(str(body, "query"))
	if err != nil {
		bad("ParserFailure", "the query is not one that the simulator understands: "+err.Error())
		return
	}
	opt, _ := body["options"].(doc)
	if f := str(opt, "resultFormat"); f != "" && f != "objectArray" {
		bad("InvalidResultFormat", "the simulator answers resultFormat objectArray only")
		return
	}
	var rows []doc
	for _, key := range x.s.order {
		r := x.s.resources[key]
		if !inScope(key, body) || !x.s.may(x.principal, r.typ+"/read", r.id, false) || r.table() != q.table {
			continue
		}
		rows = append(rows, x.s.graphRow(r))
	}
	rows, err = q.run(rows)
	if err != nil {
		bad("InvalidQuery", err.Error())
		return
	}
	from, ok := offset(str(opt, "$skipToken"))
	if !ok || from > len(rows) {
		bad("InvalidSkipToken", "the $skipToken was not made by this service")
		return
	}
	size := min(x.s.opt.PageSize, 1000)
	if top, ok := opt["$top"].(float64); ok && top > 0 {
		size = min(size, int(top))
	}
	if skip, ok := opt["$skip"].(float64); ok && from == 0 {
		from = min(int(skip), len(rows))
	}
	to := min(len(rows), from+size)
	data := []any{}
	for _, r := range rows[from:to] {
		data = append(data, r)
	}
	out := doc{"totalRecords": len(rows), "count": to - from, "data": data, "facets": []any{}, "resultTruncated": "false"}
	if to < len(rows) {
		out["$skipToken"] = skipToken(to)
	}
	x.header.Set("x-ms-user-quota-remaining", "14")
	x.header.Set("x-ms-user-quota-resets-after", "00:00:05")
	x.reply(http.StatusOK, out)
}

// table is the table of Resource Graph that a resource is in, "" for the children
// of VMs, which are in none.
func (r *resource) table() string {
	switch {
	case r.typ == typeVMSSVM:
		return "computeresources"
	case strings.Count(r.typ, "/") == 1:
		return "resources"
	}
	return ""
}

func inScope(key string, body doc) bool {
	subs := anyList(body["subscriptions"])
	for _, s := range subs {
		if within(key, "/subscriptions/"+text(s)) {
			return true
		}
	}
	return len(subs) == 0
}

// graphRow is a resource as Resource Graph shows it.
func (s *Sim) graphRow(r *resource) doc {
	p, err := parseARM(r.id)
	if err != nil {
		p = armPath{}
	}
	props := copyOf(r.props())
	if r.vm != nil {
		put(props, doc{"code": "PowerState/" + r.vm.power, "displayStatus": "VM " + r.vm.power, "level": "Info"}, "extended", "instanceView", "powerState")
		put(props, r.vm.generation, "extended", "instanceView", "hyperVGeneration")
	}
	row := doc{
		"id": r.id, "name": r.name, "type": strings.ToLower(r.typ), "tenantId": s.opt.Tenant, "kind": "", "location": r.location(),
		"resourceGroup": strings.ToLower(p.rg), "subscriptionId": p.sub, "managedBy": str(r.body, "managedBy"), "properties": props,
		"sku": nil, "plan": nil, "tags": nil, "identity": nil, "zones": nil, "extendedLocation": nil,
	}
	for _, k := range []string{"sku", "plan", "tags", "identity", "zones"} {
		if v, ok := r.body[k]; ok {
			row[k] = copyOf(v)
		}
	}
	return row
}
