//go:build !release

package main

// devCommands are the commands of the local world, in builds without the tag
// release alone.
type devCommands struct{}
