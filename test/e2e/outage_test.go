package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// trickle writes a transaction of a few rows every few milliseconds, through
// any number of lost connections, until the function returned is called.
func trickle(t testing.TB, r *rig.Rig) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		var conn *pgx.Conn
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
			if conn == nil || conn.IsClosed() {
				conn, _ = pgx.Connect(ctx, r.Database.URL())
			}
			if conn != nil {
				_, _ = conn.Exec(ctx, `INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
				    SELECT 'order', 'k' || i, 'Created', '{}' FROM generate_series(1, $1) i`, 1+n%5)
			}
		}
		if conn != nil {
			_ = conn.Close(context.Background())
		}
	})
	var once sync.Once
	end = func() { once.Do(func() { cancel(); wg.Wait() }) }
	t.Cleanup(end)
	return end
}

// stopFast is `pg_ctl stop -m fast`, which has to end in time.
func stopFast(t testing.TB, pg *harness.PostgresServer, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	began := time.Now()
	if err := pg.Stop(ctx, harness.Fast); err != nil {
		t.Errorf("stop -m fast did not end within %s: %v", limit, err)
		if err := pg.Stop(within(t, 10*time.Second), harness.Immediate); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("stop -m fast took %s", time.Since(began).Round(time.Millisecond))
}

// Postgres dies and recovers under load, twice: the relay is there again by
// itself, and no row is missing or doubled.
func TestPostgresCrashes(t *testing.T) {
	rig.Real(t)
	ctx := within(t, 40*time.Second)
	pg := harness.NewPostgres(t, harness.PostgresConfig{})
	r := rig.New(t, rig.Config{Postgres: pg})
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	end := trickle(t, r)
	for range 2 {
		r.AwaitCaughtUp(ctx, t)
		n := len(relay.Logs())
		if err := pg.RestartImmediate(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := relay.WaitLogAfter(ctx, n, rig.Message("streaming")); err != nil {
			t.Fatalf("not streaming again: %v", err)
		}
	}
	r.AwaitCaughtUp(ctx, t)
	end()
	r.AwaitCaughtUp(ctx, t)
	everyRowOnce(ctx, t, r, r.Events)
	stop(ctx, t, relay)
}

// A server that is told to stop can stop at once, under load: it gets its last
// position confirmed. It is found again when it is back.
func TestPostgresStopsFast(t *testing.T) {
	rig.Real(t)
	ctx := within(t, 40*time.Second)
	pg := harness.NewPostgres(t, harness.PostgresConfig{})
	r := rig.New(t, rig.Config{Postgres: pg})
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	end := trickle(t, r)
	r.AwaitCaughtUp(ctx, t)
	n := len(relay.Logs())
	stopFast(t, pg, 3*time.Second)
	waits(ctx, t, relay, n, "OBX-3001") // nobody listens there now
	n = len(relay.Logs())
	if err := pg.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := relay.WaitLogAfter(ctx, n, rig.Message("streaming")); err != nil {
		t.Fatal(err)
	}
	end()
	r.AwaitCaughtUp(ctx, t)
	everyRowOnce(ctx, t, r, r.Events)
	stop(ctx, t, relay)
}

// A relay that is there before its Postgres waits for it.
func TestPostgresAbsentAtStart(t *testing.T) {
	rig.Real(t)
	ctx := within(t, 40*time.Second)
	pg := harness.NewPostgres(t, harness.PostgresConfig{})
	r := rig.New(t, rig.Config{Postgres: pg, Partitions: 1})
	plant(t, r)
	r.Init(t)
	r.Insert(t, 3)
	stopFast(t, pg, 10*time.Second)
	refuses(t, r, "OBX-3001", 3, "init")
	relay := r.Serve(t, nil)
	waits(ctx, t, relay, 0, "OBX-3001")
	harmless(t, answers(ctx, t, relay), relay.Stdout(), relay.Stderr())
	if err := pg.Start(ctx); err != nil {
		t.Fatal(err)
	}
	rig.AwaitStreaming(t, relay)
	r.AwaitCaughtUp(ctx, t)
	everyRowOnce(ctx, t, r, r.Events)
	stop(ctx, t, relay)
}

// Kafka goes away in each of the ways there are, and Postgres is told to stop
// meanwhile, with rows that nobody could deliver: it stops. When both are back
// every row arrives once.
func TestPostgresStopsFastWhileKafkaIsDown(t *testing.T) {
	rig.Real(t)
	pg := harness.NewPostgres(t, harness.PostgresConfig{})
	kafka := harness.NewKafka(t, harness.KafkaConfig{})
	for _, tc := range []struct {
		name     string
		atStart  bool // Kafka is away before the relay comes
		away     func() error
		comeBack func(context.Context) error
	}{
		{"killed", false, kafka.Kill, kafka.Start},
		{"frozen", false, kafka.Pause, func(context.Context) error { return kafka.Resume() }},
		{"absent at start", true, kafka.Kill, kafka.Start},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := within(t, 40*time.Second)
			r := rig.New(t, rig.Config{Postgres: pg, Kafka: kafka})
			r.Init(t)
			if tc.atStart {
				if err := tc.away(); err != nil {
					t.Fatal(err)
				}
			}
			relay := r.Serve(t, nil)
			if tc.atStart {
				waits(ctx, t, relay, 0, "OBX-5022")
			} else {
				rig.AwaitStreaming(t, relay)
				r.Insert(t, 100)
				r.AwaitCaughtUp(ctx, t)
				if err := tc.away(); err != nil {
					t.Fatal(err)
				}
			}
			for range 5 {
				r.Insert(t, 200)
			}
			stopFast(t, pg, 10*time.Second)
			n := len(relay.Logs())
			if err := pg.Start(ctx); err != nil {
				t.Fatal(err)
			}
			if err := tc.comeBack(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := relay.WaitLogAfter(ctx, n, rig.Message("streaming")); err != nil {
				t.Fatal(err)
			}
			r.AwaitCaughtUp(ctx, t)
			everyRowOnce(ctx, t, r, r.Events)
			stop(ctx, t, relay)
		})
	}
}

// Kafka is not there when the relay starts, and is lost later: the relay keeps
// its slot and goes on answering Postgres, which would end the connection after
// two seconds of silence.
func TestKafkaAbsentAndLost(t *testing.T) {
	rig.Real(t)
	ctx := within(t, 60*time.Second) // two starts of Kafka among it
	const patience = 2 * time.Second
	pg := harness.NewPostgres(t, harness.PostgresConfig{Settings: map[string]string{"wal_sender_timeout": fmt.Sprint(patience.Milliseconds())}})
	kafka := harness.NewKafka(t, harness.KafkaConfig{})
	r := rig.New(t, rig.Config{Postgres: pg, Kafka: kafka})
	r.Init(t)
	if err := kafka.Kill(); err != nil {
		t.Fatal(err)
	}
	relay := r.Serve(t, nil)
	waits(ctx, t, relay, 0, "OBX-5022")
	r.Insert(t, 100)
	staysConnected(ctx, t, r, patience)
	if err := kafka.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := relay.WaitLog(ctx, rig.Message("streaming")); err != nil {
		t.Fatal(err)
	}
	r.AwaitCaughtUp(ctx, t)

	if err := kafka.Kill(); err != nil {
		t.Fatal(err)
	}
	r.Insert(t, 100)
	staysConnected(ctx, t, r, patience)
	if err := kafka.Start(ctx); err != nil {
		t.Fatal(err)
	}
	r.AwaitCaughtUp(ctx, t)
	everyRowOnce(ctx, t, r, r.Events)
	if status, body := rig.Ready(ctx, relay); status != 200 {
		t.Errorf("/readyz answers %d %v", status, body)
	}
	stop(ctx, t, relay)
}

// staysConnected fails if the rig's slot changes hands while the server's
// patience runs out twice, or if the last word of the relay is older than it.
func staysConnected(ctx context.Context, t testing.TB, r *rig.Rig, patience time.Duration) {
	t.Helper()
	pid := holder(ctx, t, r)
	if pid == 0 {
		t.Fatal("nobody holds the slot")
	}
	end := time.After(5 * patience / 2)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if now := holder(ctx, t, r); now != pid {
				t.Fatalf("the slot was held by PID %d and is by %d", pid, now)
			}
		case <-end:
			var silent float64
			if err := r.Conn(t).QueryRow(ctx, `SELECT extract(epoch FROM now() - reply_time) FROM pg_stat_replication WHERE pid = $1`, pid).Scan(&silent); err != nil {
				t.Fatal(err)
			}
			if silent > patience.Seconds() {
				t.Errorf("the last reply is %.1f s old", silent)
			}
			return
		case <-ctx.Done():
			t.Fatal(context.Cause(ctx))
		}
	}
}
