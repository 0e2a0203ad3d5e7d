package relay

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// bubble runs a test of one relay in virtual time, with a world that already
// has a history, and looks at the promises at the end.
func bubble(t *testing.T, rows []int, test func(t *testing.T, w *world, r *Relay)) {
	t.Helper()
	if mutated() {
		t.Skip("the order of calls is wrong on purpose in this build")
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(transactions(rows...))
		w.parts = 100
		test(t, w, w.relay())
		w.check(t)
	})
}

func same[T any](t *testing.T, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// The order of steps is the product.
func TestOrderOfSteps(t *testing.T) {
	bubble(t, []int{2}, func(t *testing.T, w *world, r *Relay) {
		stop := w.start(t, r)
		synctest.Wait()
		same(t, "calls", []string{
			"OpenSource", "OpenSink", "Resume",
			"Begin", "Add 700/1", "Add 700/2", "Commit 2", "ReadBack 2", "Confirm 0/190",
		}, w.called())
		w.grow(transactions(0, 1)[1:]...)
		synctest.Wait()
		same(t, "calls", []string{"Begin", "Add 701/1", "Commit 3", "ReadBack 3", "Confirm 0/290"}, w.called())
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		same(t, "calls at the end", []string{"Close", "Source.Run ends"}, w.called())
	})
}

// Nothing that a commit or its read-back says is repaired in place: the session
// ends, nothing is confirmed, and the next one goes by what Kafka shows.
func TestDoubtEndsTheSession(t *testing.T) {
	again := []string{"OpenSource", "OpenSink", "Resume", "Begin", "Add 700/1", "Commit 2", "ReadBack 2", "Confirm 0/190"}
	for _, tc := range []struct {
		name, point string
		verdict     verdict
		before      []string // of the first session
		after       []string // of the second
	}{
		{"begin fails", "Begin", fail, nil, again},
		{"a record was refused", "Commit", fail, []string{"Begin", "Add 700/1", "Commit 2"}, again},
		{"the request of the commit was lost", "Commit", lostAsk, []string{"Begin", "Add 700/1", "Commit 2"}, again},
		{
			"the answer of the commit was lost", "Commit", lostAnswer,
			[]string{"Begin", "Add 700/1", "Commit 2"},
			// The slot learns from the first keepalive that the checkpoint stands.
			[]string{"OpenSource", "OpenSink", "Resume", "Confirm 0/190"},
		},
		{
			"the read-back fails", "ReadBack", fail,
			[]string{"Begin", "Add 700/1", "Commit 2"},
			[]string{"OpenSource", "OpenSink", "Resume", "Confirm 0/190"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
				first := true
				w.at = func(point string) verdict {
					if point == tc.point && first {
						first = false
						return tc.verdict
					}
					return pass
				}
				stop := w.start(t, r)
				settle(time.Second)
				want := append([]string{"OpenSource", "OpenSink", "Resume"}, tc.before...)
				want = append(want, "Close", "Source.Run ends")
				same(t, "calls", append(want, tc.after...), w.called())
				same(t, "rows", []string{"700/1"}, w.published())
				if err := stop(); err != nil {
					t.Errorf("Run: %v", err)
				}
			})
		})
	}
}

// Who listens hears of each Kafka transaction once, and only of those that are
// visible.
func TestOnCommit(t *testing.T) {
	bubble(t, []int{2}, func(t *testing.T, w *world, r *Relay) {
		var heard []Commit
		r.OnCommit = func(c Commit) { heard = append(heard, c) }
		first := true
		w.at = func(point string) verdict {
			if point == "ReadBack" && first {
				first = false
				return fail
			}
			return pass
		}
		stop := w.start(t, r)
		settle(time.Second)
		w.grow(transactions(0, 1)[1:]...)
		settle(time.Second)
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if len(heard) != 1 || len(heard[0].Records) != 1 || heard[0].Checkpoint.Seq != 3 || heard[0].Ended.Before(heard[0].Began) {
			t.Errorf("heard %+v, want checkpoint 3 with one record: 2 was not read back by the session that wrote it", heard)
		}
	})
}

