package ha

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// A slot that a connector has read goes on with the relay, under load: what the
// connector confirmed is not sent again, and all that follows is sent once.
func TestTakeOverFromDebezium(t *testing.T) {
	r := rig.New(t, rig.Config{})
	r.Slot, r.Publication = r.Database.Slot("debezium"), "dbz_publication"
	r.Env["OUTBOX_SLOT"], r.Env["OUTBOX_PUBLICATION"] = r.Slot, r.Publication
	schema, err := outbox.Schema(outbox.DefaultTable)
	if err != nil {
		t.Fatal(err)
	}
	r.Database.Exec(t, append(schema, `CREATE PUBLICATION dbz_publication FOR ALL TABLES`, `SELECT pg_create_logical_replication_slot('`+r.Slot+`', 'pgoutput')`)...)
	judge := r.Judge(t)
	stop := r.Load(t, load.Config{Seed: 31, Pause: 10 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	connector := startConnector(ctx, t, r)

	plan := func() map[string]any {
		out := r.Command(t, "init", "--take-over", r.Slot, "--dry-run", "-o", "json")
		var m map[string]any
		if err := json.Unmarshal([]byte(out.Stdout), &m); err != nil || out.ExitCode != 0 {
			t.Fatalf("plan: exit %d, %v\n%s%s", out.ExitCode, err, out.Stdout, out.Stderr)
		}
		return m
	}
	if m := plan(); !strings.Contains(m["holder"].(string), "Debezium Streaming") {
		t.Errorf("the plan does not see the connector: %v", m)
	}
	connector.stop(60)
	m := plan()
	if m["holder"] != "" || m["pending_rows"].(float64) == 0 {
		t.Errorf("plan %v", m)
	}
	if out := r.Command(t, "init", "--take-over", r.Slot); out.ExitCode != 6 || !strings.Contains(out.Stderr, "OBX-4401") {
		t.Errorf("without a position: exit %d\n%s", out.ExitCode, out.Stderr)
	}
	if out := r.Command(t, "serve", "--exit-on-halt"); out.ExitCode != 6 {
		t.Errorf("serve before the take-over: exit %d\n%s", out.ExitCode, out.Stderr)
	}
	out := r.Command(t, strings.Fields(m["command"].(string))[1:]...)
	if out.ExitCode != 0 {
		t.Fatalf("take over: exit %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	start(t, r, nil, nil)
	time.Sleep(time.Second) // under load
	totals := stop()
	r.AwaitCaughtUp(ctx, t)
	t.Logf("load: %s", totals)
	first := r.Peek(ctx, t).Last
	report := judge.Verdict(t, verify.P1, verify.P2, verify.P3, verify.P4, verify.P8, verify.P9, verify.P10)
	t.Logf("taken over at %s, now at %s: %d rows before", m["lsn"], first.Pos, report.Counts.Before)
	if report.Counts.Before == 0 {
		t.Error("nothing was the connector's")
	}
}

// connector reads a slot as Debezium does: it confirms in arrears.
type connector struct {
	t    *testing.T
	conn *pgconn.PgConn
	ends []pglogrepl.LSN // of transactions
	ask  chan int
	done chan error
}

func startConnector(ctx context.Context, t *testing.T, r *rig.Rig) *connector {
	t.Helper()
	conf, err := pgconn.ParseConfig(r.Database.URL())
	if err != nil {
		t.Fatal(err)
	}
	conf.RuntimeParams["replication"], conf.RuntimeParams["application_name"] = "database", "Debezium Streaming"
	c := &connector{t: t, ask: make(chan int, 1), done: make(chan error, 1)}
	if c.conn, err = pgconn.ConnectConfig(ctx, conf); err != nil {
		t.Fatal(err)
	}
	err = pglogrepl.StartReplication(ctx, c.conn, r.Slot, 0, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication, PluginArgs: []string{"proto_version '1'", "publication_names '" + r.Publication + "'"},
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { c.done <- c.run(ctx) }()
	return c
}

// stop has it read that many transactions in all, confirm half of them, and go.
func (c *connector) stop(transactions int) {
	c.t.Helper()
	c.ask <- transactions
	if err := <-c.done; err != nil {
		c.t.Fatalf("connector: %v", err)
	}
}

func (c *connector) run(ctx context.Context) error {
	defer c.conn.Close(context.WithoutCancel(ctx))
	enough := 0
	for {
		select {
		case enough = <-c.ask:
		default:
		}
		if enough > 0 && len(c.ends) >= enough {
			at := c.ends[len(c.ends)/2]
			return pglogrepl.SendStandbyStatusUpdate(ctx, c.conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: at, WALFlushPosition: at, WALApplyPosition: at})
		}
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		msg, err := c.conn.ReceiveMessage(short)
		cancel()
		if err != nil {
			if ctx.Err() == nil && (pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded)) {
				continue
			}
			return err
		}
		data, ok := msg.(*pgproto3.CopyData)
		if !ok || len(data.Data) == 0 || data.Data[0] != pglogrepl.XLogDataByteID {
			continue
		}
		x, err := pglogrepl.ParseXLogData(data.Data[1:])
		if err != nil {
			return err
		}
		if m, err := pglogrepl.Parse(x.WALData); err == nil {
			if commit, ok := m.(*pglogrepl.CommitMessage); ok {
				c.ends = append(c.ends, commit.TransactionEndLSN)
			}
		}
	}
}
