package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/holdwall/outbox-relay/test/rig"
)

// A partitioned table with a real relay: rows arrive, the checker is content,
// and cleanup removes what is old and in Kafka, and nothing while the relay is
// behind.
func TestCleanup(t *testing.T) {
	for _, partitioned := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "partitioned"}[partitioned], func(t *testing.T) {
			r := rig.New(t, rig.Config{Env: map[string]string{"OUTBOX_RETENTION": "24h"}})
			args := []string{"init"}
			if partitioned {
				args = append(args, "--partitioned")
			}
			if out := r.Command(t, args...); out.ExitCode != 0 {
				t.Fatal(out.Stderr)
			}
			relay := r.Serve(t, nil)
			rig.AwaitStreaming(t, relay)
			r.Insert(t, 10)
			const old = "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload, created_at) SELECT 'order', g::text, 'old', '{}', now() - interval '3 days' FROM generate_series(1, 5) g"
			r.Database.Exec(t, old)
			if partitioned {
				r.Database.Exec(t, "CREATE TABLE outbox.older PARTITION OF outbox.events FOR VALUES FROM (now() - interval '9 days') TO (now() - interval '5 days')",
					strings.Replace(old, "3 days", "6 days", 1))
			}
			r.AwaitCaughtUp(t.Context(), t)
			if out := r.Command(t, "verify", "--data"); out.ExitCode != 0 {
				t.Errorf("verify: %s\n%s", out.Stdout, out.Stderr)
			}
			count := func() (n int) {
				t.Helper()
				if err := r.Conn(t).QueryRow(t.Context(), "SELECT count(*) FROM outbox.events").Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			all := count()
			if out := r.Command(t, "cleanup", "--dry-run"); out.ExitCode != 0 || count() != all || !strings.Contains(out.Stdout, "5 rows would be deleted") {
				t.Errorf("dry run: %d %s %s", out.ExitCode, out.Stdout, out.Stderr)
			}
			if err := relay.Term(); err != nil {
				t.Fatal(err)
			}
			if _, err := relay.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.Insert(t, 1)
			refuses(t, r, "OBX-3411", 3, "cleanup", "--wait", "1s")
			rig.AwaitStreaming(t, r.Serve(t, nil))
			out := r.Command(t, "cleanup", "-o", "json")
			var got struct {
				Rows    int
				Dropped []string
			}
			if err := json.Unmarshal([]byte(out.Stdout), &got); err != nil || got.Rows != 5 || len(got.Dropped) != map[bool]int{true: 1}[partitioned] || count() != 11 {
				t.Errorf("%v: %s %s, %d rows are left", err, out.Stdout, out.Stderr, count())
			}
			if n := r.Count(t.Context(), t, r.Events); n != all+1 {
				t.Errorf("%d events, want %d: deletes are no events", n, all+1)
			}
			r.Database.Exec(t, "ALTER PUBLICATION outbox_pub SET (publish = 'insert, delete')")
			if out := r.Command(t, "cleanup"); out.ExitCode != 0 || !strings.Contains(out.Stderr, "OBX-3414") {
				t.Errorf("a publication of deletes: %d %s", out.ExitCode, out.Stderr)
			}
		})
	}
}
