package chaos

import (
	"context"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/internal/crash"
	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// One SIGKILL at every point where a session can be torn, each recovered by the
// next process, which then dies at the next point.
func TestCrashPoints(t *testing.T) {
	r := rig.New(t, rig.Config{
		Bin: harness.BuildRelay(t, "crashpoints"),
		// Small limits, so that a transaction of the load is cut.
		Env: map[string]string{"OUTBOX_BATCH_SIZE": "50", "OUTBOX_BATCH_MAX": "300"},
	})
	r.Init(t)
	judge := r.Judge(t)
	stop := r.Load(t, load.Config{
		Seed: seed(t), LargeRows: 3000, Pause: 50 * time.Millisecond, PoisonShare: 0.01,
	})
	for _, point := range crash.Points() {
		pass := ":3"
		drains := point == crash.DrainStarted || point == crash.DrainDone
		switch point {
		case crash.SlotAcquired, crash.ProducerFenced, crash.BarrierWritten, crash.DrainStarted, crash.DrainDone:
			pass = ":1" // passed once in a session
		}
		relay := r.Serve(t, map[string]string{"OUTBOX_CRASH": point + pass})
		if drains {
			rig.AwaitStreaming(t, relay)
			if err := relay.Term(); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		exit, err := relay.Wait(ctx)
		cancel()
		if err != nil || exit != -1 {
			t.Fatalf("%s: exit %d, %v; want death by signal", point, exit, err)
		}
	}
	last := r.Serve(t, nil)
	rig.AwaitStreaming(t, last)
	totals := stop()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r.AwaitCaughtUp(ctx, t)
	t.Logf("%d crash points; load: %s", len(crash.Points()), totals)
	judge.Verdict(t, everything...)
}
