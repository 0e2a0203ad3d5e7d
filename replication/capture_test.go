package replication_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/test/harness"
)

// go test ./replication -run TestCaptures -update records the streams anew.
var record = flag.Bool("update", false, "record testdata anew, from a real Postgres")

// A capture is what pgoutput sent for a script, one message per line: its LSN
// and its bytes in hex. Beside it lies what the assembler makes of it.
type capture struct {
	name    string
	options []string // beside protocol and publication
	script  []string // statements; each is a transaction of its own or a block
}

const outboxTable = `CREATE SCHEMA outbox;
	CREATE TABLE outbox.events (id text PRIMARY KEY, aggregateid text NOT NULL, payload jsonb, payload_bytes bytea, n numeric, at timestamptz)`

func captures() []capture {
	return []capture{
		{"payloads", nil, []string{
			`INSERT INTO outbox.events VALUES ('json', 'a', '{"k": "ü€😀", "n": 1.50, "nested": [1, null]}', NULL, 1.50, '2026-03-01 12:00:00.123456+00')`,
			`INSERT INTO outbox.events VALUES ('nulls', '', NULL, NULL, NULL, NULL)`,
			`INSERT INTO outbox.events VALUES ('bytes', 'a', NULL, '\x00ff10', 'NaN', 'infinity'), ('empty bytes', 'a', '""', '', 0, '0001-01-01 00:00:00+00 BC')`,
			`INSERT INTO outbox.events VALUES (E'line\nbreak\ttab', 'quote '' "', '{}', '\x', -12345678901234567890.123456789, '1999-12-31 23:59:59+00')`,
		}},
		{"tables", nil, []string{
			`CREATE TABLE orders (id int PRIMARY KEY, total int); CREATE TABLE events (LIKE outbox.events INCLUDING ALL)`,
			`BEGIN; INSERT INTO orders VALUES (1, 10), (2, 20); INSERT INTO outbox.events (id, aggregateid) VALUES ('e1', 'o1');
			 INSERT INTO events (id, aggregateid) VALUES ('foreign', 'x'); UPDATE orders SET total = 11 WHERE id = 1;
			 INSERT INTO outbox.events (id, aggregateid) VALUES ('e2', 'o1'); DELETE FROM orders WHERE id = 2;
			 UPDATE outbox.events SET payload = '1' WHERE id = 'e1'; DELETE FROM outbox.events WHERE id = 'e2';
			 INSERT INTO outbox.events (id, aggregateid) VALUES ('e3', 'o1'); COMMIT`,
			`TRUNCATE orders, outbox.events`,
			`INSERT INTO orders VALUES (3, 30)`,
		}},
		{"altered", nil, []string{
			`BEGIN; INSERT INTO outbox.events (id, aggregateid) VALUES ('before', 'a');
			 ALTER TABLE outbox.events ADD COLUMN topic text DEFAULT 't';
			 INSERT INTO outbox.events (id, aggregateid) VALUES ('after', 'a');
			 ALTER TABLE outbox.events DROP COLUMN n; ALTER TABLE outbox.events RENAME COLUMN at TO created_at;
			 INSERT INTO outbox.events (id, aggregateid) VALUES ('last', 'a'); COMMIT`,
			`INSERT INTO outbox.events (id, aggregateid) VALUES ('next transaction', 'a')`,
		}},
		{"savepoints", nil, []string{
			`BEGIN; INSERT INTO outbox.events (id, aggregateid) VALUES ('kept 1', 'a'); SAVEPOINT s;
			 INSERT INTO outbox.events (id, aggregateid) VALUES ('rolled back', 'a'); ROLLBACK TO s;
			 INSERT INTO outbox.events (id, aggregateid) VALUES ('kept 2', 'a'); SAVEPOINT s;
			 INSERT INTO outbox.events (id, aggregateid) VALUES ('kept 3', 'a'); RELEASE s; COMMIT`,
			`BEGIN; INSERT INTO outbox.events (id, aggregateid) VALUES ('aborted', 'a'); ROLLBACK`,
			`INSERT INTO outbox.events (id, aggregateid) SELECT 'many ' || i, 'a' FROM generate_series(1, 5) i`,
		}},
		{"toast", nil, []string{
			`INSERT INTO outbox.events (id, aggregateid, payload_bytes)
			 SELECT 'big', 'a', string_agg(sha256(i::text::bytea), ''::bytea ORDER BY i) FROM generate_series(1, 320) i`,
			`UPDATE outbox.events SET aggregateid = 'b' WHERE id = 'big'`,
		}},
		{"others", []string{"messages", "true"}, []string{
			`CREATE TYPE outbox.mood AS ENUM ('glad', 'sad'); ALTER TABLE outbox.events ADD COLUMN mood outbox.mood`,
			`BEGIN; SELECT pg_logical_emit_message(true, 'p', 'inside'); INSERT INTO outbox.events (id, aggregateid, mood) VALUES ('e', 'a', 'sad'); COMMIT`,
			`SELECT pg_logical_emit_message(false, 'p', 'outside')`,
			`SELECT pg_replication_origin_create('upstream'); SELECT pg_replication_origin_session_setup('upstream');
			 BEGIN; SELECT pg_replication_origin_xact_setup('0/1234', '2026-03-01 12:00:00+00'); INSERT INTO outbox.events (id, aggregateid) VALUES ('from afar', 'a'); COMMIT;
			 SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_drop('upstream')`,
		}},
	}
}

