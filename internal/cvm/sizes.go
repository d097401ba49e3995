package cvm

import (
	"regexp"
	"strings"
	"sync"
)

// sizeRow is one row of the size table. The name of a size is a hint; the
// authority is the Resource SKUs' capability ConfidentialComputingType.
type sizeRow struct {
	pattern string // on the lower-cased size without "standard_"
	tee     TEE
	local   Tri    // whether it has a local (temporary) disk
	not     string // why it is no CVM size although its name looks like one
}

var sizeTable = []sizeRow{
	{`(dc|ec)\d+(-\d+)?i?as_v[56]`, TEESNP, False, ""},
	{`(dc|ec)\d+(-\d+)?i?ads_v[56]`, TEESNP, True, ""},
	{`(dc|ec)\d+(-\d+)?i?es_v[56]`, TEETDX, False, ""},
	{`(dc|ec)\d+(-\d+)?i?eds_v[56]`, TEETDX, True, ""},
	{`ncc40ads_h100_v5`, TEESNP, True, ""},
	{`(dc|ec)\d+(-\d+)?i?as_cc_v5`, TEENone, False, "a parent of child CVMs"},
	{`(dc|ec)\d+(-\d+)?i?ads_cc_v5`, TEENone, True, "a parent of child CVMs"},
	{`dc\d+s(_v2)?`, TEENone, Unread, "SGX enclaves"},
	{`dc\d+s_v3`, TEENone, False, "SGX enclaves"},
	{`dc\d+ds_v3`, TEENone, True, "SGX enclaves"},
}

var compiledSizes = sync.OnceValue(func() []*regexp.Regexp {
	list := make([]*regexp.Regexp, len(sizeTable))
	for i, row := range sizeTable {
		list[i] = regexp.MustCompile("^(?:" + row.pattern + ")$")
	}
	return list
})

// sizeOf finds a size's row; ok is false for one that the table lacks.
func sizeOf(size string) (row sizeRow, ok bool) {
	name, _ := strings.CutPrefix(strings.ToLower(size), "standard_")
	for i, re := range compiledSizes() {
		if re.MatchString(name) {
			return sizeTable[i], true
		}
	}
	return sizeRow{}, false
}

// TEEOfSize is the TEE that a size's name stands for: unknown for no name and for
// one that begins like a confidential family's but isn't in the table, none for
// all others.
func TEEOfSize(size string) TEE {
	if row, ok := sizeOf(size); ok {
		return row.tee
	}
	name, found := strings.CutPrefix(strings.ToLower(size), "standard_")
	switch {
	case size == "", !found,
		strings.HasPrefix(name, "dc"), strings.HasPrefix(name, "ec"), strings.HasPrefix(name, "ncc"):
		return TEEUnknown
	}
	return TEENone
}

// TEEOf is the TEE that a VM stands on: what Resource SKUs say of its size where
// they were read, else what the size's name says.
func TEEOf(vm VM) TEE {
	if vm.SizeTEE != "" {
		return vm.SizeTEE
	}
	return TEEOfSize(vm.Size)
}

// TEEOfCapability is the TEE that a size's capability ConfidentialComputingType in
// the Resource SKUs names: none where there is no such capability, unknown for a
// value that isn't known.
func TEEOfCapability(value string) TEE {
	switch strings.ToLower(value) {
	case "":
		return TEENone
	case "snp", "sev-snp", "sevsnp":
		return TEESNP
	case "tdx":
		return TEETDX
	}
	return TEEUnknown
}

// ConfidentialSize says whether a size's name is that of a CVM size.
func ConfidentialSize(size string) bool {
	tee := TEEOfSize(size)
	return tee == TEESNP || tee == TEETDX
}

// NotACVMSize says why a size that looks like a CVM size isn't one (a parent of
// child CVMs, SGX enclaves); "" for all others.
func NotACVMSize(size string) string {
	row, _ := sizeOf(size)
	return row.not
}

// HasLocalDisk says whether a size has a local (temporary) disk; Unread for sizes
// that the table lacks.
func HasLocalDisk(size string) Tri {
	row, _ := sizeOf(size)
	return row.local
}
