//go:build !release

// Command noop is the floor beside which cvmguard's figures stand: a custom
// handler that answers every call at once, in the form that the Functions host
// takes, and does nothing else.
package main

import (
	"fmt"
	"net/http"
	"os"
)

const answer = `{"Outputs":{},"Logs":[],"ReturnValue":null}`

func main() {
	err := http.ListenAndServe("127.0.0.1:"+os.Getenv("FUNCTIONS_CUSTOMHANDLER_PORT"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if _, err := w.Write([]byte(answer)); err != nil {
			fmt.Fprintln(os.Stderr, "answering:", err)
		}
	}))
	fmt.Fprintln(os.Stderr, "noop:", err)
	os.Exit(1)
}
