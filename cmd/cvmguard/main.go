// Command cvmguard is the one binary: `serve` is the custom handler that the
// Functions host starts; the rest is the command line for people.
//
// It promises exit status 0 for success (or compliant), 1 for not compliant or
// unknown, 2 when it could not run; results on stdout, everything else on stderr.
// The local world (`dev`) is in builds without the tag release alone.
package main

import (
	"os"
)

// version is set by the linker.
var version = "dev"

func main() {
	// serve is taken before the command line's parser is touched: the host waits
	// for the port.
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		os.Exit(serve(os.Getenv, os.Environ(), os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}
