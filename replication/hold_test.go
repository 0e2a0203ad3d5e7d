package replication_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/test/harness"
)

// TestStandby: a second source waits, says for whom, and takes over when the
// holder goes.
func TestStandby(t *testing.T) {
	t.Parallel()
	s := newSite(t, harness.Postgres(t))
	s.events(t, "a")
	first := run(t, s.cfg)
	first.Resume(replication.Resume{})
	tx := first.want("a")

	holders := make(chan replication.Holder, 10)
	cfg := s.cfg
	cfg.OnStandby = func(h replication.Holder) { holders <- h }
	type result struct {
		src *replication.Source
		err error
	}
	opened := make(chan result, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() {
		src, err := replication.Open(ctx, cfg, zerolog.Nop(), nil)
		opened <- result{src, err}
	}()
	var h replication.Holder
	select {
	case h = <-holders:
	case r := <-opened:
		t.Fatalf("opened beside the holder: %v", r.err)
	case <-time.After(20 * time.Second):
		t.Fatal("told nobody who holds the slot")
	}
	if want := s.slot(t).ActivePID; h.PID != want || !strings.Contains(h.Application, s.cfg.Slot) || !h.Address.IsValid() || h.Since.IsZero() {
		t.Errorf("held by %+v, the slot says %d", h, want)
	}
	select {
	case r := <-opened:
		t.Fatalf("opened beside the holder: %v", r.err)
	default:
	}
	first.Confirm(tx.EndLSN)
	first.end()
	r := <-opened
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer r.src.Close()
	if r.src.State().Freed.IsZero() {
		t.Error("does not say when the slot got free")
	}
	// What the holder confirmed with its last word is what the next one finds.
	if got := r.src.State().Slot.ConfirmedLSN; got != tx.EndLSN {
		t.Errorf("taken over at %s, the holder confirmed %s", got, tx.EndLSN)
	}
	if n := len(holders); n != 0 {
		t.Errorf("told %d more times of a holder that did not change", n)
	}
}

// TestStandbyGivesUp: a standby that is stopped leaves nothing behind.
func TestStandbyGivesUp(t *testing.T) {
	t.Parallel()
	s := newSite(t, harness.Postgres(t))
	run(t, s.cfg)
	ctx, cancel := context.WithCancelCause(t.Context())
	cfg := s.cfg
	cfg.OnStandby = func(replication.Holder) { cancel(errStopped) }
	if _, err := replication.Open(ctx, cfg, zerolog.Nop(), nil); !errors.Is(err, errStopped) {
		t.Errorf("got %v", err)
	}
}

// TestTicksWhileNobodyReads: with a consumer that stands still and a server
// that would give up after a second, the connection stays; so it does before
// Resume.
func TestTicksWhileNobodyReads(t *testing.T) {
	t.Parallel()
	for _, resumed := range []bool{true, false} {
		t.Run(fmt.Sprintf("resumed=%t", resumed), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, harness.Postgres(t))
			s.Exec(t, `ALTER DATABASE `+s.Name+` SET wal_sender_timeout = '1s'`)
			s.cfg.QueueBytes = 1
			src := run(t, s.cfg)
			if resumed {
				src.Resume(replication.Resume{})
			}
			// More than the sockets hold, so that the walsender blocks.
			s.Exec(t, `INSERT INTO outbox.events SELECT i, decode(repeat('ab', 500000), 'hex') FROM generate_series(1, 40) i`)
			pid := s.slot(t).ActivePID
			conn := s.Connect(t)
			seen := map[time.Time]bool{}
			for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				var at time.Time
				err := conn.QueryRow(t.Context(), `SELECT reply_time FROM pg_stat_replication WHERE pid = $1 AND state = 'streaming'`, pid).Scan(&at)
				if err != nil {
					t.Fatalf("walsender %d: %v", pid, err)
				}
				seen[at] = true
			}
			if len(seen) < 8 {
				t.Errorf("%d status updates in 4 s, at a wal_sender_timeout of 1 s", len(seen))
			}
			if !resumed {
				src.Resume(replication.Resume{})
			}
			if tx := src.next(); tx.Rows[0].Ord != 1 {
				t.Errorf("the first row is %d", tx.Rows[0].Ord)
			}
		})
	}
}