// A loss of the source ends the session too, and the commit under way with it.
func TestSourceLost(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		w.stall = func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		var causes []string
		r.OnState = func(s State, cause *fault.Error) {
			if cause != nil {
				causes = append(causes, string(s)+" "+cause.Code.Name)
			}
		}
		stop := w.start(t, r)
		synctest.Wait()
		w.stall = nil
		w.holder.lose()
		settle(time.Second)
		same(t, "rows", []string{"700/1"}, w.published())
		same(t, "causes", []string{"backoff postgres_lost"}, causes)
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// Retry comes back, with a wait that knows how often it has failed; what a
// person has to decide ends Run.
func TestRetryOrHalt(t *testing.T) {
	for _, tc := range []struct {
		name, point string
		err         error
		halts       bool
	}{
		{"Postgres is not there", "OpenSource", fault.New(fault.PostgresUnreachable, "injected"), false},
		{"the slot is lost", "OpenSource", fault.New(fault.SlotLost, "injected"), true},
		{"the stream is undecodable", "Next", fault.New(fault.WALDecode, "injected"), true},
		{"the stream ends", "Next", fault.New(fault.PostgresLost, "injected"), false},
		{"fenced at the fence", "OpenSink", fault.New(fault.Fenced, "injected"), false},
		{"fenced in a transaction", "Begin", fault.New(fault.Fenced, "injected"), false},
		{"the checkpoint topic has the wrong shape", "OpenSink", fault.New(fault.KafkaTopicShape, "injected"), true},
		{"a setting is wrong", "OpenSink", fault.New(fault.ConfigInvalid, "injected"), true},
		{"somebody else's checkpoint", "ReadBack", fault.New(fault.CheckpointForked, "injected"), true},
		{"no code", "Begin", context.DeadlineExceeded, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
				w.errs[tc.point] = []error{tc.err}
				var last State
				r.OnState = func(s State, _ *fault.Error) { last = s }
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := r.Run(ctx)
				if tc.halts {
					if fault.CodeOf(err) != fault.CodeOf(tc.err) || last != Failed {
						t.Errorf("Run returned %v in state %s", err, last)
					}
					same(t, "confirmed", pglogrepl.LSN(0x100), w.confirmed())
					return
				}
				if err != nil || last != Stopped {
					t.Errorf("Run returned %v in state %s", err, last)
				}
				same(t, "rows", []string{"700/1"}, w.published())
			})
		})
	}
}

// The failure that comes first is the one that counts: that it stops everything
// else must not make it look like a stop. It is a race, so it is run often.
func TestFailureIsNotHidden(t *testing.T) {
	halt := fault.New(fault.CheckpointForked, "injected")
	for _, point := range []string{"OpenSink", "Begin", "ReadBack", "Next"} {
		for range 300 {
			bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
				w.errs[point] = []error{halt}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := r.Run(ctx); !fault.Has(err, fault.CheckpointForked) {
					t.Fatalf("%s failed, and Run returned %v", point, err)
				}
			})
		}
	}
}

func TestStates(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		other := w.relay()
		stopOther := w.start(t, other)
		synctest.Wait()
		var states []State
		var codes []string
		r.OnState = func(s State, cause *fault.Error) {
			states = append(states, s)
			if cause != nil {
				codes = append(codes, cause.Code.Name)
			}
		}
		stop := w.start(t, r)
		synctest.Wait()
		same(t, "states beside a leader", []State{Standby}, states)
		w.mu.Lock()
		w.errs["OpenSink"] = []error{fault.New(fault.KafkaUnreachable, "injected")}
		w.mu.Unlock()
		if err := stopOther(); err != nil {
			t.Error(err)
		}
		settle(time.Second)
		same(t, "states after a takeover with trouble", []State{Standby, Starting, Backoff, Streaming}, states)
		w.mu.Lock()
		w.errs["Begin"] = []error{fault.New(fault.Fenced, "injected")}
		w.mu.Unlock()
		w.grow(transactions(0, 1)[1:]...)
		settle(time.Second)
		if err := stop(); err != nil {
			t.Error(err)
		}
		same(t, "states", []State{Standby, Starting, Backoff, Streaming, Backoff, Starting, Streaming, Stopped}, states)
		same(t, "codes", []string{"kafka_unreachable", "fenced"}, codes)
	})
}

