// Package linux is the real platform behind package guest: the TPM through
// /dev/tpmrm0, the metadata service over HTTP, and the facts of a Linux system
// from its files.
//
// It reads; the only thing that it writes is the paravisor's user data index. It
// needs root for the event log, the disks' headers and the ESP; what it may not
// read is named in the claims and left out. It sends no key: of a disk header
// only names, numbers and a digest leave this package.
package linux
