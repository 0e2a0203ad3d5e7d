package doctor_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/holdwall/outbox-relay/internal/doctor"
)

// seeded is one misconfiguration: what is done to a set-up that was well, and
// everything that the doctor then says, as "status group code".
type seeded struct {
	name   string
	opts   []kfake.Opt
	before func(t *testing.T, w *world) // before init
	after  func(t *testing.T, w *world)
	want   []string
}

// set changes a setting of the server for the time of the test.
func set(name, value string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		w.db.Exec(t, fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, value), "SELECT pg_reload_conf()")
		t.Cleanup(func() {
			execute(t, w.pg.URL(""), "ALTER SYSTEM RESET "+name, "SELECT pg_reload_conf()")
			await(t, w, fmt.Sprintf("SELECT current_setting('%s') <> '%s'", name, value))
		})
		await(t, w, fmt.Sprintf("SELECT setting = '%s' OR current_setting('%s') = '%s' FROM pg_settings WHERE name = '%s'", value, name, value, name))
	}
}

// execute runs statements outside of the test's own life.
func execute(t *testing.T, url string, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// await asks, on a connection of its own each time, until the answer is true.
func await(t *testing.T, w *world, sql string) {
	t.Helper()
	for tick := time.Tick(10 * time.Millisecond); ; <-tick {
		ctx := context.WithoutCancel(t.Context()) // also at the end of a test
		conn, err := pgx.Connect(ctx, w.db.URL())
		if err != nil {
			t.Fatal(err)
		}
		var is bool
		err = conn.QueryRow(ctx, sql).Scan(&is)
		conn.Close(ctx)
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if is {
			return
		}
	}
}

// sql runs statements as the superuser.
func sql(statements ...string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) { w.db.Exec(t, statements...) }
}

// env changes settings of the relay.
func env(pairs ...string) func(*testing.T, *world) {
	return func(_ *testing.T, w *world) {
		for i := 0; i < len(pairs); i += 2 {
			w.env[pairs[i]] = pairs[i+1]
		}
	}
}

// onRole runs a statement about the relay's role.
func onRole(format string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) { w.db.Exec(t, fmt.Sprintf(format, w.role)) }
}

// onSlot is the same for its slot.
func onSlot(format string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) { w.db.Exec(t, fmt.Sprintf(format, w.env["OUTBOX_SLOT"])) }
}

func all(steps ...func(*testing.T, *world)) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		for _, s := range steps {
			s(t, w)
		}
	}
}

// writeWAL makes the server write about a megabyte for each, into no table.
func writeWAL(megabytes int) func(*testing.T, *world) {
	return sql(fmt.Sprintf("SELECT pg_logical_emit_message(true, 'filler', repeat('x', 1048576)) FROM generate_series(1, %d)", megabytes))
}

func settingsSeeds() []seeded {
	return []seeded{
		{name: "misspelt setting", after: env("KAFKA_EVENT_TOPIC", "orders"), want: []string{"warn config OBX-1301"}},
		{name: "setting that cannot be", after: env("OUTBOX_BATCH_SIZE", "0"), want: []string{"fail config OBX-1001"}},
		{name: "auto init", after: env("OUTBOX_AUTO_INIT", "true"), want: []string{"warn config OBX-1302"}},
		{name: "Kafka is switched off", after: env("KAFKA_ENABLED", "false"), want: []string{"warn config OBX-1303"}},
		{name: "transactions shorter than requests", after: env("KAFKA_TRANSACTION_TIMEOUT", "4s"), want: []string{"warn config OBX-1304"}},
	}
}

