package relay

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/breaker"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/sink"
)

// line is one replica's way to Kafka, which can be cut, and what has gone over
// it.
type line struct {
	mu     sync.Mutex
	cause  error // nil: not cut
	opens  int   // sessions that were tried
	probes int
}

func (l *line) cut(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cause = cause
}

func (l *line) tried() (opens, probes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opens, l.probes
}

var away = fault.New(fault.KafkaUnreachable, "injected")

// wire puts a relay behind a line of its own, with the breaker's defaults and
// the real backoff.
func wire(r *Relay) *line {
	l := &line{}
	open := r.OpenSink
	r.OpenSink = func(ctx context.Context) (Sink, sink.Session, error) {
		l.mu.Lock()
		l.opens++
		cause := l.cause
		l.mu.Unlock()
		if cause != nil {
			return nil, sink.Session{}, cause
		}
		return open(ctx)
	}
	r.Breaker = breaker.New(breaker.Config{}, breaker.Options{Name: "kafka", Log: zerolog.Nop(), Probe: func(context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.probes++
		return l.cause
	}})
	r.Pause = nil
	return l
}

// held tells in how many of the ticks of a span somebody holds the slot, and
// how often it changed hands or was let go.
func (w *world) held(span, tick time.Duration) (share float64, changes int) {
	var last *fakeSource
	n, held := 0, 0
	for end := time.Now().Add(span); time.Now().Before(end); n++ {
		settle(tick)
		w.mu.Lock()
		if w.holder != nil {
			held++
		}
		if n > 0 && w.holder != last {
			changes++
		}
		last = w.holder
		w.mu.Unlock()
	}
	return float64(held) / float64(n), changes
}

// One replica, and Kafka is away for an hour: five attempts, then one probe in
// five minutes, and the slot is held but for a second at each of them. When it
// is back, two probes and one session.
func TestBreakerKafkaAwayForAnHour(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		l := wire(r)
		l.cut(away)
		var codes []string
		r.OnState = func(s State, cause *fault.Error) {
			if cause != nil {
				codes = append(codes, string(s)+" "+cause.Code.Name)
			}
		}
		stop := w.start(t, r)
		settle(20 * time.Second) // 1+2+4+8 s at most
		opens, probes := l.tried()
		same(t, "attempts and probes until it opens", [2]int{5, 0}, [2]int{opens, probes})
		same(t, "states", []string{
			"backoff kafka_unreachable", "backoff kafka_unreachable", "backoff kafka_unreachable", "backoff kafka_unreachable",
			"backoff breaker_open", "backoff breaker_open", // offers it, holds it
		}, codes)
		share, changes := w.held(time.Hour, 100*time.Millisecond)
		opens, probes = l.tried()
		same(t, "attempts and probes in an hour", [2]int{5, 12}, [2]int{opens, probes})
		same(t, "times the slot was let go or taken", 2*12, changes)
		if most := 1 - 12*offer.Seconds()/3600; share < most-0.001 || share > most+0.001 {
			t.Errorf("the slot was held for %.4f of the hour, want %.4f", share, most)
		}
		same(t, "rows", nil, w.published())
		l.cut(nil)
		settle(6 * time.Minute)
		opens, probes = l.tried()
		same(t, "attempts and probes in the end", [2]int{6, 14}, [2]int{opens, probes})
		same(t, "rows", []string{"700/1"}, w.published())
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// It is the opening that offers the slot, after however few attempts of this
// session: failures are counted over sessions.
func TestBreakerOffersWhenItOpens(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		l := wire(r)
		l.cut(away)
		stop := w.start(t, r)
		settle(3500 * time.Millisecond) // three attempts, or four
		w.mu.Lock()
		holder := w.holder
		w.mu.Unlock()
		holder.lose()
		settle(10 * time.Second)
		opens, _ := l.tried()
		same(t, "attempts", 5, opens)
		taken := 0
		for _, c := range w.called() {
			if c == "OpenSource" {
				taken++
			}
		}
		same(t, "times the slot was taken", 3, taken)
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// Two replicas, and the leader alone is cut off: the other has the slot at the
// first opening and keeps it. The one that was cut off gets sound again beside
// it, without a session of its own.
func TestBreakerOneReplicaCutOff(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, first *Relay) {
		second := w.relay()
		cut, sound := wire(first), wire(second)
		cut.cut(away)
		stopFirst := w.start(t, first)
		synctest.Wait()
		stopSecond := w.start(t, second)
		settle(20 * time.Second)
		same(t, "rows", []string{"700/1"}, w.published())
		holder := w.holder
		if _, changes := w.held(20*time.Minute, 100*time.Millisecond); changes != 0 || w.holder != holder || holder == nil {
			t.Errorf("the slot changed hands %d times", changes)
		}
		opens, _ := sound.tried()
		same(t, "sessions of the sound one", 1, opens)
		opens, _ = cut.tried()
		same(t, "sessions of the other", 5, opens)
		same(t, "its breaker", breaker.Open, first.Breaker.Status().State)
		cut.cut(nil)
		settle(5 * time.Minute)
		same(t, "its breaker when it is back", breaker.Closed, first.Breaker.Status().State)
		if err := stopSecond(); err != nil {
			t.Error(err)
		}
		w.grow(transactions(0, 1)[1:]...)
		settle(time.Second)
		same(t, "rows after the takeover", []string{"700/1", "701/1"}, w.published())
		if err := stopFirst(); err != nil {
			t.Error(err)
		}
	})
}

