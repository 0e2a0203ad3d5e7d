package load_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const publication = "outbox_pub"

// setUp makes table, publication, counter and oracle slot.
func setUp(t *testing.T, db *harness.Database) (*pgx.Conn, verify.OracleSource) {
	t.Helper()
	statements, err := outbox.Schema(outbox.DefaultTable)
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, append(statements, `CREATE PUBLICATION outbox_pub FOR TABLE outbox.events WITH (publish = 'insert')`)...)
	conn := db.Connect(t)
	if err := load.Prepare(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	src := verify.OracleSource{Slot: db.Slot("oracle"), Publication: publication}
	if err := verify.CreateOracle(t.Context(), conn, src.Slot); err != nil {
		t.Fatal(err)
	}
	return conn, src
}

var everyKind = load.Mix{Single: 20, Ten: 10, Large: 1, MultiKey: 8, Savepoint: 8, Rollback: 6, Prepared: 4, Killed: 2}

// TestHistory runs every kind and compares the generator's own count, the
// slot and the table.
func TestHistory(t *testing.T) {
	pg := harness.NewPostgres(t, harness.PostgresConfig{Settings: map[string]string{"max_prepared_transactions": "20"}})
	db := pg.NewDatabase(t)
	conn, src := setUp(t, db)
	totals, err := load.Run(t.Context(), load.Config{
		URL: db.URL(), Run: "history", Seed: 7, Transactions: 600, Mix: everyKind, LargeRows: 4000, PayloadBytes: 200,
		PoisonShare: 0.07, OversizeBytes: 16 << 10, Topics: []string{"audit"},
		Poisons: []load.Poison{load.IllegalTopic, load.DeniedTopic, load.ReservedHeader, load.PartitionRange, load.Oversize, load.Undecodable, load.Ancient},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(totals)
	for _, kind := range []string{"single", "ten", "large", "multi_key", "savepoint", "rollback", "prepared", "killed"} {
		if totals.Kinds[kind] == 0 {
			t.Errorf("no transaction of kind %s", kind)
		}
	}
	began := time.Now()
	oracle, err := verify.ReadOracle(t.Context(), conn, src)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("oracle of %d rows read in %v", len(oracle.Rows), time.Since(began).Round(time.Millisecond))
	again, err := verify.ReadOracle(t.Context(), conn, src)
	if err != nil || len(again.Rows) != len(oracle.Rows) {
		t.Errorf("the second reading has %d rows, the first %d: %v", len(again.Rows), len(oracle.Rows), err)
	}
	sound(t, oracle)
	if n := len(oracle.Rows); n < totals.Rows || n > totals.Rows+totals.UnknownRows {
		t.Errorf("slot holds %d rows; %d are known to be committed, %d unknown", n, totals.Rows, totals.UnknownRows)
	}
	if n := len(oracle.Txs); n < totals.Transactions || n > totals.Transactions+totals.Unknown {
		t.Errorf("slot holds %d transactions; %d are known to be committed, %d unknown", n, totals.Transactions, totals.Unknown)
	}
	poison, topics, reasons := 0, map[string]int{}, map[string]int{}
	for _, r := range oracle.Rows {
		if r.Poison {
			poison++
			reasons[r.Reason.String()]++
		}
		if !r.Marked || r.KeySeq == 0 {
			t.Fatalf("row %s has no mark", r.ID)
		}
		topics[r.Topic.String()]++
	}
	if poison < totals.Poison || poison == 0 {
		t.Errorf("slot holds %d poison rows, %d are known to be committed", poison, totals.Poison)
	}
	for _, p := range []load.Poison{
		load.IllegalTopic, load.DeniedTopic, load.ReservedHeader, load.PartitionRange, load.Oversize, load.Undecodable, load.Ancient,
	} {
		// A part of the load is unknown, and the share is by chance.
		if n, known := reasons[p.Reason()], totals.Poisons[p]; known == 0 || n < known || n*200 < len(oracle.Rows) {
			t.Errorf("%s: slot holds %d of %d rows, %d are known to be committed", p, n, len(oracle.Rows), known)
		}
	}
	if topics["audit"] == 0 || topics[""] == 0 {
		t.Errorf("topics asked for: %v", topics)
	}
	prepared := -1
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_prepared_xacts").Scan(&prepared); err != nil || prepared != 0 {
		t.Errorf("%d prepared transactions are left: %v", prepared, err)
	}
}

// sound: the key sequence has no hole in commit order, the table agrees.
func sound(t *testing.T, oracle verify.Oracle) {
	t.Helper()
	report := verify.Check(verify.Evidence{Oracle: oracle})
	if f := report.Of(verify.P0); f.Violations > 0 || f.Checked == 0 {
		t.Errorf("%+v", f)
	}
	if f := report.Of(verify.P1); f.Violations != len(oracle.Rows) {
		t.Errorf("%d of %d rows are missed while no topic was read", f.Violations, len(oracle.Rows))
	}
}

// TestTableDisagrees: a row that the slot has not seen is noticed, and so is
// one that has gone from the table.
func TestTableDisagrees(t *testing.T) {
	pg := harness.NewPostgres(t, harness.PostgresConfig{})
	db := pg.NewDatabase(t)
	conn, src := setUp(t, db)
	if _, err := load.Run(t.Context(), load.Config{URL: db.URL(), Run: "table", Transactions: 20, Mix: load.Mix{Single: 1}}); err != nil {
		t.Fatal(err)
	}
	db.Exec(t,
		`DELETE FROM outbox.events WHERE id = (SELECT id FROM outbox.events LIMIT 1)`,
		`ALTER PUBLICATION outbox_pub DROP TABLE outbox.events`,
		`INSERT INTO outbox.events (aggregatetype, aggregateid, type) VALUES ('a', '1', 't'), ('a', '2', 't')`,
		`ALTER PUBLICATION outbox_pub ADD TABLE outbox.events`)
	oracle, err := verify.ReadOracle(t.Context(), conn, src)
	if err != nil {
		t.Fatal(err)
	}
	if oracle.OnlyInSlot != 1 || oracle.OnlyInTable != 2 || len(oracle.Disagree) != 3 {
		t.Errorf("only in the slot %d, only in the table %d, named %v", oracle.OnlyInSlot, oracle.OnlyInTable, oracle.Disagree)
	}
	if report := verify.Check(verify.Evidence{Oracle: oracle}); report.Of(verify.P0).Violations == 0 || len(report.Findings) != 1 {
		t.Errorf("evidence that contradicts itself was judged by:\n%s", report.String())
	}
	src.Pruned = true
	if oracle, err = verify.ReadOracle(t.Context(), conn, src); err != nil || oracle.OnlyInSlot+oracle.OnlyInTable != 0 {
		t.Errorf("a pruned table was compared: %+v, %v", oracle.Disagree, err)
	}
}

// TestPostgresGoesAway crashes the server twice under load.
func TestPostgresGoesAway(t *testing.T) {
	pg := harness.NewPostgres(t, harness.PostgresConfig{Settings: map[string]string{"max_prepared_transactions": "20"}})
	db := pg.NewDatabase(t)
	_, src := setUp(t, db)
	g, err := load.New(load.Config{URL: db.URL(), Run: "crash", Seed: 3, Mix: everyKind, LargeRows: 1000})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	type result struct {
		totals load.Totals
		err    error
	}
	done := make(chan result, 1)
	go func() {
		totals, err := g.Run(ctx)
		done <- result{totals, err}
	}()
	for range 2 {
		await(t, g, g.Committed()+500)
		if err := pg.RestartImmediate(t.Context()); err != nil {
			t.Error(err)
			break
		}
	}
	await(t, g, g.Committed()+500)
	stop()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Log(r.totals)
	oracle, err := verify.ReadOracle(t.Context(), db.Connect(t), src)
	if err != nil {
		t.Fatal(err)
	}
	sound(t, oracle)
	if n := len(oracle.Rows); n < r.totals.Rows || n > r.totals.Rows+r.totals.UnknownRows {
		t.Errorf("slot holds %d rows; %d are known to be committed, %d unknown", n, r.totals.Rows, r.totals.UnknownRows)
	}
	if r.totals.Connections <= 4 {
		t.Errorf("%d connections, and the server went away twice", r.totals.Connections)
	}
}

func await(t *testing.T, g *load.Generator, rows int64) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for g.Committed() < rows {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d rows committed after 30 s, waiting for %d", g.Committed(), rows)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]load.Config{
		"no database": {},
		"share":       {URL: "postgres://h/d", PoisonShare: 2},
		"table":       {URL: "postgres://h/d", Table: "a.b.c"},
		"keys":        {URL: "postgres://h/d", Keys: 1},
	} {
		if _, err := load.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
