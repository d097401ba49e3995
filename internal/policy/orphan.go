package policy

import "cvmguard/internal/cvm"

// ruleOrphan names the finding on a disk that no VM holds. It is no rule of the
// table: such a disk is part of no VM's verdict.
const ruleOrphan = "orphan-disk"

// JudgeOrphan judges a confidential OS disk that no VM holds (row 28): it is only
// reported, and a person may delete it. It answers nothing for any other disk.
func JudgeOrphan(d cvm.Disk) []Finding {
	if !d.Orphaned() {
		return nil
	}
	f := note("orphan-disk", "The disk is a confidential OS disk and no VM holds it; delete it if nobody needs it, for its key must be kept as long as it is there.", "disk "+string(d.ID))
	f.Rule, f.Class, f.Doc = ruleOrphan, NeedsPerson, docDisks
	return one(f)
}
