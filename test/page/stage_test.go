// Package page looks at the web page in a browser: Chromium from Debian's
// package, headless. Nearly all of it runs against the real HTTP server with a
// state that the test sets; one test has a real relay behind it.
package page

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/admin"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/live"
	"github.com/holdwall/outbox-relay/internal/page"
	"github.com/holdwall/outbox-relay/internal/relay"
	"github.com/holdwall/outbox-relay/internal/secret"
	"github.com/holdwall/outbox-relay/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const token = "correct-horse-battery-staple"

// stage is a relay without a relay: both listeners, and what they tell is set by
// the test.
type stage struct {
	URL, Admin string
	state      *health.State
	rec        *live.Recorder
	seq, rows  uint64
	letters    uint64

	mu       sync.Mutex
	view     map[string]any // of the slot
	lag      float64
	past     func(age float64) (lag, rows, retained, p50, p99 float64) // the history; nil: that of the feed
	checks   map[string]health.Result
	shelf    []map[string]any // letters
	replayed [][]string
	verbs    []string
	stop     func()
}

// newStage listens; with an empty secret the admin listener has no token.
func newStage(t *testing.T, secretText string) *stage {
	t.Helper()
	s := &stage{state: health.NewState(), rec: live.NewRecorder(), lag: math.NaN(), checks: map[string]health.Result{}}
	s.listen(t, "127.0.0.1:0", secretText)
	return s
}

func (s *stage) listen(t *testing.T, addr, secretText string) {
	t.Helper()
	feed := &live.Feed{
		Recorder: s.rec, State: s.state.Get,
		About: live.About{
			Service: "outbox-relay", Version: "v1.4.0", Instance: "relay-0", Relay: "orders", Fingerprint: "3e7eb234437a", AdminToken: secretText != "",
			Names: live.Names{Slot: "outbox_relay", Publication: "outbox_pub", Table: "outbox.events", Events: "outbox.events", Letters: "outbox.events.dlq", Checkpoint: "outbox.orders.checkpoint"},
		},
		Slot: func() live.Slot {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.view == nil {
				return live.Slot{}
			}
			x := s.view["slot"].(map[string]any)
			n := func(v any) int64 { f, _ := v.(int); return int64(f) }
			exists, _ := x["exists"].(bool)
			reachable, _ := s.view["reachable"].(bool)
			return live.Slot{View: s.view, Known: exists && reachable, Server: fmt.Sprint(s.view["current_lsn"]), Confirmed: fmt.Sprint(x["confirmed_flush_lsn"]), Lag: n(x["lag_bytes"]), Retained: n(x["retained_bytes"])}
		},
		Lag: func() (float64, bool) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.lag, !math.IsNaN(s.lag)
		},
	}
	desk := admin.New(admin.Config{Addr: "127.0.0.1:0", Token: secret.New(secretText)}, zerolog.Nop())
	at, err := desk.Listen()
	if err != nil {
		t.Fatal(err)
	}
	feed.About.Admin, s.Admin = at.String(), "http://"+at.String()
	checks := map[string]health.Check{}
	for _, name := range []string{"postgres", "slot", "lag", "dlq", "kafka"} {
		checks[name] = func(context.Context) health.Result {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.checks[name]
		}
	}
	web := health.New(health.Config{Addr: addr}, health.About{Service: "outbox-relay", Version: "v1.4.0", Instance: "relay-0"}, s.state, checks, nil)
	page.Routes(web.Handle)
	page.AdminRoutes(desk.Open)
	for _, handle := range []func(string, http.Handler){web.Handle, desk.Open} {
		feed.Routes(func(pattern string, h http.Handler) {
			if pattern == "GET /api/history" {
				h = s.history(h)
			}
			handle(pattern, h)
		})
	}
	desk.Open("GET /api/health", web)
	s.desk(desk)
	var got net.Addr
	if got, err = web.Listen(); err != nil {
		t.Fatal(err)
	}
	s.URL = "http://" + got.String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{web.Run, desk.Run, feed.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	s.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(func() { s.stop() })
}

// desk serves letters and verbs as the real one does, from the shelf.
func (s *stage) desk(desk *admin.Server) {
	desk.Guarded("GET /api/dlq", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		all := []map[string]any{}
		for _, l := range s.shelf {
			if want := r.URL.Query().Get("state"); want == "all" || l["state"] == want {
				all = append(all, l)
			}
		}
		admin.Answer(w, map[string]any{"topic": "outbox.events.dlq", "letters": all, "more": false})
	}))
	desk.Verb("/api/dlq/replay", func(_ context.Context, r *http.Request, _ string) (any, error) {
		var asked struct {
			IDs []string `json:"ids"`
		}
		if f := admin.Read(r, &asked); f != nil {
			return nil, f
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.replayed = append(s.replayed, asked.IDs)
		done := 0
		for _, l := range s.shelf {
			for _, id := range asked.IDs {
				if l["id"] == id {
					l["state"] = "replayed"
					done++
				}
			}
		}
		return map[string]any{"action": "replayed", "done": done, "refused": 0, "letters": []any{}}, nil
	})
	for _, verb := range []string{"pause", "resume"} {
		desk.Verb("/api/"+verb, func(_ context.Context, r *http.Request, _ string) (any, error) {
			var asked struct {
				Reason string `json:"reason"`
			}
			if f := admin.Read(r, &asked); f != nil {
				return nil, f
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.verbs = append(s.verbs, verb+" "+asked.Reason)
			s.view["paused"] = verb == "pause"
			return map[string]any{}, nil
		})
	}
}

func (s *stage) history(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		past := s.past
		s.mu.Unlock()
		if past == nil {
			h.ServeHTTP(w, r)
			return
		}
		out := map[string][]any{}
		now := time.Now()
		for age := 899; age >= 1; age-- {
			lag, rows, retained, p50, p99 := past(float64(age))
			for name, v := range map[string]float64{"lag_seconds": lag, "rows_per_second": rows, "retained_bytes": retained, "lag_bytes": retained / 2, "p50_seconds": p50, "p99_seconds": p99} {
				if math.IsNaN(v) {
					out[name] = append(out[name], nil)
				} else {
					out[name] = append(out[name], v)
				}
			}
			out["time_ms"] = append(out["time_ms"], now.Add(-time.Duration(age)*time.Second).UnixMilli())
		}
		_ = json.NewEncoder(w).Encode(out)
	})
}

