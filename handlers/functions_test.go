package handlers_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cvmguard/internal/customhandler"
	"cvmguard/internal/ledger"
)

type binding struct {
	Type, Name, Direction, AuthLevel, Route, QueueName, Connection, Schedule, Cardinality string
	Methods                                                                               []string
	UseMonitor, RunOnStartup                                                              bool
}

// TestFunctionsFolder compares the folders that the host reads with what is
// registered: names, triggers, routes, methods, who may call, and the names of
// bindings that the decoder looks for.
func TestFunctionsFolder(t *testing.T) {
	w := newWorld(t)
	files, err := filepath.Glob("../functions/*/function.json")
	if err != nil {
		t.Fatal(err)
	}
	folders := map[string]bool{}
	for _, f := range files {
		folders[filepath.Base(filepath.Dir(f))] = true
	}
	names := map[customhandler.Kind]string{customhandler.EventTrigger: "event", customhandler.QueueTrigger: "work", customhandler.TimerTrigger: "timer", customhandler.HTTPTrigger: "req"}
	queues := map[string]string{"reconcile": ledger.QueueReconcile, "poison": ledger.QueuePoison}
	for _, f := range w.mux.Functions() {
		if !folders[f.Name] {
			t.Errorf("%s has no folder", f.Name)
			continue
		}
		delete(folders, f.Name)
		text, err := os.ReadFile(filepath.Join("../functions", f.Name, "function.json"))
		if err != nil {
			t.Fatal(err)
		}
		var file struct{ Bindings []binding }
		if err := json.Unmarshal(text, &file); err != nil || len(file.Bindings) == 0 {
			t.Fatalf("%s: %v", f.Name, err)
		}
		in := file.Bindings[0]
		if in.Type != string(f.Kind) || in.Direction != "in" || in.Name != names[f.Kind] || in.Cardinality != "" {
			t.Errorf("%s: %+v, registered as %s", f.Name, in, f.Kind)
		}
		switch f.Kind {
		case customhandler.HTTPTrigger:
			var methods []string
			for _, m := range in.Methods {
				methods = append(methods, strings.ToUpper(m))
			}
			level := "function"
			if f.Anonymous {
				level = "anonymous"
			}
			if in.Route != f.Route || !slices.Equal(methods, f.Methods) || in.AuthLevel != level {
				t.Errorf("%s: %+v, registered %+v", f.Name, in, f)
			}
			if f.Anonymous != (f.Name == "evidence") {
				t.Errorf("%s: anonymous %v", f.Name, f.Anonymous)
			}
			if out := file.Bindings[1:]; len(out) != 1 || out[0].Type != "http" || out[0].Direction != "out" || out[0].Name != customhandler.OutputName {
				t.Errorf("%s: %+v", f.Name, out)
			}
			continue
		case customhandler.QueueTrigger:
			if in.QueueName != queues[f.Name] || in.Connection != "AzureWebJobsStorage" {
				t.Errorf("%s: %+v", f.Name, in)
			}
		case customhandler.TimerTrigger:
			if len(strings.Fields(in.Schedule)) != 6 || !in.UseMonitor || in.RunOnStartup {
				t.Errorf("%s: %+v", f.Name, in)
			}
		}
		if len(file.Bindings) != 1 {
			t.Errorf("%s has outputs: everything is written by the handler itself", f.Name)
		}
	}
	for name := range folders {
		t.Errorf("functions/%s isn't registered", name)
	}
}

// TestHostFile holds host.json to what the handlers and the mux of these tests
// assume.
func TestHostFile(t *testing.T) {
	text, err := os.ReadFile("../host.json")
	if err != nil {
		t.Fatal(err)
	}
	var h struct {
		CustomHandler struct {
			Description struct {
				DefaultExecutablePath string
				Arguments             []string
			}
		}
		Extensions struct {
			HTTP struct {
				RoutePrefix string
			}
			Queues struct {
				MessageEncoding string
				MaxDequeueCount int
			}
		}
	}
	if err := json.Unmarshal(text, &h); err != nil {
		t.Fatal(err)
	}
	d, q := h.CustomHandler.Description, h.Extensions.Queues
	if h.Extensions.HTTP.RoutePrefix != "api" || q.MessageEncoding != "base64" || q.MaxDequeueCount != 5 || d.DefaultExecutablePath != "cvmguard" || fmt.Sprint(d.Arguments) != "[serve]" {
		t.Errorf("%+v", h)
	}
}
