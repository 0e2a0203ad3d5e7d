package e2e

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// planted is a password that no server here asks for. It stands in settings,
// and no output may hold it.
const planted = "pl4nted-hush"

// plant puts the password into the rig's DATABASE_URL.
func plant(t testing.TB, r *rig.Rig) {
	t.Helper()
	u, err := url.Parse(r.Env["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(u.User.Username(), planted)
	r.Env["DATABASE_URL"] = u.String()
}

// harmless fails if a text shows the planted password or a panic.
func harmless(t testing.TB, texts ...string) {
	t.Helper()
	for _, text := range texts {
		for _, bad := range []string{planted, "panic:", "goroutine 1 [", "OBX-9"} {
			if strings.Contains(text, bad) {
				t.Errorf("output holds %q:\n%s", bad, text)
			}
		}
	}
}

// answers are what a relay says over HTTP at this moment.
func answers(ctx context.Context, t testing.TB, relay *harness.Relay) string {
	t.Helper()
	var all strings.Builder
	for _, path := range []string{"/readyz?verbose", "/api/health", "/metrics"} {
		all.WriteString(get(ctx, t, relay.HealthURL()+path))
	}
	return all.String()
}

// refuses runs a command that has to end with one error: its code, a why, a
// fix and the status of its class.
func refuses(t testing.TB, r *rig.Rig, code string, exit int, args ...string) harness.Output {
	t.Helper()
	out := r.Command(t, args...)
	judge(t, out, exit, code)
	return out
}

// judge compares the errors of a command that has ended with the codes.
func judge(t testing.TB, out harness.Output, exit int, codes ...string) {
	t.Helper()
	harmless(t, out.Stdout, out.Stderr)
	if out.ExitCode != exit {
		t.Errorf("exit status %d, want %d\n%s", out.ExitCode, exit, out.Stderr)
	}
	var got []string
	why, fix := 0, 0
	for line := range strings.Lines(out.Stderr) {
		switch {
		case strings.HasPrefix(line, "OBX-"):
			code, _, _ := strings.Cut(line, " ")
			got = append(got, code)
		case strings.HasPrefix(line, "  why: "):
			why++
		case strings.HasPrefix(line, "  fix: "):
			fix++
		}
	}
	if strings.Join(got, " ") != strings.Join(codes, " ") || why != len(codes) || fix != len(codes) {
		t.Errorf("errors %v with %d whys and %d fixes, want %v\n%s", got, why, fix, codes, out.Stderr)
	}
}

// halts starts serve, which has to halt with the code, and returns the line
// that says so.
func halts(t testing.TB, r *rig.Rig, code string, args ...string) map[string]any {
	t.Helper()
	return halted(t, r.Serve(t, nil, args...), code)
}

// halted waits for a running relay to halt with the code, and ends it.
func halted(t testing.TB, relay *harness.Relay, code string) map[string]any {
	t.Helper()
	rig.AwaitHalt(t, relay, code)
	harmless(t, relay.Stdout(), relay.Stderr())
	line, err := relay.WaitLog(t.Context(), rig.Message("halted"))
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// waits returns when a running relay says that it waits because of the code:
// in a log line after the first n, and on /readyz.
func waits(ctx context.Context, t testing.TB, relay *harness.Relay, n int, code string) {
	t.Helper()
	line, err := relay.WaitLogAfter(ctx, n, rig.Code(code))
	if err != nil {
		t.Fatalf("no %s: %v", code, err)
	}
	if line["level"] != "warn" || line["why"] == nil || line["hint"] == nil {
		t.Errorf("line without level warn, why or hint: %v", line)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status, body := rig.Ready(ctx, relay)
		if status == http.StatusServiceUnavailable && body["code"] == code {
			return
		}
		select {
		case <-tick.C: // between two attempts the state is another
		case <-ctx.Done():
			t.Fatalf("/readyz answers %d %v, want 503 with %s", status, body, code)
		}
	}
}

// stop ends a relay in an orderly way.
func stop(ctx context.Context, t testing.TB, relay *harness.Relay) {
	t.Helper()
	if err := relay.Term(); err != nil {
		t.Fatal(err)
	}
	if exit, err := relay.Wait(ctx); err != nil || exit != 0 {
		t.Errorf("exit status %d (%v), want 0", exit, err)
	}
}

// everyRowOnce compares the table with the topics: each id of the one is in
// the others once, and nothing else is.
func everyRowOnce(ctx context.Context, t testing.TB, r *rig.Rig, topics ...string) {
	t.Helper()
	seen := map[string]int{}
	for _, topic := range topics {
		r.Each(ctx, t, topic, func(rec *kgo.Record) {
			for _, h := range rec.Headers {
				if h.Key == "id" {
					seen[string(h.Value)]++
				}
			}
		})
	}
	rows, err := r.Conn(t).Query(ctx, `SELECT id::text FROM outbox.events`)
	if err != nil {
		t.Fatal(err)
	}
	total, lost, doubled := 0, 0, 0
	var id string
	for rows.Next() {
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		total++
		switch n := seen[id]; {
		case n == 0:
			lost++
		case n > 1:
			doubled++
		}
		delete(seen, id)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rows: %d lost, %d doubled, %d never committed", total, lost, doubled, len(seen))
	if lost+doubled+len(seen) > 0 || total == 0 {
		t.Errorf("%d rows: %d lost, %d doubled, %d never committed", total, lost, doubled, len(seen))
	}
}