type message struct {
	at   pglogrepl.LSN
	data []byte
}

// TestCaptures: what a real Postgres sent is decoded as pglogrepl decodes it,
// and assembled as it was when somebody last looked at it.
func TestCaptures(t *testing.T) {
	for _, c := range captures() {
		t.Run(c.name, func(t *testing.T) {
			if *record {
				c.record(t)
			}
			var out []*replication.Tx
			a := replication.NewAssembler("outbox", "events", replication.Resume{}, func(tx *replication.Tx) { out = append(out, tx) })
			for _, m := range readCapture(t, c.name) {
				var decoded replication.Message
				if err := replication.Decode(m.data, &decoded); err != nil {
					t.Fatalf("message at %s: %v", m.at, err)
				}
				agree(t, m.data, &decoded)
				if err := a.Message(m.at, m.data); err != nil {
					t.Fatal(err)
				}
			}
			golden(t, filepath.Join("testdata", c.name+".golden"), render(out))
		})
	}
}

// TestCapturesAreComplete: each kind of message that pgoutput has in version 1
// was seen from a real server, so that the decoder was shown it.
func TestCapturesAreComplete(t *testing.T) {
	t.Parallel()
	missing := map[byte]bool{}
	for _, kind := range []byte("BCORYIUDTM") {
		missing[kind] = true
	}
	for _, c := range captures() {
		for _, m := range readCapture(t, c.name) {
			delete(missing, m.data[0])
		}
	}
	for kind := range missing {
		t.Errorf("no capture has a message %c", kind)
	}
}

func render(txs []*replication.Tx) string {
	var b strings.Builder
	for _, tx := range txs {
		if tx.Idle {
			fmt.Fprintf(&b, "idle, end %s\n", tx.EndLSN)
			continue
		}
		fmt.Fprintf(&b, "%s, end %s, last %t\n", tx, tx.EndLSN, tx.Last)
		for i, r := range tx.Rows {
			fmt.Fprintf(&b, "  row %d, ordinal %d\n", r.Seq, r.Ord)
			for j, v := range r.Values {
				col, text := tx.Relation.Columns[j], "NULL"
				if v != nil {
					text = fmt.Sprintf("%q", v)
				}
				if len(text) > 120 {
					text = fmt.Sprintf("%s... (%d bytes)", text[:60], len(v))
				}
				if i == 0 {
					text += fmt.Sprintf("   (type %d, key %t)", col.TypeOID, col.Key)
				}
				fmt.Fprintf(&b, "    %s = %s\n", col.Name, text)
			}
		}
	}
	return b.String()
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *record {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s: -want +got\n%s", path, d)
	}
}

func readCapture(t testing.TB, name string) []message {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name+".stream"))
	if err != nil {
		t.Fatal(err)
	}
	var out []message
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, len(raw)+1)
	for lines.Scan() {
		at, data, ok := strings.Cut(lines.Text(), " ")
		if !ok {
			t.Fatalf("%s: line %q", name, lines.Text())
		}
		m := message{}
		if m.at, err = pglogrepl.ParseLSN(at); err != nil {
			t.Fatal(err)
		}
		if m.data, err = hex.DecodeString(data); err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	if len(out) == 0 {
		t.Fatalf("%s is empty", name)
	}
	return out
}

// record runs the script on a real server and writes what pgoutput makes of it.
func (c capture) record(t *testing.T) {
	t.Helper()
	db := harness.Postgres(t).NewDatabase(t)
	conn := db.Connect(t)
	exec := func(sql string) {
		t.Helper()
		// The simple protocol takes blocks of statements.
		if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	slot := db.Slot("capture")
	exec("SET TimeZone = 'UTC'; SET bytea_output = hex")
	exec(outboxTable)
	exec("CREATE PUBLICATION pub FOR ALL TABLES")
	exec("SELECT pg_create_logical_replication_slot('" + slot + "', 'pgoutput')")
	for _, sql := range c.script {
		exec(sql)
	}
	args := append([]any{slot, "proto_version", "1", "publication_names", "pub"}, toAny(c.options)...)
	marks := make([]string, len(args)-1)
	for i := range marks {
		marks[i] = fmt.Sprintf("$%d", i+2)
	}
	rows, err := conn.Query(t.Context(), "SELECT lsn::text, data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, "+strings.Join(marks, ", ")+")", args...)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	var at string
	var data []byte
	if _, err := pgx.ForEachRow(rows, []any{&at, &data}, func() error {
		fmt.Fprintf(&b, "%s %x\n", at, data)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", c.name+".stream"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func toAny(s []string) []any {
	out := make([]any, len(s))
	for i := range s {
		out[i] = s[i]
	}
	return out
}
