package azuresim

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// armRoute is one operation of Resource Manager. kind is the method where it
// differs in meaning from the verb: a POST that only asks is no write.
type armRoute struct {
	action string
	write  bool
	h      func(*exchange, armPath)
}

// armRoutes is all that the control plane answers to.
var armRoutes = map[string]armRoute{
	"GET microsoft.compute/virtualmachines":                {typeVM + "/read", false, listOf(typeVM)},
	"GET microsoft.compute/virtualmachines/*":              {typeVM + "/read", false, (*exchange).getVM},
	"GET microsoft.compute/virtualmachines/*/instanceview": {typeVM + "/instanceView/read", false, (*exchange).getInstanceView},
	"PUT microsoft.compute/virtualmachines/*":              {typeVM + "/write", true, (*exchange).putVM},
	"PATCH microsoft.compute/virtualmachines/*":            {typeVM + "/write", true, (*exchange).patchVM},
	"DELETE microsoft.compute/virtualmachines/*":           {typeVM + "/delete", true, (*exchange).deleteVM},
	"POST microsoft.compute/virtualmachines/*/deallocate":  {typeVM + "/deallocate/action", true, (*exchange).deallocateVM},
	"POST microsoft.compute/virtualmachines/*/start":       {typeVM + "/start/action", true, (*exchange).startVM},
	"POST microsoft.compute/virtualmachines/*/restart":     {typeVM + "/restart/action", true, (*exchange).restartVM},

	"GET microsoft.compute/virtualmachinescalesets/*/virtualmachines/*": {typeVMSSVM + "/read", false, (*exchange).getScaleSetVM},

	"GET microsoft.compute/virtualmachines/*/extensions":      {typeExtension + "/read", false, (*exchange).listChildren},
	"GET microsoft.compute/virtualmachines/*/extensions/*":    {typeExtension + "/read", false, getOf(typeExtension)},
	"PUT microsoft.compute/virtualmachines/*/extensions/*":    {typeExtension + "/write", true, (*exchange).putExtension},
	"DELETE microsoft.compute/virtualmachines/*/extensions/*": {typeExtension + "/delete", true, (*exchange).deleteChild},

	"GET microsoft.compute/virtualmachines/*/runcommands":      {typeRun + "/read", false, (*exchange).listChildren},
	"GET microsoft.compute/virtualmachines/*/runcommands/*":    {typeRun + "/read", false, (*exchange).getRunCommand},
	"PUT microsoft.compute/virtualmachines/*/runcommands/*":    {typeRun + "/write", true, (*exchange).putRunCommand},
	"DELETE microsoft.compute/virtualmachines/*/runcommands/*": {typeRun + "/delete", true, (*exchange).deleteChild},

	"GET microsoft.compute/disks":     {typeDisk + "/read", false, listOf(typeDisk)},
	"GET microsoft.compute/disks/*":   {typeDisk + "/read", false, getOf(typeDisk)},
	"PATCH microsoft.compute/disks/*": {typeDisk + "/write", true, (*exchange).patchDisk},

	"GET microsoft.compute/diskencryptionsets":                       {typeDES + "/read", false, listOf(typeDES)},
	"GET microsoft.compute/diskencryptionsets/*":                     {typeDES + "/read", false, getOf(typeDES)},
	"GET microsoft.compute/diskencryptionsets/*/associatedresources": {typeDES + "/read", false, (*exchange).desDisks},
	"PUT microsoft.compute/diskencryptionsets/*":                     {typeDES + "/write", true, (*exchange).putDES},
	"PATCH microsoft.compute/diskencryptionsets/*":                   {typeDES + "/write", true, (*exchange).patchDES},

	"GET microsoft.compute/skus":                     {"Microsoft.Compute/skus/read", false, (*exchange).listSKUs},
	"GET microsoft.compute/locations/*/operations/*": {"Microsoft.Compute/locations/operations/read", false, (*exchange).getOperation},

	"GET microsoft.keyvault/vaults":                    {typeVault + "/read", false, listOf(typeVault)},
	"GET microsoft.keyvault/vaults/*":                  {typeVault + "/read", false, getOf(typeVault)},
	"PATCH microsoft.keyvault/vaults/*":                {typeVault + "/write", true, (*exchange).patchVault},
	"PUT microsoft.keyvault/vaults/*/accesspolicies/*": {typeVault + "/accessPolicies/write", true, (*exchange).putAccessPolicies},
	"GET microsoft.keyvault/managedhsms":               {typeHSM + "/read", false, listOf(typeHSM)},
	"GET microsoft.keyvault/managedhsms/*":             {typeHSM + "/read", false, getOf(typeHSM)},

	"GET microsoft.authorization/roleassignments":   {"Microsoft.Authorization/roleAssignments/read", false, (*exchange).listRoleAssignments},
	"GET microsoft.authorization/roleassignments/*": {"Microsoft.Authorization/roleAssignments/read", false, (*exchange).getRoleAssignment},
	"PUT microsoft.authorization/roleassignments/*": {"Microsoft.Authorization/roleAssignments/write", true, (*exchange).putRoleAssignment},
	"GET microsoft.authorization/denyassignments":   {"Microsoft.Authorization/denyAssignments/read", false, (*exchange).listDenyAssignments},
	"GET microsoft.authorization/roledefinitions":   {"Microsoft.Authorization/roleDefinitions/read", false, (*exchange).listRoleDefinitions},
	"GET microsoft.authorization/roledefinitions/*": {"Microsoft.Authorization/roleDefinitions/read", false, (*exchange).getRoleDefinition},

	"GET microsoft.authorization/locks":       {"Microsoft.Authorization/locks/read", false, (*exchange).listLocks},
	"GET microsoft.authorization/permissions": {"Microsoft.Authorization/permissions/read", false, (*exchange).listPermissions},

	"GET microsoft.network/networkinterfaces/*": {typeNIC + "/read", false, getOf(typeNIC)},

	"GET microsoft.insights/eventtypes/*/values": {"Microsoft.Insights/eventtypes/values/read", false, (*exchange).listActivity},

	"POST microsoft.resourcegraph/resources": {"Microsoft.ResourceGraph/resources/read", false, (*exchange).queryGraph},
}

