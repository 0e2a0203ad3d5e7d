// Package arch holds the import directions of the project: who may know whom.
package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/holdwall/outbox-relay"

// allowed lists what each room may import of ours. A room that is missing here
// fails the test, so a new one has to be given its place. "*" is everything.
var allowed = map[string][]string{
	"internal/fault":     {},
	"internal/crash":     {},
	"internal/mutant":    {},
	"internal/secret":    {},
	"internal/size":      {},
	"internal/migration": {},
	"internal/systemd":   {},
	"internal/cgroup":    {},
	"health":             {},
	"outbox":             {"internal/migration"},

	"replication":      {"internal/fault", "internal/crash", "internal/mutant"},
	"internal/kafka":   {"internal/fault", "internal/secret"},
	"internal/breaker": {"internal/fault"},
	"checkpoint":       {"internal/fault"},

	"sink": {"outbox", "checkpoint", "internal/kafka", "internal/fault", "internal/crash"},
	"dlq":  {"outbox", "internal/kafka", "internal/fault"},

	"internal/relay": {
		"replication", "outbox", "sink", "checkpoint", "dlq", "internal/breaker", "internal/fault", "internal/crash", "internal/mutant",
	},
	"internal/guard":     {"replication", "internal/fault", "internal/size"},
	"internal/provision": {"replication", "outbox", "sink", "checkpoint", "internal/kafka", "internal/fault"},
	"internal/slots":     {"replication", "checkpoint", "internal/fault", "internal/size"},
	"internal/status":    {"replication", "checkpoint", "internal/slots", "internal/fault", "internal/size"},
	"internal/cleanup":   {"replication", "outbox", "internal/fault"},
	"internal/recovery": {
		"replication", "outbox", "sink", "checkpoint", "dlq", "internal/audit", "internal/provision", "internal/relay", "internal/kafka", "internal/fault", "internal/crash",
	},
	"internal/explain":   {"outbox", "replication", "internal/kafka", "internal/fault"},
	"internal/gate":      {"outbox", "internal/fault"},
	"internal/preflight": {"internal/kafka", "internal/fault"},
	"internal/rights":    {"internal/config", "outbox", "sink", "dlq"},
	"internal/doctor": {
		"internal/config", "internal/fault", "internal/kafka", "internal/relay", "replication", "checkpoint", "sink", "outbox", "dlq", "internal/preflight",
	},
	"internal/audit":  {"outbox", "checkpoint", "sink", "dlq", "replication", "internal/kafka", "internal/fault"},
	"internal/verify": {"outbox", "checkpoint", "internal/kafka", "internal/fault", "replication"},
	"internal/demo":   {"outbox", "checkpoint", "internal/fault", "internal/kafka"},

	"consumer":           {"outbox", "dlq"},
	"consumer/oteltrace": {"consumer"},
	"internal/tracing":   {"internal/relay", "outbox", "internal/fault"},
	"internal/pipeline":  {"consumer", "outbox", "dlq", "internal/fault", "internal/secret"},

	"outbox/eventstore":           {"outbox", "internal/migration"},
	"outbox/eventstore/storetest": {"outbox", "outbox/eventstore"},

	"internal/live":  {"health", "internal/relay", "checkpoint", "dlq", "outbox"},
	"internal/admin": {"health", "internal/fault", "internal/secret"},
	"internal/page":  {"internal/fault"},

	"internal/config": {
		"internal/admin",
		"replication", "sink", "outbox", "health", "dlq", "internal/breaker", "internal/cleanup", "internal/kafka", "internal/relay", "internal/fault", "internal/secret",
	},
	"cmd/outbox-relay": {"*"},
}

// fences are libraries that must stay on their side.
var fences = map[string][]string{
	"replication": {"github.com/twmb/franz-go"},
	"outbox":      {"github.com/twmb/franz-go", "github.com/jackc/pglogrepl"},
	"checkpoint":  {"github.com/jackc/pgx/v5"},
	"sink":        {"github.com/jackc/pgx/v5"},
	"consumer":    {"go.opentelemetry.io"},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func TestImportDirections(t *testing.T) {
	for _, p := range list(t) {
		room := strings.TrimPrefix(p.ImportPath, module+"/")
		if strings.HasPrefix(room, "test/") {
			continue // tests may know everything
		}
		may, known := allowed[room]
		if !known {
			t.Errorf("%s has no place in the table of import directions", room)
			continue
		}
		for _, imported := range p.Imports {
			for _, f := range fences[room] {
				if strings.HasPrefix(imported, f) {
					t.Errorf("%s imports %s, which belongs to another room", room, imported)
				}
			}
			other, ours := strings.CutPrefix(imported, module+"/")
			if ours && !slices.Contains(may, other) && !slices.Contains(may, "*") {
				t.Errorf("%s imports %s", room, other)
			}
		}
	}
}

func list(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
