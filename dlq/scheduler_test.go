package dlq_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
)

func (r *rig) scheduler(opts ...kgo.Opt) *dlq.Scheduler {
	return &dlq.Scheduler{
		Replayer: r.tool(opts...), Log: zerolog.Nop(), Tick: 20 * time.Millisecond,
		Schedule: dlq.Schedule{Base: time.Second, Max: time.Second, Attempts: 3},
	}
}

// due makes the scheduler's time for a letter come after d.
func due(d time.Duration) func(*dlq.Letter) {
	return func(l *dlq.Letter) { l.NextAt, l.Backoff = time.Now().Add(d).UTC(), time.Second }
}

func TestSchedulerOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	fences := r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, TopLevel: true, Observe: true, Count: -1})
	s := r.scheduler()
	r.write(t, r.letter("1", "a"), r.letter("2", "b", due(time.Hour)))
	before := fences.Hits() // of the writer
	if p, err := s.Once(t.Context()); err != nil || p.Waiting != 1 || p.Replayed != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	if fences.Hits() != before {
		t.Error("it took over the transactional id with nothing to do")
	}
	r.write(t, r.letter("3", "c", due(-time.Minute)))
	p, err := s.Once(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(dlq.Pass{Waiting: 1, Replayed: 1, Next: p.Next}, p); diff != "" {
		t.Error(diff)
	}
	if p, err := s.Once(t.Context()); err != nil || p.Replayed != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	if ids, _ := open(t, r.tool().View, dlq.Filter{}); !cmp.Equal(ids, []string{"1", "2"}) {
		t.Errorf("open are %v", ids)
	}
}

// A letter whose topic does not take it is tried again as often as the schedule
// says, by whichever process, and is then left to a person.
func TestSchedulerDefersAndGivesUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	missing := func(l *dlq.Letter) { l.Topic = "missing" }
	r.write(t, r.letter("1", "a", due(-time.Minute), missing), r.letter("2", "a", due(-time.Minute), missing))
	p, err := r.scheduler().Once(t.Context())
	if err != nil || p.Deferred != 1 || p.Refused != 1 {
		t.Fatalf("%+v, %v", p, err)
	}
	s := r.scheduler() // another process
	s.Replayer.Metrics = dlq.NewMetrics(prometheus.NewRegistry())
	run(t, s, func() bool {
		for _, rec := range r.read(t, dlq.StateTopic(letters), false) {
			m, err := dlq.ParseMark(rec)
			if err != nil {
				t.Fatal(err)
			}
			if m.Action != dlq.Deferred || m.Code != "OBX-5005" || m.ID == "2" {
				t.Fatalf("%+v", m)
			}
			if m.ID == "1" && m.NextAt.IsZero() {
				if m.Attempts != 3 {
					t.Errorf("given up after %d attempts", m.Attempts)
				}
				return true
			}
		}
		return false
	})
	if ids, _ := open(t, r.tool().View, dlq.Filter{}); !cmp.Equal(ids, []string{"1", "2"}) {
		t.Errorf("open are %v", ids)
	}
	// Only now it is the turn of the letter behind it.
	if p, err := r.scheduler().Once(t.Context()); err != nil || p.Deferred != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	// A person's replay is not bound to the schedule.
	r.topic(t, "missing", 1, nil)
	if got, err := r.replay(t, r.tool(), dlq.Job{}); err != nil || len(got[dlq.OutcomeDone]) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
}

// run runs a scheduler until something is so.
func run(t *testing.T, s *dlq.Scheduler, until func() bool) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for deadline := time.Now().Add(20 * time.Second); !until(); {
		if time.Now().After(deadline) {
			t.Error("it did not come to that in time")
			break
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// It outlives its connections, and does nothing while it is not its turn.
func TestSchedulerSurvives(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var down, asked atomic.Bool
	down.Store(true)
	s := r.scheduler(kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
		if down.Load() {
			asked.Store(true)
			return nil, &net.OpError{Op: "dial", Err: net.ErrClosed}
		}
		return new(net.Dialer).DialContext(ctx, network, host)
	}), kgo.RetryTimeout(100*time.Millisecond))
	var turn atomic.Bool
	s.Active = turn.Load
	reg := prometheus.NewRegistry()
	s.Replayer.Metrics = dlq.NewMetrics(reg)
	r.write(t, r.letter("1", "a", due(-time.Minute)))
	ticks := 0
	run(t, s, func() bool {
		switch ticks++; {
		case ticks == 1:
			if asked.Load() {
				t.Error("it went to Kafka when it was not its turn")
			}
			turn.Store(true)
		case asked.Load() && down.Load():
			down.Store(false)
		}
		return len(r.read(t, events, false)) == 1
	})
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "outbox_dlq_replayed_total" || len(families[0].GetMetric()) != 4 {
		t.Fatalf("%v, %v", families, err)
	}
	for _, m := range families[0].GetMetric() {
		want := 0.0
		if m.GetLabel()[0].GetValue() == "replayed" {
			want = 1
		}
		if m.GetCounter().GetValue() != want {
			t.Errorf("%v", m)
		}
	}
}

// Two schedulers that meet replay each letter once.
func TestSchedulersMeet(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const n = 600
	var all []dlq.Letter
	for i := range n {
		all = append(all, r.letter(number(i+1), number(i%7), due(-time.Minute)))
	}
	r.write(t, all...)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 3)
	for range 3 {
		go func() { done <- r.scheduler().Run(ctx) }()
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		ids, _ := open(t, r.tool().View, dlq.Filter{})
		if len(ids) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("%d are open still", len(ids))
			break
		}
	}
	stop()
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	r.once(t, n)
}

// A mark that is refused is an error, and no reason to try for ever.
func TestSchedulerMarkRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write(t, r.letter("1", "a", due(-time.Minute)))
	r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidRecord, Count: -1})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := r.scheduler().Once(ctx); !isCode(err, fault.RowRefused) {
		t.Errorf("got %v", err)
	}
}