func postgresSeeds() []seeded {
	return []seeded{
		{name: "role without REPLICATION", after: onRole("ALTER ROLE %s NOREPLICATION"), want: []string{"fail postgres OBX-3011"}},
		{name: "role may have two connections", after: onRole("ALTER ROLE %s CONNECTION LIMIT 2"), want: []string{"warn postgres OBX-3200"}},
		{name: "wal_sender_timeout 0", after: onRole("ALTER ROLE %s SET wal_sender_timeout = 0"), want: []string{"warn postgres OBX-3201"}},
		{name: "wal_sender_timeout 2 s", after: onRole("ALTER ROLE %s SET wal_sender_timeout = '2s'"), want: []string{"warn postgres OBX-3201"}},
		{name: "wal_sender_timeout 1 h", after: onRole("ALTER ROLE %s SET wal_sender_timeout = '1h'"), want: []string{"warn postgres OBX-3201"}},
		{name: "WAL without limit", after: set("max_slot_wal_keep_size", "-1"), want: []string{"warn postgres OBX-3202"}},
		{name: "WAL limit is small", after: set("max_slot_wal_keep_size", "256MB"), want: []string{"warn postgres OBX-3203"}},
		{name: "decoding spills", after: onRole("ALTER ROLE %s SET logical_decoding_work_mem = '64kB'"), want: []string{"warn postgres OBX-3205"}},
		{name: "sessions are ended", after: onRole("ALTER ROLE %s SET idle_session_timeout = '10min'"), want: []string{"warn postgres OBX-3206"}},
		{name: "fsync is off", after: set("fsync", "off"), want: []string{"warn postgres OBX-3207"}},
		{name: "transaction stays open", after: func(t *testing.T, w *world) {
			tx, err := w.db.Connect(t).Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
			if _, err := tx.Exec(t.Context(), "SELECT pg_current_xact_id()"); err != nil {
				t.Fatal(err)
			}
			w.db.Exec(t, "GRANT pg_read_all_stats TO "+w.role)
			w.limits.LongTransaction = 0
		}, want: []string{"warn postgres OBX-3209"}},
		{name: "transaction stays prepared", after: func(t *testing.T, w *world) {
			w.db.Exec(t, "CREATE TABLE other (i int)", "BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION 'forgotten'")
			t.Cleanup(func() { execute(t, w.db.URL(), "ROLLBACK PREPARED 'forgotten'") })
			w.limits.LongTransaction = 0
		}, want: []string{"warn postgres OBX-3210"}},
		{name: "no such database", after: func(t *testing.T, w *world) {
			w.env["DATABASE_URL"] = as(t, w.pg.URL("nowhere"), w.role)
		}, want: []string{"fail postgres OBX-3025"}},
		{name: "role may not log in", after: onRole("ALTER ROLE %s NOLOGIN"), want: []string{"fail postgres OBX-3002"}},
		{name: "nothing listens", after: env("DATABASE_URL", "postgres://relay@127.0.0.1:1/shop"), want: []string{"fail postgres OBX-3001"}},
	}
}

func slotSeeds() []seeded {
	drop := onSlot("SELECT pg_drop_replication_slot('%s')")
	return []seeded{
		{name: "never initialised", want: []string{"fail slot OBX-4001", "fail publication OBX-3020", "fail publication OBX-3022", "fail kafka OBX-5005", "fail kafka OBX-5005", "warn kafka OBX-5005", "fail kafka OBX-5005"}},
		{name: "slot dropped", after: drop, want: []string{"fail slot OBX-4001"}},
		{name: "slot of another plugin", after: all(drop, onSlot("SELECT pg_create_logical_replication_slot('%s', 'test_decoding')")), want: []string{"fail slot OBX-3104"}},
		{name: "slot made anew", after: all(writeWAL(1), drop, onSlot("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')")), want: []string{"fail slot OBX-4008"}},
		{name: "checkpoint of another relay", after: env("OUTBOX_NAME", "payments", "KAFKA_CHECKPOINT_TOPIC", "outbox.outbox.checkpoint"), want: []string{"fail slot OBX-4002"}},
		{name: "topic of checkpoints is another", after: env("KAFKA_CHECKPOINT_TOPIC", "elsewhere"), want: []string{"fail slot OBX-4002", "fail kafka OBX-5005"}},
		{name: "slot is held by a stranger", after: func(t *testing.T, w *world) {
			c, err := pgconn.ParseConfig(w.db.URL())
			if err != nil {
				t.Fatal(err)
			}
			c.RuntimeParams["replication"], c.RuntimeParams["application_name"] = "database", "debezium"
			conn, err := pgconn.ConnectConfig(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close(context.Background()) })
			conn.Frontend().SendQuery(&pgproto3.Query{String: "START_REPLICATION SLOT " + w.env["OUTBOX_SLOT"] + " LOGICAL 0/0 (proto_version '1', publication_names 'outbox_pub')"})
			if err := conn.Frontend().Flush(); err != nil {
				t.Fatal(err)
			}
			await(t, w, "SELECT bool_or(active) FROM pg_replication_slots WHERE slot_name = '"+w.env["OUTBOX_SLOT"]+"'")
		}, want: []string{"fail slot OBX-3217"}},
		{name: "slot keeps WAL for nobody", after: func(t *testing.T, w *world) {
			writeWAL(2)(t, w)
			w.limits.IdleRetained = 1 << 20
		}, want: []string{"warn slot OBX-4206"}},
		{name: "slot held back by a transaction", after: func(t *testing.T, w *world) {
			tx, err := w.db.Connect(t).Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), "SELECT pg_logical_emit_message(true, 'first', 'word')"); err != nil {
				t.Fatal(err)
			}
			writeWAL(2)(t, w)
			w.db.Exec(t, "CHECKPOINT")
			t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
			w.limits.HeldBack = 1 << 20
			onSlot("SELECT pg_replication_slot_advance('%s', pg_current_wal_lsn())")(t, w)
		}, want: []string{"warn slot OBX-4207", "fail slot OBX-4008"}},
		{name: "stray slot", after: func(t *testing.T, w *world) {
			w.db.Exec(t, fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')", w.db.Slot("stray")))
			writeWAL(2)(t, w)
			w.limits.StrayRetained = 1 << 20
		}, want: []string{"warn slot OBX-3221"}},
	}
}

