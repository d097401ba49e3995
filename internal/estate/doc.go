// Package estate reads a captured estate: a folder of bodies as Azure Resource
// Manager and the key plane answer them, one to a file, to be judged where there
// is no Azure.
//
// A body is known by its "type", "id" or "kid", never by its file's name: VMs and
// instances of uniform scale sets, disks, disk encryption sets, Key Vaults, Managed
// HSMs, key bundles (deleted ones too), lists of key versions, what hangs on a disk
// encryption set, and Resource SKUs. A file may also hold a page of a listing
// ({"value": […]}) or an array of bodies. What is of no use is counted and passed
// over.
//
// It promises to fail closed. What isn't among the files isn't absent: it is
// "not-captured", which judges as unknown. So is an object whose file can't be used
// (no JSON, too large, not the service's own form) and one that two files show
// differently; each such file is named (Troubles). Of whom may do what with a key
// only access policies are taken, which are part of their vault's body: role
// assignments reach a key from scopes above and through groups, and no set of
// bodies shows that it holds them all.
//
// It makes no call, writes nothing, and looks into DIR once, in Open. After that an
// Estate doesn't change and is safe for concurrent use.
package estate
