package ha

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// set is some replicas of one relay, of which one leads.
type set struct {
	r        *rig.Rig
	replicas []*harness.Relay
	envs     []map[string]string
	lead     int
}

// start starts one replica for each environment. When it returns the first
// streams and all others stand by.
func start(t *testing.T, r *rig.Rig, envs ...map[string]string) *set {
	t.Helper()
	s := &set{r: r, envs: envs}
	for i, env := range envs {
		one := r.Serve(t, env)
		s.replicas = append(s.replicas, one)
		if i == 0 {
			rig.AwaitStreaming(t, one)
			continue
		}
		s.awaitStandby(t, i)
	}
	return s
}

// awaitStandby returns when a replica has said for whom it stands by.
func (s *set) awaitStandby(t *testing.T, i int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := s.replicas[i].WaitLog(ctx, rig.Message("standby")); err != nil {
		t.Fatalf("no standby: %v", err)
	}
}

// restart starts the replica anew, as a standby of whoever leads.
func (s *set) restart(t *testing.T, i int) {
	t.Helper()
	s.replicas[i] = s.r.Serve(t, s.envs[i])
	s.awaitStandby(t, i)
}

// takeover is how long one took, in its parts.
type takeover struct {
	free   time.Duration // from the fault to a slot that its walsender has left
	stream time.Duration // from then until another replica streams
	by     int
}

// takeOver does something to the leader and waits until another replica
// streams, which leads from then on.
func (s *set) takeOver(t *testing.T, within time.Duration, fault func()) takeover {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	conn := s.r.Conn(t)
	defer conn.Close(context.Background())
	before := holder(ctx, t, conn, s.r.Slot)
	if before == 0 {
		t.Fatal("nobody holds the slot")
	}
	type streaming struct {
		by  int
		at  time.Time
		err error
	}
	found := make(chan streaming, len(s.replicas))
	waiting := 0
	for i, one := range s.replicas {
		if i == s.lead {
			continue
		}
		waiting++
		seen := len(one.Logs())
		go func() {
			_, err := one.WaitLogAfter(ctx, seen, rig.Message("streaming"))
			found <- streaming{i, time.Now(), err}
		}()
	}
	began := time.Now()
	fault()
	for holder(ctx, t, conn, s.r.Slot) == before {
		time.Sleep(2 * time.Millisecond) // the view has nothing that could be waited for
	}
	free := time.Now()
	first := streaming{err: errors.New("no other replica")}
	for range waiting {
		if first = <-found; first.err == nil {
			break
		}
	}
	cancel() // the others need not be waited for
	if first.err != nil {
		t.Fatalf("nobody took over: %v", first.err)
	}
	s.lead = first.by
	return takeover{free: free.Sub(began), stream: first.at.Sub(free), by: first.by}
}

// holder is the PID of the walsender, 0 if nobody holds the slot.
func holder(ctx context.Context, t *testing.T, conn *pgx.Conn, slot string) int {
	t.Helper()
	var pid int
	if err := conn.QueryRow(ctx, `SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1`, slot).Scan(&pid); err != nil {
		t.Fatalf("look at the slot: %v", err)
	}
	return pid
}