func publicationSeeds() []seeded {
	recreate := func(definition string) func(*testing.T, *world) {
		return sql("DROP PUBLICATION outbox_pub", "CREATE PUBLICATION outbox_pub "+definition)
	}
	return []seeded{
		{name: "no table", after: sql("DROP TABLE outbox.events"), want: []string{"fail publication OBX-3020"}},
		{
			name: "a view", after: sql("ALTER TABLE outbox.events RENAME TO records", "CREATE VIEW outbox.events AS SELECT * FROM outbox.records"),
			want: []string{"fail publication OBX-3230", "warn publication OBX-3235"},
		},
		{name: "unlogged table", after: sql("DROP TABLE outbox.events", outboxDDL("UNLOGGED TABLE", "id")), want: []string{"fail publication OBX-3230", "fail publication OBX-3023"}},
		{name: "column renamed", after: sql("ALTER TABLE outbox.events RENAME aggregateid TO aggregate_id"), want: []string{"fail publication OBX-3021"}},
		{name: "type that cannot be read", after: sql("ALTER TABLE outbox.events DROP COLUMN headers", "ALTER TABLE outbox.events ADD headers int"), want: []string{"fail publication OBX-3021"}},
		{
			name: "generated column", after: sql("ALTER TABLE outbox.events DROP COLUMN message_key", "ALTER TABLE outbox.events ADD message_key text GENERATED ALWAYS AS (aggregateid) STORED"),
			want: []string{"fail publication OBX-3237"},
		},
		{name: "id is not unique", after: sql("ALTER TABLE outbox.events DROP CONSTRAINT events_pkey"), want: []string{"warn publication OBX-3231"}},
		{name: "no publication", after: sql("DROP PUBLICATION outbox_pub"), want: []string{"fail publication OBX-3022"}},
		{
			name: "table is not in it", after: sql("CREATE TABLE other (i int)", "ALTER PUBLICATION outbox_pub SET TABLE other"),
			want: []string{"fail publication OBX-3023", "warn publication OBX-3235"},
		},
		{name: "inserts are not published", after: sql("ALTER PUBLICATION outbox_pub SET (publish = 'update')"), want: []string{"fail publication OBX-3023", "warn publication OBX-3234"}},
		{name: "deletes are published", after: sql("ALTER PUBLICATION outbox_pub SET (publish = 'insert, delete')"), want: []string{"warn publication OBX-3234"}},
		{name: "row filter", after: sql("ALTER PUBLICATION outbox_pub SET TABLE outbox.events WHERE (type <> 'x')"), want: []string{"fail publication OBX-3023"}},
		{name: "column list", after: sql("ALTER PUBLICATION outbox_pub SET TABLE outbox.events (id, aggregatetype, aggregateid, type)"), want: []string{"fail publication OBX-3236"}},
		{name: "all tables", after: recreate("FOR ALL TABLES WITH (publish = 'insert', publish_via_partition_root = true)"), want: []string{"warn publication OBX-3235"}},
		{name: "another table too", after: sql("CREATE TABLE other (i int)", "ALTER PUBLICATION outbox_pub ADD TABLE other"), want: []string{"warn publication OBX-3235"}},
		{name: "deletes of a table without identity", after: sql("ALTER TABLE outbox.events DROP CONSTRAINT events_pkey", "ALTER TABLE outbox.events ADD UNIQUE (id)",
			"CREATE PUBLICATION everything FOR TABLE outbox.events"), want: []string{"fail publication OBX-3233"}},
		{name: "partitions under their own names", before: partitioned, after: recreate("FOR TABLE outbox.events WITH (publish = 'insert')"), want: []string{"fail publication OBX-3023"}},
		{
			name: "rows in the default partition", before: partitioned, after: sql("INSERT INTO outbox.events (id, aggregatetype, aggregateid, type, payload) VALUES (gen_random_uuid(), 'a', 'b', 'c', '{}')"),
			want: []string{"warn publication OBX-3232"},
		},
	}
}

