package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/holdwall/outbox-relay/internal/crash"
	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// lostSlot is a relay that was stopped and whose slot Postgres has given up,
// because so many rows were written meanwhile that it kept too much WAL for it.
func lostSlot(t *testing.T, bin string, batch, rows int) (*rig.Rig, *rig.Judge) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	pg := harness.NewPostgres(t, harness.PostgresConfig{Settings: map[string]string{"max_wal_size": "64MB", "min_wal_size": "32MB"}})
	r := rig.New(t, rig.Config{Postgres: pg, Bin: bin, Env: map[string]string{"OUTBOX_BATCH_SIZE": "50", "OUTBOX_BATCH_MAX": fmt.Sprint(batch)}})
	r.Init(t)
	judge := r.Judge(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Written(ctx, t, load.Config{Seed: seed(t), Transactions: 100, LargeRows: 200, PoisonShare: 0.01})
	r.AwaitCaughtUp(ctx, t)
	if err := relay.Term(); err != nil {
		t.Fatal(err)
	}
	if exit, err := relay.Wait(ctx); err != nil || exit != 0 {
		t.Fatalf("exit %d, %v", exit, err)
	}
	conn := r.Conn(t)
	var before, now int
	count := func(n *int) {
		if err := conn.QueryRow(ctx, `SELECT count(*) FROM outbox.events`).Scan(n); err != nil {
			t.Fatal(err)
		}
	}
	count(&before)
	for part := uint64(1); now < before+rows; part++ {
		r.Written(ctx, t, load.Config{Seed: seed(t) + part, Transactions: max(100, rows/20), LargeRows: 500, PoisonShare: 0.01})
		count(&now)
	}
	for range 4 {
		r.Database.Exec(t, `SELECT pg_switch_wal()`, `INSERT INTO outbox_load.counter VALUES ('wal', 0) ON CONFLICT (key) DO UPDATE SET n = 0`)
	}
	judge.Drain(t)
	r.Database.Exec(t, `ALTER SYSTEM SET max_slot_wal_keep_size = '32MB'`, `SELECT pg_reload_conf()`)
	var status string
	for deadline := time.Now().Add(20 * time.Second); status != "lost"; {
		r.Database.Exec(t, `CHECKPOINT`)
		if err := conn.QueryRow(ctx, `SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1`, r.Slot).Scan(&status); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("the slot is %s", status)
		}
	}
	r.Database.Exec(t, `ALTER SYSTEM RESET max_slot_wal_keep_size`, `SELECT pg_reload_conf()`)
	t.Logf("slot lost with %d rows undelivered", now-before)
	return r, judge
}

