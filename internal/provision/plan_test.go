package provision_test

import (
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/provision"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
)

// go test ./internal/provision -update writes the golden files.
var update = flag.Bool("update", false, "write the golden files")

// What a dry run prints is what people give to their administrators.
func TestStatements(t *testing.T) {
	p := provision.Plan{
		Source: replication.Config{Slot: "outbox_relay", Publication: "outbox_pub", Schema: "outbox", Table: "events"},
		Table:  outbox.Table{Schema: "outbox", Name: "events"},
	}
	for _, version := range []int{150000, 170000} {
		statements, err := p.Statements(version)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(statements, ";\n\n") + ";\n"
		file := filepath.Join("testdata", "plan-"+strconv.Itoa(version/10000)+".sql")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

func TestStatementsOfNoTable(t *testing.T) {
	p := provision.Plan{Table: outbox.Table{}}
	if _, err := p.Statements(150000); !fault.Has(err, fault.ConfigInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestTopicAsCommand(t *testing.T) {
	for want, topic := range map[string]provision.Topic{
		"kafka-topics.sh --create --topic a": {Name: "a", Partitions: -1},
		"kafka-topics.sh --create --topic ckpt --partitions 1 --config cleanup.policy=compact --config min.cleanable.dirty.ratio=0.1" +
			" --config segment.bytes=16777216 --config unclean.leader.election.enable=false": provision.CheckpointTopic("ckpt"),
	} {
		if got := topic.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