// partitioned makes an outbox table of partitions, of which only the default
// one exists.
func partitioned(t *testing.T, w *world) {
	w.db.Exec(t, "CREATE SCHEMA outbox", outboxDDL("TABLE", "id, created_at")+" PARTITION BY RANGE (created_at)", "CREATE TABLE outbox.events_default PARTITION OF outbox.events DEFAULT")
}

func outboxDDL(kind, key string) string {
	return "CREATE " + kind + ` outbox.events (id uuid NOT NULL, aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb,
	  created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (` + key + "))"
}

func kafkaSeeds() []seeded {
	topic := func(name, key, value string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { w.configure(t, name, key, value) }
	}
	return []seeded{
		{name: "one broker of three", after: func(_ *testing.T, w *world) { w.env["KAFKA_BROKERS"] = w.cluster.ListenAddrs()[0] }, want: []string{"warn kafka OBX-5116"}},
		{name: "nobody listens at a broker", after: func(_ *testing.T, w *world) {
			w.env["KAFKA_BROKERS"] += ",127.0.0.1:1"
		}, want: []string{"fail kafka OBX-5022"}},
		{name: "name of a broker does not resolve", after: func(_ *testing.T, w *world) {
			w.env["KAFKA_BROKERS"] += ",nowhere.invalid:9092"
		}, want: []string{"fail kafka OBX-5020"}},
		{name: "no Kafka", after: env("KAFKA_BROKERS", "127.0.0.1:1,127.0.0.1:2"), want: []string{"fail kafka OBX-5022", "fail kafka OBX-5022"}},
		{name: "checkpoints are deleted by age", after: topic("outbox.outbox.checkpoint", "cleanup.policy", "delete"), want: []string{"fail kafka OBX-5006"}},
		{name: "events are compacted", after: topic("outbox.events", "cleanup.policy", "compact"), want: []string{"warn kafka OBX-5103"}},
		{name: "letters expire", after: topic("outbox.events.dlq", "retention.ms", "604800000"), want: []string{"warn kafka OBX-5103"}},
		{name: "letters are smaller than events", after: topic("outbox.events.dlq", "max.message.bytes", "1000"), want: []string{"warn kafka OBX-5103"}},
		{name: "state of letters is deleted by age", after: topic("outbox.events.dlq.state", "cleanup.policy", "delete"), want: []string{"fail kafka OBX-5103"}},
		{name: "one replica is enough", after: topic("outbox.events", "min.insync.replicas", "1"), want: []string{"warn kafka OBX-5101"}},
		{name: "more replicas are asked for than there are", after: topic("outbox.events", "min.insync.replicas", "4"), want: []string{"fail kafka OBX-5101"}},
		{name: "old records are refused", after: topic("outbox.events", "message.timestamp.before.max.ms", "3600000"), want: []string{"warn kafka OBX-5114"}},
		{name: "events larger than rows", after: all(topic("outbox.events", "max.message.bytes", "4194304"), env("OUTBOX_MAX_ROW_BYTES", "2MiB")), want: []string{"warn kafka OBX-5112"}},
		{name: "topic of events is missing", after: env("KAFKA_EVENTS_TOPIC", "orders", "KAFKA_DLQ_TOPIC", "outbox.events.dlq"), want: []string{"fail kafka OBX-5005"}},
		{name: "old release", opts: []kfake.Opt{kfake.MaxVersions(kversion.V3_7_0())}, want: []string{"warn kafka OBX-5104", "warn kafka OBX-5104", "warn kafka OBX-5104"}},
		{name: "transactions longer than allowed", opts: []kfake.Opt{kfake.BrokerConfigs(map[string]string{"transaction.max.timeout.ms": "30000", "min.insync.replicas": "2"})}, want: []string{"fail kafka OBX-5008"}},
	}
}