// TestMidRun: what happens to the server while the stream runs.
func TestMidRun(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		cfg  func(*replication.Config)
		do   func(t *testing.T, s *site)
		want *fault.Code
	}{
		{"publication dropped", nil, func(t *testing.T, s *site) {
			s.Exec(t, `DROP PUBLICATION "outbox pub"`)
			s.events(t, "lost")
		}, fault.PublicationHole},
		{"publication dropped and made again", nil, func(t *testing.T, s *site) {
			s.Exec(t, `DROP PUBLICATION "outbox pub"`)
			s.events(t, "lost")
			s.Exec(t, s.cfg.CreatePublicationSQL())
		}, fault.PublicationHole},
		{"walsender terminated", nil, func(t *testing.T, s *site) {
			s.Exec(t, fmt.Sprintf(`SELECT pg_terminate_backend(%d)`, s.slot(t).ActivePID))
		}, fault.PostgresStopping},
		{"row too large", func(c *replication.Config) { c.MaxRowBytes = 64 << 10 }, func(t *testing.T, s *site) {
			s.Exec(t, `INSERT INTO outbox.events VALUES ('big', decode(repeat('ab', 40000), 'hex'))`)
		}, fault.RowUnreadable},
		{"monitor terminated", nil, func(t *testing.T, s *site) {
			s.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '% monitor'`)
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, harness.Postgres(t))
			if c.cfg != nil {
				c.cfg(&s.cfg)
			}
			src := run(t, s.cfg)
			src.Resume(replication.Resume{})
			s.events(t, "a")
			src.want("a")
			c.do(t, s)
			if c.want == nil {
				s.events(t, "b")
				src.want("b")
				return
			}
			if err := src.wait(); !fault.Has(err, c.want) {
				t.Errorf("got %v, want %s", err, c.want.Name)
			}
			// Whatever ended the stream, nothing was confirmed and the slot is free.
			eventually(t, "the slot is free", func() bool { return !s.slot(t).Active })
		})
	}
}

// TestSlotLost: WAL that the slot needs is removed. The slot goes on showing
// its position, and must be refused all the same.
func TestSlotLost(t *testing.T) {
	t.Parallel()
	pg := harness.NewPostgres(t, harness.PostgresConfig{
		InitArgs: []string{"--wal-segsize=1"},
		Settings: map[string]string{"max_slot_wal_keep_size": "1MB", "min_wal_size": "2MB", "max_wal_size": "4MB"},
	})
	s := newSite(t, pg)
	s.Exec(t, `CREATE TABLE noise (t text)`)
	eventually(t, "the slot is lost", func() bool {
		s.Exec(t, `INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 2000)`, `CHECKPOINT`)
		return s.slot(t).WALStatus == "lost"
	})
	_, err := open(t, s.cfg)
	if !fault.Has(err, fault.SlotLost) {
		t.Errorf("got %v", err)
	}
}

// TestPromotion: after a failover the history of timelines says where the old
// one ended, and the slot goes on on the new one.
func TestPromotion(t *testing.T) {
	t.Parallel()
	pg := harness.NewPostgres(t, harness.PostgresConfig{})
	s := newSite(t, pg)
	s.events(t, "a")
	var data string
	if err := s.Connect(t).QueryRow(t.Context(), `SHOW data_directory`).Scan(&data); err != nil {
		t.Fatal(err)
	}
	if err := pg.Stop(t.Context(), harness.Fast); err != nil {
		t.Fatal(err)
	}
	// A standby without a primary: it replays what it has, until promoted.
	if err := os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(data, "standby.signal"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, s.cfg); !fault.Has(err, fault.PostgresStandby) {
		t.Errorf("before the promotion: %v", err)
	}
	s.Exec(t, `SELECT pg_promote()`)
	s.events(t, "b")

	src := run(t, s.cfg)
	st := src.State()
	if st.Timeline != 2 || len(st.Switches) != 1 || st.Switches[0].Timeline != 1 {
		t.Fatalf("timeline %d, switches %+v", st.Timeline, st.Switches)
	}
	src.Resume(replication.Resume{})
	a := src.want("a")
	b := src.want("b")
	if at := st.Switches[0].At; a.EndLSN > at || b.CommitLSN < at {
		t.Errorf("switched at %s; the old transaction ended at %s, the new one commits at %s", at, a.EndLSN, b.CommitLSN)
	}
}