// Failures in a row make the wait grow. Only what was delivered and read back
// makes them a thing of the past: a session that can begin and not commit
// would else hammer both servers.
func TestBackoffGrowsUntilSomethingIsDelivered(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		var attempts []int
		r.Pause = func(n int) time.Duration {
			attempts = append(attempts, n)
			return time.Millisecond
		}
		refused := fault.New(fault.TransactionFailed, "injected")
		w.errs["OpenSource"] = []error{fault.New(fault.PostgresUnreachable, "injected")}
		w.errs["Begin"] = []error{refused, refused, nil, refused}
		stop := w.start(t, r)
		settle(time.Second)
		same(t, "attempts", []int{1, 2, 3}, attempts)
		w.grow(transactions(0, 1)[1:]...)
		settle(time.Second)
		same(t, "attempts", []int{1, 2, 3, 1}, attempts)
		same(t, "rows", []string{"700/1", "701/1"}, w.published())
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestBackoffs(t *testing.T) {
	for n, most := range map[int]time.Duration{0: 1, 1: 1, 2: 2, 3: 4, 4: 8, 5: 10, 6: 10, 1000: 10} {
		for range 100 {
			if d := Backoffs(n); d < most*time.Second/2 || d >= most*time.Second {
				t.Fatalf("wait %s after failure %d", d, n)
			}
		}
	}
}

// While Kafka is away the slot is held, so that Postgres keeps hearing of us;
// another replica may have it at once if one has taken over.
func TestSlotIsHeldWhileKafkaIsAway(t *testing.T) {
	away, fenced := fault.New(fault.KafkaUnreachable, "injected"), fault.New(fault.Fenced, "injected")
	for name, tc := range map[string]struct {
		errs  []error
		taken int // times
	}{
		"a while": {[]error{away, away, away, away}, 1},
		"fenced":  {[]error{fenced}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
				w.errs["OpenSink"] = tc.errs
				stop := w.start(t, r)
				settle(time.Second)
				taken := 0
				for _, c := range w.called() {
					if c == "OpenSource" {
						taken++
					}
				}
				same(t, "times the slot was taken", tc.taken, taken)
				same(t, "rows", []string{"700/1"}, w.published())
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A panic is a bug: it halts under its own name, confirms nothing, and leaves
// neither a producer nor the slot behind.
func TestPanicHalts(t *testing.T) {
	for name, build := range map[string]func(r *Relay){
		"in the translator": func(r *Relay) {
			r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) { return bugTranslator{}, nil }
		},
		"in making it": func(r *Relay) {
			r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) { panic("bug") }
		},
		"in a record that cannot be stamped": func(r *Relay) {
			r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) { return bareTranslator{}, nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
				build(r)
				err := r.Run(t.Context())
				if !fault.Has(err, fault.Panicked) {
					t.Errorf("Run returned %v", err)
				}
				same(t, "confirmed", pglogrepl.LSN(0x100), w.confirmed())
				same(t, "rows", nil, w.published())
				if w.holder != nil {
					t.Error("the slot is still held")
				}
				if calls := w.called(); !contains(calls, "Close") {
					t.Errorf("the sink is still open: %v", calls)
				}
			})
		})
	}
}

func contains(calls []string, call string) bool {
	for _, c := range calls {
		if c == call {
			return true
		}
	}
	return false
}

type bugTranslator struct{}

func (bugTranslator) Translate(context.Context, *replication.Tx, []*kgo.Record) ([]*kgo.Record, uint64, error) {
	panic("bug")
}

// bareTranslator leaves out the header that the checkpoint's number goes to.
type bareTranslator struct{}

func (bareTranslator) Translate(_ context.Context, _ *replication.Tx, dst []*kgo.Record) ([]*kgo.Record, uint64, error) {
	return append(dst, &kgo.Record{}), 0, nil
}

// An accepted gap is written down before the first row that depends on it, and
// serves once.
func TestAcceptedGap(t *testing.T) {
	bubble(t, []int{1, 1}, func(t *testing.T, w *world, r *Relay) {
		w.slot = 0x190 // somebody advanced it past the first transaction
		r.AcceptGap = &Gap{Checkpoint: 0x100, Slot: 0x190}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		same(t, "calls", []string{
			"OpenSource", "OpenSink", "Begin", "Commit 2", "ReadBack 2", "Confirm 0/190", "Resume",
			"Begin", "Add 701/1", "Commit 3", "ReadBack 3", "Confirm 0/290",
		}, w.called())
		var overrides []string
		for _, c := range w.read() {
			overrides = append(overrides, c.ck.Override)
		}
		same(t, "overrides", []string{"", "accept-gap 0/100:0/190", ""}, overrides)
		// The same gap once more, as it cannot be: it is not accepted again.
		w.mu.Lock()
		w.log = append(w.log, committed{ck: checkpoint.Checkpoint{Seq: 9, SessionID: "x", Pos: checkpoint.Position{Timeline: 1, EndLSN: 0x100}, Source: identity}})
		w.slot = 0x190
		w.mu.Unlock()
		w.holder.lose()
		if err := <-done; !fault.Has(err, fault.Gap) {
			t.Errorf("Run returned %v", err)
		}
	})
}