func (s *stage) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// trouble sets a state with a code.
func (s *stage) trouble(state string, c *fault.Code, format string, args ...any) {
	f := fault.New(c, format, args...)
	s.state.Set(health.Status{
		State: state, Role: map[bool]string{true: "leader"}[state == "halted"], Halted: state == "halted", Breaker: "closed",
		Code: c.ID, Name: c.Name, Detail: f.Error(), Why: f.Reason(), Fix: f.Remedy(), Since: time.Now().Add(-7 * time.Minute),
	})
}

func (s *stage) streaming(since time.Duration) {
	s.state.Set(health.Status{State: "streaming", Role: "leader", Guarantee: "full", Breaker: "closed", Ready: true, Since: time.Now().Add(-since)})
}

// server is a view of a server and a slot that are well.
func server(retained, lag int, limit any) map[string]any {
	return map[string]any{
		"taken_at": time.Now().UTC().Format(time.RFC3339Nano), "reachable": true, "server_version": 170005, "timeline": 1, "current_lsn": "5A/1C44D10",
		"slot": map[string]any{
			"name": "outbox_relay", "exists": true, "active": true, "holder": "PID 4242", "wal_status": "reserved", "restart_lsn": "5A/1A00000", "confirmed_flush_lsn": "5A/1C44A58",
			"retained_bytes": retained, "lag_bytes": lag, "safe_wal_bytes": nil, "limit_bytes": limit, "failover": false, "synced": false,
		},
		"wal_bytes_per_second": 182044.0, "seconds_to_loss": nil, "stray_slots": []any{}, "paused": false, "findings": []any{},
	}
}

// commits lets the recorder hear of n rows a second for the last minute.
func (s *stage) commits(n int, latency time.Duration, total uint64) {
	now := time.Now()
	s.rows = total
	for age := 60; age >= 0; age-- {
		at := now.Add(-time.Duration(age) * time.Second)
		records := make([]*kgo.Record, n)
		for i := range records {
			records[i] = row(age*1000+i, at.Add(-latency))
		}
		took := latency + time.Duration(age%7)*latency/10
		if age%23 == 0 && latency < time.Second {
			took *= 2
		}
		s.commit(at, took, records)
	}
}

// keep goes on committing n rows a second until the stage ends.
func (s *stage) keep(n int, latency time.Duration) {
	stop, was := make(chan struct{}), s.stop
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := 100_000; ; i += n {
			select {
			case <-stop:
				return
			case now := <-tick.C:
				records := make([]*kgo.Record, n)
				for j := range records {
					records[j] = row(i+j, now.Add(-latency))
				}
				s.rows += uint64(n)
				s.commit(now, latency, records)
			}
		}
	}()
	s.stop = sync.OnceFunc(func() { close(stop); <-done; was() })
}

func (s *stage) commit(at time.Time, latency time.Duration, records []*kgo.Record) {
	s.seq++
	s.rec.Commit(relay.Commit{
		Checkpoint: checkpoint.Checkpoint{
			Seq: 88_000 + s.seq, Pos: checkpoint.Position{Timeline: 1, EndLSN: 0x5A01C44A58}, Time: at, RowsTotal: s.rows, LettersTotal: s.letters,
			LastTx: checkpoint.Transaction{CommitLSN: pglogrepl.LSN(0x5A01C44A00), CommitTime: at.Add(-latency)},
		},
		Records: records, Oldest: at.Add(-latency), Began: at, Ended: at,
	})
}

func row(n int, at time.Time) *kgo.Record {
	kinds := [][2]string{{"order", "OrderPlaced"}, {"payment", "PaymentCaptured"}, {"order", "OrderShipped"}, {"stock", "StockReserved"}}
	k := kinds[n%len(kinds)]
	return record(fmt.Sprintf("0198c0de-7a53-7b4e-9d4e-%012d", n), k[0], k[1], "outbox.events", n, at)
}

func record(id, aggregate, kind, topic string, n int, at time.Time) *kgo.Record {
	return &kgo.Record{
		Topic: topic, Partition: int32(n % 6), Offset: int64(2_481_000 + n), Key: []byte("k"), Value: []byte(`{"total":12.5}`),
		Headers: []kgo.RecordHeader{
			{Key: "id", Value: []byte(id)},
			{Key: "type", Value: []byte(kind)},
			{Key: "aggregatetype", Value: []byte(aggregate)},
			{Key: "outbox.lsn", Value: []byte("5A/1C44A00")},
			{Key: "outbox.commit_ts", Value: []byte(at.UTC().Format("2006-01-02T15:04:05.000000Z07:00"))},
		},
	}
}