var apiVersion = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}(-preview)?$`)

func (s *Sim) routeARM(x *exchange) {
	if strings.HasPrefix(strings.ToLower(x.path), "/subscriptions") && !strings.Contains(strings.ToLower(x.path), "/providers/") {
		s.routeSubscription(x)
		return
	}
	p, err := parseARM(x.path)
	if err != nil {
		x.fail(http.StatusNotFound, "InvalidResourcePath", err.Error())
		return
	}
	rt, ok := armRoutes[x.r.Method+" "+p.pattern()]
	if ok {
		// Known before the caller is: a refused write is a write in the log.
		x.action, x.write = rt.action, rt.write
	}
	if !s.authenticateARM(x) {
		return
	}
	if !ok {
		x.fail(http.StatusNotFound, "NoSuchRoute", fmt.Sprintf("the simulator has no %s %s", x.r.Method, p.pattern()))
		return
	}
	if v := x.query("api-version"); !apiVersion.MatchString(v) {
		x.fail(http.StatusBadRequest, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests; it was '"+v+"'.")
		return
	}
	switch {
	case strings.EqualFold(p.ns, "Microsoft.Authorization"):
		x.scope = p.scope
	case strings.EqualFold(p.ns, "Microsoft.ResourceGraph"):
		x.free = true // everybody may ask; rows are filtered by what the caller may read
	case strings.HasSuffix(p.pattern(), "/operations/*"):
		x.free, x.scope = s.begunBy(x.principal, p.name()), p.groupScope()
	default:
		x.scope = p.id()
	}
	x.exec = func() {
		if !s.scopeExists(x, p) {
			return
		}
		rt.h(x, p)
	}
}

func (s *Sim) authenticateARM(x *exchange) bool {
	p, why := x.bearer(armAudiences...)
	if p == nil {
		x.header.Set("WWW-Authenticate", `Bearer authorization_uri="https://login.microsoftonline.com/`+s.opt.Tenant+`", error="invalid_token"`)
		x.fail(http.StatusUnauthorized, "InvalidAuthenticationToken", "The access token is invalid: "+why+".")
		return false
	}
	x.principal = p
	return true
}

// routeSubscription answers GET /subscriptions and GET /subscriptions/{id}.
func (s *Sim) routeSubscription(x *exchange) {
	if !s.authenticateARM(x) {
		return
	}
	if x.r.Method != http.MethodGet {
		x.fail(http.StatusNotFound, "NoSuchRoute", "the simulator has no "+x.r.Method+" on subscriptions")
		return
	}
	sub := func(id string) doc {
		return doc{"id": "/subscriptions/" + id, "subscriptionId": id, "tenantId": s.opt.Tenant, "displayName": "simulated", "state": "Enabled"}
	}
	segs := strings.Split(strings.Trim(x.path, "/"), "/")
	switch len(segs) {
	case 1:
		x.exec = func() { x.reply(http.StatusOK, doc{"value": []any{sub(s.opt.Subscription)}}) }
	case 2:
		x.action, x.scope = "Microsoft.Resources/subscriptions/read", "/subscriptions/"+segs[1]
		x.exec = func() {
			if s.knowsSubscription(segs[1]) {
				x.reply(http.StatusOK, sub(segs[1]))
				return
			}
			x.noSubscription(segs[1])
		}
	default:
		x.fail(http.StatusNotFound, "NoSuchRoute", "the simulator has no "+x.path)
	}
}

func (s *Sim) knowsSubscription(id string) bool {
	if same(id, s.opt.Subscription) {
		return true
	}
	for g := range s.groups {
		if strings.HasPrefix(g, "/subscriptions/"+strings.ToLower(id)+"/") {
			return true
		}
	}
	return false
}

func (x *exchange) noSubscription(id string) {
	x.fail(http.StatusNotFound, "SubscriptionNotFound", "The subscription '"+id+"' could not be found.")
}

// scopeExists answers 404 for an unknown subscription or resource group.
func (s *Sim) scopeExists(x *exchange, p armPath) bool {
	if p.sub != "" && !s.knowsSubscription(p.sub) {
		x.noSubscription(p.sub)
		return false
	}
	if p.rg != "" && x.r.Method != http.MethodPut {
		if _, ok := s.groups[fold("/subscriptions/"+p.sub+"/resourceGroups/"+p.rg)]; !ok {
			x.fail(http.StatusNotFound, "ResourceGroupNotFound", "Resource group '"+p.rg+"' could not be found.")
			return false
		}
	}
	return true
}

func (x *exchange) notFound(p armPath) {
	types := p.ns
	names := make([]string, 0, len(p.pairs))
	for _, t := range p.pairs {
		types += "/" + t[0]
		names = append(names, t[1])
	}
	x.fail(http.StatusNotFound, "ResourceNotFound", fmt.Sprintf(
		"The Resource '%s/%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
		types, strings.Join(names, "/"), p.rg))
}

// find gets the path's resource or answers 404.
func (x *exchange) find(p armPath, typ string) *resource {
	r := x.s.get(p.id(), typ)
	if r == nil {
		x.notFound(p)
	}
	return r
}

// getOf answers a resource's body as it is kept.
func getOf(typ string) func(*exchange, armPath) {
	return func(x *exchange, p armPath) {
		if r := x.find(p, typ); r != nil {
			x.reply(http.StatusOK, x.shown(r))
		}
	}
}

// listOf answers all of a type in the path's group or subscription, in pages.
func listOf(typ string) func(*exchange, armPath) {
	return func(x *exchange, p armPath) {
		var out []any
		for _, r := range x.s.all(typ, p.groupScope()) {
			out = append(out, x.shown(r))
		}
		x.page(out)
	}
}

// shown is the body as the asked api-version shows it.
func (x *exchange) shown(r *resource) doc {
	b := copyOf(r.body)
	switch v := x.query("api-version"); r.typ {
	case typeVM, typeVMSSVM:
		x.s.showVM(r, b)
		if v < "2025-11-01" && strings.EqualFold(str(b, "properties", "securityProfile", "securityType"), "Standard") {
			drop(b, "properties", "securityProfile", "securityType")
		}
	case typeDisk:
		if v < "2026-03-02" {
			drop(b, "properties", "securityProfile", "confidentialVMVersion")
		}
	}
	return b
}
