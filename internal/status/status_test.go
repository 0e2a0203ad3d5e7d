package status_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/slots"
	"github.com/holdwall/outbox-relay/internal/status"
	"github.com/holdwall/outbox-relay/replication"
)

var update = flag.Bool("update", false, "record golden files")

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func process(state string) status.Answer[status.Process] {
	p := &status.Process{
		Addr: "127.0.0.1:8080", Version: "v1.4.0", Relay: "orders", Role: "leader", State: state, Since: "2026-03-01T09:00:00.000Z",
		Breaker: "closed", Guarantee: "full",
	}
	p.Rates.Rows = 1200
	lag := 0.2
	p.Lag.Seconds = &lag
	return status.Answer[status.Process]{Value: p, Asked: true}
}

func postgres(confirmed pglogrepl.LSN, verdict string) status.Answer[status.Postgres] {
	limit := int64(10 << 30)
	v := &slots.View{
		Slot: slots.Slot{
			Name: "outbox_relay", WALStatus: "reserved", ConfirmedLSN: confirmed.String(), CurrentLSN: "0/3000000",
			RetainedBytes: 3 << 30, LagBytes: 12 << 10,
		},
		LimitBytes: &limit, Rate: 2 << 20, Outlook: slots.Outlook{Verdict: verdict, Text: "nobody reads it.", Next: "outbox-relay serve"},
	}
	if verdict == slots.Moves {
		v.Active, v.Holder = true, "PID 4242 outbox-relay outbox_relay stream from 10.20.30.40"
	}
	return status.Answer[status.Postgres]{Asked: true, Value: &status.Postgres{
		Server: "db-1.internal:5432/shop", Version: "17.5", Slot: v, Identity: replication.Identity{SystemID: "1", Timeline: 1, Database: "shop"},
		Position: replication.Slot{Name: "outbox_relay", ConfirmedLSN: confirmed, CurrentLSN: 0x3000000, Active: v.Active},
	}}
}

func kafka(end pglogrepl.LSN) status.Answer[status.Kafka] {
	c := &checkpoint.Checkpoint{
		Seq: 12345, Pos: checkpoint.Position{Timeline: 1, EndLSN: end}, Source: checkpoint.Source{SystemID: "1", Slot: "outbox_relay"}, RowsTotal: 1234567, Time: noon.Add(-2 * time.Second),
	}
	return status.Answer[status.Kafka]{Asked: true, Value: &status.Kafka{
		Last: c, Checkpoint: &status.Checkpoint{Seq: c.Seq, Position: c.Pos.String(), Time: c.Time, Rows: c.RowsTotal, DeadLetters: 3, ParkedKeys: 1},
	}}
}

func broken[T any](code *fault.Code, detail string) status.Answer[T] {
	return status.Answer[T]{Asked: true, Error: &status.Trouble{Code: code.ID, Name: code.Name, Detail: detail, Why: "because", Fix: "the fix of " + code.Name}}
}