func rightsSeeds() []seeded {
	return []seeded{
		{name: "relay is a superuser", after: onRole("ALTER ROLE %s SUPERUSER"), want: []string{"warn rights OBX-3300"}},
		{name: "everybody may insert", after: sql("GRANT INSERT ON outbox.events TO PUBLIC"), want: []string{"warn rights OBX-3301"}},
		{name: "role may not connect", after: func(t *testing.T, w *world) { w.db.Exec(t, "REVOKE CONNECT ON DATABASE "+w.db.Name+" FROM PUBLIC") }, want: []string{"fail postgres OBX-3012"}},
	}
}

func hostSeeds() []seeded {
	return []seeded{
		{name: "HEALTH_ADDR is taken", after: func(t *testing.T, w *world) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			w.env["HEALTH_ADDR"] = l.Addr().String()
		}, want: []string{"warn host OBX-1312"}},
		{name: "password for everybody", after: func(t *testing.T, w *world) {
			path := filepath.Join(t.TempDir(), "url")
			if err := os.WriteFile(path, []byte(w.env["DATABASE_URL"]), 0o644); err != nil {
				t.Fatal(err)
			}
			w.secrets = map[string]string{"DATABASE_URL_FILE": path}
		}, want: []string{"warn host OBX-1313"}},
		{name: "little memory", after: func(t *testing.T, w *world) {
			w.root = t.TempDir()
			if err := os.MkdirAll(filepath.Join(w.root, "sys/fs/cgroup"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(w.root, "sys/fs/cgroup/memory.max"), []byte("134217728\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, want: []string{"warn host OBX-1311"}},
		{
			name: "authority has ended", after: func(t *testing.T, w *world) { w.env["KAFKA_TLS_CA_FILE"] = certificate(t, time.Now().Add(-time.Hour)) },
			want: []string{"warn config OBX-1301", "fail host OBX-1314"},
		},
		{
			name: "authority ends soon", after: func(t *testing.T, w *world) {
				w.env["KAFKA_TLS_CA_FILE"] = certificate(t, time.Now().Add(48*time.Hour))
			},
			want: []string{"warn config OBX-1301", "warn host OBX-1314"},
		},
	}
}

// certificate is a file with one that ends then.
func certificate(t *testing.T, end time.Time) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: end.Add(-24 * time.Hour), NotAfter: end, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Each misconfiguration is found by its own code, and nothing else is said.
func TestSeeded(t *testing.T) {
	pg := server(t, nil)
	for _, seeds := range [][]seeded{settingsSeeds(), postgresSeeds(), slotSeeds(), publicationSeeds(), kafkaSeeds(), rightsSeeds(), hostSeeds()} {
		for _, s := range seeds {
			t.Run(s.name, func(t *testing.T) {
				w := newWorld(t, pg, s.opts...)
				if s.before != nil {
					s.before(t, w)
				}
				if s.name != "never initialised" {
					w.init(t)
				}
				if s.after != nil {
					s.after(t, w)
				}
				r := w.examine(t)
				if diff := cmp.Diff(s.want, troubles(r)); diff != "" {
					t.Errorf("(-want +got):\n%s\n%s", diff, text(r))
				}
			})
		}
	}
}

// Nothing is said about a set-up that is well.
func TestHealthy(t *testing.T) {
	w := newWorld(t, server(t, nil))
	w.init(t)
	r := w.examine(t)
	if got := troubles(r); len(got) > 0 || r.Count(doctor.Fail) > 0 {
		t.Errorf("%v\n%s", got, text(r))
	}
	t.Logf("took %s\n%s", r.Took, text(r))
}
