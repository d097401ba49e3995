package azuresim

// listDenyAssignments answers as a tenant without any: nobody but Azure itself
// makes them, for managed applications and deployment stacks.
func (x *exchange) listDenyAssignments(armPath) { x.page(nil) }