// What each situation looks like is recorded: what is the matter, and what to
// type. No line is wider than the screen.
func TestPictures(t *testing.T) {
	t.Parallel()
	away := broken[status.Process](fault.RelaySilent, "127.0.0.1:8080: dial tcp 127.0.0.1:8080: connect: connection refused")
	noSlot := postgres(1, slots.Moves)
	noSlot.Value.Slot = nil
	noCheckpoint := status.Answer[status.Kafka]{Asked: true, Value: &status.Kafka{}}
	halted := process("halted")
	halted.Value.Trouble = &status.Trouble{Code: "OBX-4008", Name: "gap", Detail: "slot is at 0/2000000, checkpoint at 0/1000000", Why: "why", Fix: "outbox-relay serve --accept-gap 0/1000000:0/2000000"}
	other := kafka(0x2000000)
	other.Value.Last.Source.SystemID = "2"
	long := broken[status.Postgres](fault.PostgresUnreachable, "connect to db: "+strings.Repeat("x", 200)+" \x1b[31mred\r\n")
	pics := []struct {
		name string
		next string
		pic  status.Picture
	}{
		{"healthy", "none needed", status.Picture{Process: process("streaming"), Postgres: postgres(0x2000000, slots.Moves), Kafka: kafka(0x2000000)}},
		{"nothing was initialised", "outbox-relay init", status.Picture{Process: away, Postgres: noSlot, Kafka: noCheckpoint}},
		{"all three are down", "the fix of postgres_unreachable", status.Picture{Process: away, Postgres: long, Kafka: broken[status.Kafka](fault.KafkaUnreachable, "no broker")}},
		{"relay is down", "outbox-relay serve", status.Picture{Process: away, Postgres: postgres(0x2000000, slots.Stands), Kafka: kafka(0x2000000)}},
		{"halted", "outbox-relay serve --accept-gap 0/1000000:0/2000000", status.Picture{Process: halted, Postgres: postgres(0x2000000, slots.Stands), Kafka: kafka(0x1000000)}},
		{"gap, and no relay", "docs/errors.md#obx-4008; outbox-relay serve --accept-gap 0/1000000:0/2000000 accepts the loss of exactly that range", status.Picture{Process: away, Postgres: postgres(0x2000000, slots.Stands), Kafka: kafka(0x1000000)}},
		{"slot is gone", fault.SlotMissing.Fix, status.Picture{Process: away, Postgres: noSlot, Kafka: kafka(0x1000000)}},
		{"checkpoint is gone", fault.CheckpointMissing.Fix, status.Picture{Process: away, Postgres: postgres(0x2000000, slots.Stands), Kafka: noCheckpoint}},
		{"another server", fault.IdentityChanged.Fix, status.Picture{Process: away, Postgres: postgres(0x2000000, slots.Stands), Kafka: other}},
		{"slot is lost", fault.SlotLost.Fix, status.Picture{Process: away, Postgres: postgres(0x2000000, slots.Lost), Kafka: kafka(0x2000000)}},
		{"slot is gone, Kafka is away", "the fix of kafka_unreachable", status.Picture{Process: away, Postgres: noSlot, Kafka: broken[status.Kafka](fault.KafkaUnreachable, "no broker")}},
		{"answers are awaited", "wait for the answers", status.Picture{}},
	}
	// Those that show the registry's texts are not recorded: the registry has them.
	recorded := []string{"healthy", "halted", "relay is down", "all three are down"}
	var out strings.Builder
	for _, c := range pics {
		c.pic.Time, c.pic.Relay, c.pic.Slot = noon, "orders", "outbox_relay"
		c.pic.Judge()
		if c.pic.Next != c.next {
			t.Errorf("%s: next %q, want %q", c.name, c.pic.Next, c.next)
		}
		if slices.Contains(recorded, c.name) {
			fmt.Fprintf(&out, "== %s\n", c.name)
		}
		lines := c.pic.Lines()
		if len(lines) > 23 {
			t.Errorf("%s: %d lines do not fit a terminal", c.name, len(lines))
		}
		for _, line := range lines {
			line = status.Paint(line, false)
			if n := utf8.RuneCountInString(line); n > status.Width {
				t.Errorf("%s: %d columns: %s", c.name, n, line)
			}
			if strings.ContainsAny(line, "\x1b\r\n") {
				t.Errorf("%s: controls reach the terminal: %q", c.name, line)
			}
			if slices.Contains(recorded, c.name) {
				out.WriteString(strings.TrimRight(line, " ") + "\n")
			}
		}
		if slices.Contains(recorded, c.name) {
			out.WriteString(c.pic.Line() + "\n\n")
		}
	}
	path := filepath.Join("testdata", "pictures.golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The relay's own word that it is halted counts more than what follows from it.
func TestTroubleIsToldOnce(t *testing.T) {
	t.Parallel()
	p := status.Picture{Process: process("halted"), Postgres: postgres(0x2000000, slots.Stands), Kafka: kafka(0x1000000)}
	p.Process.Value.Trouble = &status.Trouble{Code: fault.Gap.ID, Fix: "x"}
	p.Judge()
	if len(p.Findings) != 1 || p.Findings[0].Fix != "x" {
		t.Errorf("%+v", p.Findings)
	}
}

func sources(rows func() uint64) status.Sources {
	return status.Sources{
		Process:  func(context.Context) (*status.Process, error) { return nil, fault.New(fault.RelaySilent, "gone") },
		Postgres: func(context.Context) (*status.Postgres, error) { return postgres(1, slots.Moves).Value, nil },
		Kafka: func(context.Context) (*status.Kafka, error) {
			k := kafka(1).Value
			k.Checkpoint.Rows = rows()
			return k, nil
		},
	}
}

// A source that does not answer holds up nobody, and the watch ends at once.
func TestWatch(t *testing.T) {
	t.Parallel()
	rows := uint64(100)
	src := sources(func() uint64 { rows += 10; return rows })
	src.Process = func(ctx context.Context) (*status.Process, error) { <-ctx.Done(); return nil, ctx.Err() }
	look := &status.Look{Relay: "orders", Slot: "outbox_relay", Sources: src, Every: time.Millisecond, KafkaEvery: time.Millisecond}
	var rate float64
	enough := errors.New("enough")
	err := look.Watch(t.Context(), func(p status.Picture) error {
		if p.Process.Asked {
			t.Error("the process has answered")
		}
		if p.RowsPerSecond == nil || p.Postgres.Value == nil {
			return nil
		}
		rate = *p.RowsPerSecond
		return enough
	})
	if !errors.Is(err, enough) || rate <= 0 {
		t.Errorf("%v, rate %f", err, rate)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := look.Watch(ctx, func(status.Picture) error { cancel(); return nil }); err != nil {
		t.Errorf("ended on request: %v", err)
	}
}

func TestScreen(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := &status.Screen{Out: &out, Colour: true, Size: func() (int, int) { return 80, 5 }}
	p := (&status.Look{Relay: "orders", Sources: sources(func() uint64 { return 1 })}).Once(t.Context())
	s.Open()
	if err := s.Show(p); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if got := out.String(); strings.Count(got, "\r\n") != 4 || !strings.HasPrefix(got, "\x1b[?1049h\x1b[?25l\x1b[H") || !strings.HasSuffix(got, "\x1b[J\x1b[?25h\x1b[?1049l") {
		t.Errorf("%q", got)
	}
}
