//go:build release

package main

// devCommands are there in development builds alone.
type devCommands struct{}
