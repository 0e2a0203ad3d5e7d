package ha

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// A planned switchover while writers write: the primary is stopped in order, so
// the standby gets everything, and the relay goes on there by itself.
func TestSwitchover(t *testing.T) {
	versions := []int{18}
	if full() {
		versions = []int{17, 18}
	}
	for _, version := range versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			p := newPair(t, version, nil)
			judge := p.judge(t)
			s := start(t, p.r, nil, nil)
			stop := p.r.Load(t, load.Config{Seed: 21, Pause: 20 * time.Millisecond})
			p.awaitSynced(t, p.r.Slot)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			seen := []int{len(s.replicas[0].Logs()), len(s.replicas[1].Logs())}
			if err := p.primary.Stop(ctx, harness.Fast); err != nil {
				t.Fatal(err)
			}
			stopped := time.Now()
			p.promote(t)
			promoted := time.Now()
			s.awaitLeader(t, seen)
			var synced bool
			if err := p.r.Conn(t).QueryRow(ctx, `SELECT synced FROM pg_replication_slots WHERE slot_name = $1`, p.r.Slot).Scan(&synced); err != nil {
				t.Fatal(err)
			}
			t.Logf("the slot of the new primary has synced=%t, and is streamed from", synced)
			t.Logf("promoted %s after the stop, streaming %s later", promoted.Sub(stopped).Round(time.Millisecond), time.Since(promoted).Round(time.Millisecond))
			time.Sleep(time.Second) // writers on the new primary
			totals := stop()
			p.r.AwaitCaughtUp(ctx, t)
			t.Logf("load: %s", totals)
			judge.Verdict(t, everything...)
			if tli := p.r.Peek(ctx, t).Last.Pos.Timeline; tli != 2 {
				t.Errorf("checkpoint on timeline %d", tli)
			}
		})
	}
}

// The primary dies under load. It was told to wait for the standby before it
// shows a row to the relay, so nothing that was published is gone, although the
// standby replicates asynchronously.
func TestFailover(t *testing.T) {
	p := newPair(t, 17, map[string]string{"synchronized_standby_slots": standbyName})
	judge := p.judge(t)
	s := start(t, p.r, nil, nil)
	stop := p.r.Load(t, load.Config{Seed: 22, Pause: 5 * time.Millisecond})
	p.awaitSynced(t, p.r.Slot)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// A standby that is away holds the relay up, which says so and does not
	// take it for anything else.
	if err := p.standby.Stop(ctx, harness.Fast); err != nil {
		t.Fatal(err)
	}
	if _, err := s.replicas[0].WaitLog(ctx, rig.Code("OBX-4380")); err != nil {
		t.Fatal(err)
	}
	if err := p.standby.Start(ctx); err != nil {
		t.Fatal(err)
	}
	p.awaitSynced(t, p.r.Slot)
	time.Sleep(time.Second) // under load
	seen := []int{len(s.replicas[0].Logs()), len(s.replicas[1].Logs())}
	if err := p.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	p.promote(t)
	promoted := time.Now()
	s.awaitLeader(t, seen)
	t.Logf("streaming %s after the promotion", time.Since(promoted).Round(time.Millisecond))
	// The setting came along with the copy, and names a slot that the new
	// primary does not have.
	if _, err := s.replicas[s.lead].WaitLogAfter(ctx, seen[s.lead], rig.Code("OBX-4380")); err != nil {
		t.Fatal(err)
	}
	p.r.Database.Exec(t, `ALTER SYSTEM SET synchronized_standby_slots = ''`, `SELECT pg_reload_conf()`)
	time.Sleep(time.Second) // writers on the new primary
	totals := stop()
	p.r.AwaitCaughtUp(ctx, t)
	t.Logf("load: %s", totals)
	judge.Verdict(t, everything...)

	// The old primary comes back, and does not know. The relay knows both hosts
	// and stays with the newer history, also when it starts anew.
	if err := p.primary.Start(ctx); err != nil {
		t.Fatal(err)
	}
	again := p.r.Serve(t, nil)
	line, err := again.WaitLog(ctx, rig.Message("standby"))
	if err != nil {
		t.Fatalf("beside an old primary: %v", err)
	}
	if _, err := again.WaitLog(ctx, rig.Message("more than one host is a primary; using the newest timeline")); err != nil {
		t.Errorf("no word of the old primary: %v", err)
	}
	t.Logf("stands by for %v", line["holder"])
	// One that knows only the old primary must not deliver from it.
	rig.AwaitHalt(t, p.r.Serve(t, map[string]string{"DATABASE_URL": p.primary.URL(p.r.Database.Name)}), "OBX-4006")
	p.r.Insert(t, 10)
	p.r.AwaitCaughtUp(ctx, t)
}

