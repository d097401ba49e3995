package devhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cvmguard/internal/customhandler"
)

// binding is one entry of function.json.
type binding struct {
	Type         string   `json:"type"`
	Name         string   `json:"name"`
	Direction    string   `json:"direction"`
	DataType     string   `json:"dataType"`
	Cardinality  string   `json:"cardinality"`
	QueueName    string   `json:"queueName"`
	Schedule     string   `json:"schedule"`
	UseMonitor   *bool    `json:"useMonitor"`
	RunOnStartup bool     `json:"runOnStartup"`
	AuthLevel    string   `json:"authLevel"`
	Methods      []string `json:"methods"`
	Route        string   `json:"route"`
}

type function struct {
	name     string
	trigger  binding
	outputs  []binding
	disabled bool
	route    customhandler.Route // HTTP
	schedule schedule            // timer
}

// httpOnly says that a host that forwards does so for this function: one
// httpTrigger in, one http out, nothing else.
func (f *function) httpOnly() bool {
	return f.trigger.Type == "httpTrigger" && len(f.outputs) == 1 && f.outputs[0].Type == "http"
}

// readFunctions reads the function folders directly below root and tells all
// faults at once.
func readFunctions(root string, env environment) (map[string]*function, error) {
	files, err := filepath.Glob(filepath.Join(root, "*", "function.json"))
	if err != nil {
		return nil, fmt.Errorf("looking for functions in %q: %w", root, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there is no function in %q: each is a folder with a function.json", root)
	}
	functions := map[string]*function{}
	var faults []error
	for _, file := range files {
		name := filepath.Base(filepath.Dir(file))
		f, err := readFunction(file, name, env)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s/function.json: %w", name, err))
			continue
		}
		functions[name] = f
	}
	return functions, errors.Join(faults...)
}

func readFunction(file, name string, env environment) (*function, error) {
	if !customhandler.IsFunctionName(name) || strings.EqualFold(name, "host") {
		return nil, fmt.Errorf("%q is not a name that the host accepts for a function", name)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Bindings []binding `json:"bindings"`
		Disabled any       `json:"disabled"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	f := &function{name: name}
	f.disabled = doc.Disabled == true || strings.EqualFold(env.get("AzureWebJobs."+name+".Disabled"), "true")
	triggers, seen := 0, map[string]bool{}
	for _, b := range doc.Bindings {
		if lower := strings.ToLower(b.Name); seen[lower] {
			return nil, fmt.Errorf("two bindings are named %q", b.Name)
		} else {
			seen[lower] = true
		}
		switch {
		case strings.HasSuffix(b.Type, "Trigger"):
			triggers++
			f.trigger = b
		case b.Direction == "out" && (b.Type == "http" || b.Type == "queue"):
			f.outputs = append(f.outputs, b)
		default:
			return nil, fmt.Errorf("binding %q of type %q, direction %q: this stand-in knows triggers and the outputs http and queue", b.Name, b.Type, b.Direction)
		}
	}
	if triggers != 1 {
		return nil, fmt.Errorf("it has %d triggers, must have one", triggers)
	}
	return f, f.settle(env)
}

// settle reads what belongs to the trigger's type.
func (f *function) settle(env environment) error {
	t := &f.trigger
	var err error
	switch t.Type {
	case "eventGridTrigger":
	case "queueTrigger":
		if t.QueueName = env.expand(t.QueueName); t.QueueName == "" {
			return errors.New("queueName is missing")
		}
	case "timerTrigger":
		t.Schedule = env.expand(t.Schedule)
		if f.schedule, err = parseSchedule(t.Schedule); err != nil {
			return fmt.Errorf("schedule %q: %w", t.Schedule, err)
		}
	case "httpTrigger":
		if t.Route == "" {
			t.Route = f.name
		}
		if f.route, err = customhandler.ParseRoute(t.Route); err != nil {
			return err
		}
		for i, m := range t.Methods {
			t.Methods[i] = strings.ToUpper(m)
		}
		if t.AuthLevel = strings.ToLower(t.AuthLevel); t.AuthLevel == "" {
			t.AuthLevel = "function"
		}
		if !slices.Contains([]string{"anonymous", "function", "admin"}, t.AuthLevel) {
			return fmt.Errorf("authLevel is %q, must be anonymous, function or admin", t.AuthLevel)
		}
	default:
		return fmt.Errorf("trigger %q isn't one that this stand-in has: eventGridTrigger, queueTrigger, timerTrigger, httpTrigger", t.Type)
	}
	return nil
}