// Nobody can reach Kafka: the slot goes round, but somebody holds it nearly
// always, and each replica keeps to its own five attempts.
func TestBreakerBothCutOff(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, first *Relay) {
		second := w.relay()
		a, b := wire(first), wire(second)
		a.cut(away)
		b.cut(away)
		stopFirst := w.start(t, first)
		synctest.Wait()
		stopSecond := w.start(t, second)
		share, _ := w.held(time.Hour, 100*time.Millisecond)
		if share < 0.99 {
			t.Errorf("the slot was held for %.4f of the hour", share)
		}
		for name, l := range map[string]*line{"first": a, "second": b} {
			opens, _ := l.tried()
			same(t, "attempts of the "+name, 5, opens)
		}
		b.cut(nil)
		settle(11 * time.Minute) // each probes once in five, and then lets go
		same(t, "rows", []string{"700/1"}, w.published())
		for _, stop := range []func() error{stopFirst, stopSecond} {
			if err := stop(); err != nil {
				t.Error(err)
			}
		}
	})
}

// A relay that waits for its breaker stops at once, and so does its session
// when Postgres ends it: a server that wants to stop is not held up.
func TestBreakerOpenHoldsNobodyUp(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		l := wire(r)
		l.cut(away)
		var codes []string
		r.OnState = func(_ State, cause *fault.Error) {
			if cause != nil {
				codes = append(codes, cause.Code.Name)
			}
		}
		stop := w.start(t, r)
		settle(20 * time.Second)
		codes = nil
		w.mu.Lock()
		holder := w.holder
		w.mu.Unlock()
		holder.lose()
		settle(5 * time.Second)
		same(t, "causes", []string{"postgres_lost", "breaker_open"}, codes)
		w.mu.Lock()
		if w.holder == nil || w.holder == holder {
			t.Error("the slot is not held again")
		}
		w.mu.Unlock()
		opens, _ := l.tried()
		same(t, "attempts", 5, opens)
		begin := time.Now()
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		same(t, "time to stop", 0, time.Since(begin))
	})
}

// What is no failure of the connection passes the breaker by: it halts at once,
// fences at once, or is tried as often as before.
func TestBreakerIsNotForOthers(t *testing.T) {
	for name, tc := range map[string]struct {
		cause *fault.Error
		opens int // within ten minutes
		halts bool
	}{
		"checkpoint missing": {fault.New(fault.CheckpointMissing, "injected"), 1, true},
		"topic shape":        {fault.New(fault.KafkaTopicShape, "injected"), 1, true},
		"refused":            {away, 5, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
				l := wire(r)
				l.cut(tc.cause)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				if err := live(ctx, r); fault.Has(err, tc.cause.Code) != tc.halts {
					t.Errorf("ended with %v", err)
				}
				opens, _ := l.tried()
				same(t, "attempts", tc.opens, opens)
				same(t, "confirmed", pglogrepl.LSN(0x100), w.confirmed())
			})
		})
	}
	for name, cause := range map[string]*fault.Error{
		"fenced":    fault.New(fault.Fenced, "injected"),
		"slot gone": fault.New(fault.PostgresLost, "injected"),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
				l := wire(r)
				l.cut(cause)
				stop := w.start(t, r)
				settle(10 * time.Minute)
				same(t, "breaker", breaker.Closed, r.Breaker.Status().State)
				if opens, _ := l.tried(); opens < 50 {
					t.Errorf("%d attempts in ten minutes", opens)
				}
				l.cut(nil)
				settle(15 * time.Second)
				same(t, "rows", []string{"700/1"}, w.published())
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