// The standby lagged when the primary died: rows that were published are in the
// database no more. The relay says which.
func TestFailoverThatLostRows(t *testing.T) {
	p := newPair(t, 17, nil)
	one := p.r.Serve(t, nil)
	rig.AwaitStreaming(t, one)
	p.r.Insert(t, 20)
	p.awaitSynced(t, p.r.Slot)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p.r.AwaitCaughtUp(ctx, t)
	if err := p.standby.Stop(ctx, harness.Fast); err != nil {
		t.Fatal(err)
	}
	_, before := p.r.Confirmed(ctx, t)
	p.r.Insert(t, 7)
	p.r.Insert(t, 5)
	p.r.AwaitCaughtUp(ctx, t)
	if err := p.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.standby.Start(ctx); err != nil {
		t.Fatal(err)
	}
	p.promote(t)
	line, err := one.WaitLog(ctx, rig.Message("halted"))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := line["error"].(string)
	t.Log(text)
	_, rest, _ := strings.Cut(text, "transactions in (")
	fromText, rest, _ := strings.Cut(rest, ", ")
	toText, _, _ := strings.Cut(rest, "]")
	from, err1 := pglogrepl.ParseLSN(fromText)
	to, err2 := pglogrepl.ParseLSN(toText)
	if err1 != nil || err2 != nil || from > before || from >= to {
		t.Fatalf("the range is %q to %q; the standby stopped before %s", fromText, toText, before)
	}
	// As the documentation says: the events are those of the old timeline in
	// the range.
	lost := 0
	p.r.Each(ctx, t, p.r.Events, func(rec *kgo.Record) {
		headers := map[string]string{}
		for _, h := range rec.Headers {
			headers[h.Key] = string(h.Value)
		}
		at, err := pglogrepl.ParseLSN(headers["outbox.lsn"])
		if err != nil {
			t.Errorf("header outbox.lsn is %q", headers["outbox.lsn"])
		}
		if headers["outbox.tli"] == "1" && at >= from && at <= to {
			lost++
		}
	})
	if lost != 12 {
		t.Errorf("%d events in the range, 12 were lost", lost)
	}
	rig.AwaitHalt(t, one, "OBX-4007")
	// Nothing was published of the new history meanwhile.
	if n := p.r.Count(ctx, t, p.r.Events); n != 32 {
		t.Errorf("%d events, want 32", n)
	}
	if err := one.Term(); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	// A person lists them, accepts that they stay, and the relay goes on.
	file := filepath.Join(t.TempDir(), "lost")
	out := p.r.Command(t, "recover", "--lost", file)
	accept := fmt.Sprintf("diverged=%s:%s", from, to)
	if text, err := os.ReadFile(file); err != nil || strings.Count(string(text), "\n") != 12 || out.ExitCode != 6 || !strings.Contains(out.Stdout, accept) {
		t.Fatalf("%v, %d lines, exit %d\n%s%s", err, strings.Count(string(text), "\n"), out.ExitCode, out.Stdout, out.Stderr)
	}
	t.Log("\n" + out.Stdout)
	p.r.Insert(t, 3)
	if out := p.r.Command(t, "recover", "--yes", "--accept", accept); out.ExitCode != 0 {
		t.Fatalf("exit %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	rig.AwaitStreaming(t, p.r.Serve(t, nil))
	p.r.Insert(t, 2)
	p.r.AwaitCaughtUp(ctx, t)
	if n := p.r.Count(ctx, t, p.r.Events); n != 37 {
		t.Errorf("%d events, want 37", n)
	}
}

// Before version 17 a logical slot stays behind on the old primary. That is said
// and not papered over.
func TestFailoverWithoutTheSlot(t *testing.T) {
	p := newPair(t, 0, nil)
	// The standby first in the list: the primary is found.
	one := p.r.Serve(t, map[string]string{"DATABASE_URL": harness.PostgresHosts(p.r.Database.Name, p.standby, p.primary)})
	rig.AwaitStreaming(t, one)
	p.r.Insert(t, 20)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p.r.AwaitCaughtUp(ctx, t)
	// A replica that knows the standby alone waits, and says what for.
	blind := p.r.Serve(t, map[string]string{"DATABASE_URL": p.standby.URL(p.r.Database.Name)})
	ended := rig.Message("session ended")
	if _, err := blind.WaitLog(ctx, func(line map[string]any) bool { return ended(line) && line["code"] == "OBX-3005" }); err != nil {
		t.Fatal(err)
	}
	if status, body := rig.Ready(ctx, blind); status != 503 || body["code"] != "OBX-3005" {
		t.Errorf("/readyz of a replica without a primary: %d %v", status, body)
	}
	if err := p.primary.Stop(ctx, harness.Fast); err != nil {
		t.Fatal(err)
	}
	p.promote(t)
	rig.AwaitHalt(t, one, "OBX-3101")
	rig.AwaitHalt(t, blind, "OBX-3101")
	for _, relay := range []*harness.Relay{one, blind} {
		if err := relay.Term(); err != nil {
			t.Fatal(err)
		}
		if _, err := relay.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	p.r.Insert(t, 4)
	if out := p.r.Command(t, "recover", "--yes"); out.ExitCode != 0 || !strings.Contains(out.Stdout, "4 rows published") {
		t.Fatalf("exit %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	rig.AwaitStreaming(t, p.r.Serve(t, nil))
	p.r.Insert(t, 2)
	p.r.AwaitCaughtUp(ctx, t)
	if n := p.r.Count(ctx, t, p.r.Events); n != 26 {
		t.Errorf("%d events, want 26", n)
	}
}