// recovered fails unless the recovery has ended and nothing is wrong, with rows
// still being written.
func recovered(t *testing.T, r *rig.Rig, judge *rig.Judge, stop func() load.Totals) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	out := r.Command(t, "recover", "--yes")
	if out.ExitCode != 0 {
		t.Fatalf("exit %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	t.Log("\n" + out.Stdout)
	if out := r.Command(t, "recover", "--yes"); out.ExitCode != 0 || !strings.Contains(out.Stdout, "nothing to recover") {
		t.Errorf("again: exit %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	rig.AwaitStreaming(t, r.Serve(t, nil))
	t.Logf("load meanwhile: %s", stop())
	r.AwaitCaughtUp(ctx, t)
	judge.Verdict(t, append(everything, verify.P5, verify.P13)...)
}

// underWay tells the moment at which so many checkpoints have been written since.
func underWay(t *testing.T, r *rig.Rig, more int64, moment chan<- time.Time, over <-chan struct{}) {
	cl, err := r.Kafka.Client()
	if err != nil {
		t.Error(err)
		return
	}
	defer cl.Close()
	first := int64(-1)
	for {
		ends, err := kadm.NewClient(cl).ListEndOffsets(t.Context(), r.Checkpoint)
		if err != nil {
			t.Error(err)
			return
		}
		end, _ := ends.Lookup(r.Checkpoint, 0)
		if first < 0 {
			first = end.Offset
		}
		if end.Offset >= first+2*more {
			moment <- time.Now()
			return
		}
		select {
		case <-over:
			return
		case <-time.After(time.Millisecond): // between looks at a broker, not for an event
		}
	}
}

// A slot that was lost with many rows undelivered, and a recovery that is killed
// with SIGKILL at random moments, again and again, with writers at work: each row
// is delivered once. Inside of it no relay streams.
func TestRecoverKilled(t *testing.T) {
	rows, kills := times(t, "OUTBOX_RECOVER_ROWS", 3000), times(t, "OUTBOX_RECOVER_KILLS", 3)
	r, judge := lostSlot(t, "", max(50, rows/(10*kills)), rows)
	s := seed(t)
	rng := rand.New(rand.NewPCG(s, 7))
	stop := r.Load(t, load.Config{Seed: s + 100, Run: r.Name + "-later", Pause: 200 * time.Millisecond, LargeRows: 100, PoisonShare: 0.01})
	refused := false
	var at []string
	for killed := 0; killed < kills; {
		moment, over := make(chan time.Time, 1), make(chan struct{})
		// The barrier and the word that it goes on are two; groups come behind.
		after := rng.Int64N(8)
		began := time.Now()
		if after == 0 {
			time.AfterFunc(time.Duration(rng.Int64N(int64(2*time.Second))), func() { moment <- time.Now() })
		} else {
			go underWay(t, r, after, moment, over)
		}
		out := harness.KillRelay(t, r.Bin, r.Env, moment, "recover", "--yes")
		close(over)
		if out.ExitCode != -1 {
			t.Fatalf("exit %d, and %d kills to go\n%s%s", out.ExitCode, kills-killed, out.Stdout, out.Stderr)
		}
		killed++
		at = append(at, fmt.Sprintf("%d/%s", after, time.Since(began).Round(time.Millisecond)))
		if last := r.Peek(t.Context(), t).Last; !refused && last.Recovery != nil {
			out := r.Command(t, "serve", "--exit-on-halt")
			if refused = out.ExitCode == 6 && strings.Contains(out.Stderr, "OBX-4300"); !refused {
				t.Errorf("serve inside of a recovery: exit %d\n%s", out.ExitCode, out.Stderr)
			}
		}
	}
	t.Logf("seed %d, killed after so many transactions: %v", s, at)
	if !refused {
		t.Error("no relay was ever started inside of a recovery")
	}
	recovered(t, r, judge, stop)
}

// One SIGKILL at each point where a recovery can be torn.
func TestRecoverCrashPoints(t *testing.T) {
	r, judge := lostSlot(t, harness.BuildRelay(t, "crashpoints"), 100, 3000)
	stop := r.Load(t, load.Config{Seed: seed(t) + 100, Run: r.Name + "-later", Pause: 200 * time.Millisecond, LargeRows: 100})
	for _, point := range []string{
		crash.RecoverySlotDropped + ":1", crash.RecoverySlotMade + ":1", crash.SlotAcquired + ":1", crash.ProducerFenced + ":1", crash.BarrierWritten + ":1",
		crash.RecoveryBegun + ":1", crash.GroupOpen + ":4", crash.LetterAdded + ":1", crash.CheckpointAdded + ":2", crash.BeforeEnd + ":3", crash.AfterEnd + ":2",
		crash.AfterEnd + ":1", crash.ReadBack + ":2", crash.CutCommitted + ":2", crash.RecoveryGroup + ":2", crash.RecoveryEnded + ":1",
	} {
		env := map[string]string{"OUTBOX_CRASH": point}
		for k, v := range r.Env {
			env[k] = v
		}
		if out := harness.RunRelay(t, r.Bin, env, "recover", "--yes"); out.ExitCode != -1 {
			t.Fatalf("%s: exit %d; want death by signal\n%s%s", point, out.ExitCode, out.Stdout, out.Stderr)
		}
	}
	recovered(t, r, judge, stop)
}
