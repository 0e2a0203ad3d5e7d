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

// awaitLeader returns when one of the replicas streams, after the lines of each
// that were seen.
func (s *set) awaitLeader(t *testing.T, seen []int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	found := s.streaming(ctx, seen, -1)
	first := <-found
	for range len(s.replicas) - 1 {
		if first.err == nil {
			break
		}
		first = <-found
	}
	if first.err != nil {
		t.Fatalf("nobody streams: %v", first.err)
	}
	s.lead = first.by
}

// streamed is a replica that began to stream, or did not.
type streamed struct {
	by  int
	at  time.Time
	err error
}

// streaming waits for each replica but one to stream, after the lines that were
// seen.
func (s *set) streaming(ctx context.Context, seen []int, but int) <-chan streamed {
	found := make(chan streamed, len(s.replicas))
	for i, one := range s.replicas {
		if i == but {
			continue
		}
		go func() {
			_, err := one.WaitLogAfter(ctx, seen[i], rig.Message("streaming"))
			found <- streamed{i, time.Now(), err}
		}()
	}
	return found
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
	seen := make([]int, len(s.replicas))
	for i, one := range s.replicas {
		seen[i] = len(one.Logs())
	}
	found := s.streaming(ctx, seen, s.lead)
	began := time.Now()
	fault()
	for holder(ctx, t, conn, s.r.Slot) == before {
		time.Sleep(2 * time.Millisecond) // the view has nothing that could be waited for
	}
	free := time.Now()
	first := streamed{err: errors.New("no other replica")}
	for range len(s.replicas) - 1 {
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
