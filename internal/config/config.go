package config

import (
	"log/slog"
	"time"
)

// Cloud is one of Azure's clouds.
type Cloud string

// The clouds.
const (
	Public Cloud = "public"
	USGov  Cloud = "usgov"
	China  Cloud = "china"
)

// Config is what the process was told. Only Load makes one that is checked.
type Config struct {
	Port    int     // on 127.0.0.1
	Storage Storage // zero where the caller does without

	Mode       string // "observe", "enforce", or "" for what the policy document says
	PolicyPath string // "" is the embedded policy
	ShadowPath string // "" is no shadow policy
	Cloud      Cloud
	ClientID   string // of the managed identity, "" for the system's own
	// ManagedIdentity is true where the platform offers an identity endpoint.
	ManagedIdentity bool

	// The times of a turn. TurnTimeout < Lease < NonceLife.
	Lease, TurnTimeout, Margin time.Duration
	SlowPace, NonceLife        time.Duration
	CacheTTL                   time.Duration // 0: no caching between turns
	TransitionWait             time.Duration // before looking again at a VM in transition
	MaxPoll                    time.Duration // the longest wait before an operation is polled again

	GuestTool   string // path of the guest's binary; may be absent unless it was set by hand
	PublicURL   string // scheme://host[:port] that people and guests reach the app by; "" where unknown
	LogLevel    slog.Level
	MaxParallel int // turns at a time in this process

	// Development settings, never in a deployment.
	DevAzure, DevCA, DevRoots string
	// Development is true when any of the three is set: every record then says so.
	Development bool
}

// Secret is text that prints as "(secret)" wherever it is printed.
type Secret string

// String hides the text.
func (s Secret) String() string { return s.hidden() }

// GoString hides the text from %#v.
func (s Secret) GoString() string { return s.hidden() }

// LogValue hides the text from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.hidden()) }

// MarshalText hides the text from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.hidden()), nil }

// Reveal is the text itself, for signing only.
func (s Secret) Reveal() string { return string(s) }

func (s Secret) hidden() string {
	if s == "" {
		return ""
	}
	return "(secret)"
}

// Storage is the account that everything is kept in. Key is set for a connection
// string; without it the three services are reached by managed identity.
type Storage struct {
	Account                     string // "" where only service URIs were given
	Key                         Secret // base64
	BlobURL, QueueURL, TableURL string // without a trailing slash
	ClientID                    string // of the identity for storage, "" for the process's own
}

// Set says whether any storage was configured.
func (s Storage) Set() bool { return s.BlobURL != "" }

// ByKey says whether requests are signed with the account's key.
func (s Storage) ByKey() bool { return s.Key != "" }
