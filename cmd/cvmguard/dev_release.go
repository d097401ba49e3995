//go:build release

package main

// devCommands is empty in what is shipped: the local world isn't linked into it.
type devCommands struct{}
