package live

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 11, 23, 10, 15, 0, 0, time.UTC)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time          { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) advance(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.t = c.t.Add(d) }

func event(n int) *kgo.Record {
	return &kgo.Record{
		Topic: "outbox.events", Partition: int32(n % 3), Offset: int64(n), Key: []byte("private-key"), Value: []byte(`{"card":"private-payload"}`),
		Headers: []kgo.RecordHeader{
			{Key: "id", Value: fmt.Appendf(nil, "id-%d", n)},
			{Key: "type", Value: []byte("Created")},
			{Key: "aggregatetype", Value: []byte("order")},
			{Key: "aggregateid", Value: []byte("private-customer")},
			{Key: "mine", Value: []byte("private-header")},
			{Key: "outbox.lsn", Value: []byte("0/1A2B3C8")},
			{Key: "outbox.commit_ts", Value: []byte("2026-11-23T10:15:00.000000Z")},
		},
	}
}

func letter(n int) *kgo.Record {
	r := event(n)
	r.Topic = "outbox.events.dlq"
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: "outbox.dlq.reason", Value: []byte("too_large")}, kgo.RecordHeader{Key: "outbox.ckpt"})
	return r
}

func commit(at time.Time, took time.Duration, records ...*kgo.Record) relay.Commit {
	return relay.Commit{
		Checkpoint: checkpoint.Checkpoint{
			Seq: 7, Pos: checkpoint.Position{Timeline: 2, EndLSN: 0x1A2B3C8}, Time: at, RowsTotal: 1000, LettersTotal: 3,
			LastTx: checkpoint.Transaction{CommitLSN: 0x1A2B300, CommitTime: at.Add(-took)}, Parked: []checkpoint.ParkedKey{{Hash: "x"}},
		},
		Records: records, Oldest: at.Add(-took), Began: at, Ended: at,
	}
}

func TestRecentIsTheLastEventsAndNothingPrivate(t *testing.T) {
	t.Parallel()
	c := &clock{t: start}
	r := newRecorder(c.now)
	if all := r.Recent(); all == nil || len(all) != 0 {
		t.Errorf("before the first event: %#v", all)
	}
	big := make([]*kgo.Record, 120)
	for i := range big {
		big[i] = event(i)
	}
	r.Commit(commit(start, time.Second, big...))
	r.Commit(commit(start, time.Second, event(1000), letter(1001)))
	all := r.Recent()
	if len(all) != Events {
		t.Fatalf("%d events", len(all))
	}
	if all[0].ID != "id-1001" || all[0].LetterReason != "too_large" || all[0].Topic != "outbox.events.dlq" {
		t.Errorf("the newest is %+v", all[0])
	}
	if all[1].ID != "id-1000" || all[1].LetterReason != "" || all[1].Offset != 1000 || all[1].Partition != 1 || all[1].CommitLSN != "0/1A2B3C8" {
		t.Errorf("the one before is %+v", all[1])
	}
	if all[2].ID != "id-119" || all[49].ID != "id-72" {
		t.Errorf("then %s to %s", all[2].ID, all[49].ID)
	}
	text, _ := json.Marshal(all)
	if strings.Contains(string(text), "private") {
		t.Errorf("something private is shown: %s", text)
	}
}

func TestTextsAreCutAndTheirBuffersUsedAgain(t *testing.T) {
	c := &clock{t: start}
	r := newRecorder(c.now)
	e := event(1)
	e.Headers[1].Value = []byte(strings.Repeat("é", 1<<20))
	r.Commit(commit(start, 0, e))
	if n := len(r.Recent()[0].Type); n > maxText {
		t.Errorf("%d bytes are kept", n)
	}
	many := []*kgo.Record{event(1), event(2), event(3)}
	for range Events {
		r.Commit(commit(start, 0, many...)) // warm
	}
	ck := commit(start, time.Millisecond, many...)
	if n := testing.AllocsPerRun(100, func() { r.Commit(ck) }); n > 0 {
		t.Errorf("%v allocations for a commit", n)
	}
}

func TestRatesAndLatencySlide(t *testing.T) {
	t.Parallel()
	c := &clock{t: start}
	r := newRecorder(c.now)
	f := &Feed{Recorder: r, State: func() health.Status { return health.Status{} }}
	if s := f.status(); s.Rates.Rows != 0 || s.Latency.P50 != nil {
		t.Errorf("before the first commit: %+v %+v", s.Rates, s.Latency)
	}
	for range 20 {
		r.Commit(commit(c.now(), 10*time.Millisecond, event(1), event(2)))
		r.Commit(commit(c.now(), 200*time.Millisecond, event(3)))
		r.Commit(commit(c.now(), 0)) // a heartbeat has no latency
		c.advance(time.Second)
	}
	s := f.status()
	if s.Rates.Rows != 3 || s.Rates.Transactions != 3 || s.Rates.Bytes <= 0 {
		t.Errorf("rates are %+v, want 3 rows and 3 transactions", s.Rates)
	}
	near := func(got *float64, want float64) bool { return got != nil && math.Abs(*got-want) <= 0.07*want }
	if !near(s.Latency.P50, 0.2) && !near(s.Latency.P50, 0.01) || !near(s.Latency.P99, 0.2) {
		t.Errorf("latency is %v and %v", *s.Latency.P50, *s.Latency.P99)
	}
	c.advance(11 * time.Second)
	if s := f.status(); s.Rates.Rows != 0 || s.Latency.P50 == nil {
		t.Errorf("11 s later: %+v %+v", s.Rates, s.Latency)
	}
	c.advance(time.Minute)
	if s := f.status(); s.Latency.P50 != nil {
		t.Errorf("a minute later: %v", *s.Latency.P50)
	}
}

// The histogram against the sorted values.
func TestQuantilesAreNear(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var h histogram
		all := make([]float64, 1+rng.IntN(500))
		for i := range all {
			d := time.Duration(math.Exp(rng.Float64()*25)) * time.Microsecond // to 20 hours
			all[i] = d.Seconds()
			h.add(d)
		}
		slices.Sort(all)
		for _, q := range []float64{0.5, 0.95, 0.99} {
			want, got := all[min(int(q*float64(len(all))), len(all)-1)], *h.quantile(q)
			if math.Abs(got-want) > 0.07*want+1e-6 {
				t.Errorf("q%v of %d is %v, want %v", q, len(all), got, want)
			}
		}
	}
	var h histogram
	h.add(-time.Second)
	h.add(math.MaxInt64)
	if h.quantile(0) == nil || h.quantile(1) == nil {
		t.Error("odd values are lost")
	}
}

func feed(c *clock) *Feed {
	bytes := int64(4096)
	return &Feed{
		Recorder: newRecorder(c.now),
		State: func() health.Status {
			return health.Status{State: "halted", Role: "leader", Halted: true, Code: "OBX-4008", Name: "gap", Fix: "serve --accept-gap <checkpoint>:<slot>", Since: start}
		},
		About: About{Service: "outbox-relay", Version: "1.4.0", Instance: "relay-0", Relay: "orders", Fingerprint: "abc", Admin: "127.0.0.1:8081"},
		Slot: func() Slot {
			return Slot{View: map[string]any{"reachable": true}, Known: true, Server: "0/2", Confirmed: "0/1", Lag: bytes, Retained: 2 * bytes}
		},
		Lag: func() (float64, bool) { return 1.5, true },
	}
}

func TestStatusHasItsKeys(t *testing.T) {
	t.Parallel()
	c := &clock{t: start}
	f := feed(c)
	f.Recorder.Commit(commit(start, 10*time.Millisecond, event(1)))
	c.advance(2 * time.Second)
	mux := http.NewServeMux()
	f.Routes(mux.Handle)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/status", nil))
	var s map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %v: %s", w.Code, err, w.Body)
	}
	for _, key := range strings.Fields("service version instance relay role state since guarantee breaker time uptime_seconds config_fingerprint trouble positions totals rates latency lag slot names admin") {
		if _, ok := s[key]; !ok {
			t.Errorf("no %s in %s", key, w.Body)
		}
	}
	if s["uptime_seconds"] != 2.0 || s["lag"].(map[string]any)["seconds"] != 1.5 || s["lag"].(map[string]any)["bytes"] != 4096.0 {
		t.Errorf("%s", w.Body)
	}
	p := s["positions"].(map[string]any)
	if p["checkpoint_lsn"] != "0/1A2B3C8" || p["checkpoint_seq"] != 7.0 || p["timeline"] != 2.0 || p["server_lsn"] != "0/2" || p["last_commit_lsn"] != "0/1A2B300" {
		t.Errorf("positions %v", p)
	}
	if !strings.Contains(w.Body.String(), "--accept-gap <checkpoint>:<slot>") {
		t.Errorf("a fix cannot be copied: %s", w.Body)
	}
}

func TestOpenedTellsThePositionBeforeTheFirstCommit(t *testing.T) {
	t.Parallel()
	r := NewRecorder()
	r.Opened(nil)
	if _, _, _, known := r.Letters(); known {
		t.Error("known without a checkpoint")
	}
	r.Opened(&checkpoint.Checkpoint{Seq: 3, Pos: checkpoint.Position{Timeline: 1, EndLSN: pglogrepl.LSN(16)}, LettersTotal: 5})
	if total, _, newest, known := r.Letters(); !known || total != 5 || !newest.IsZero() {
		t.Errorf("%d letters, newest %s, known %t", total, newest, known)
	}
}

func TestHistoryHasNullsAndOneLength(t *testing.T) {
	t.Parallel()
	c := &clock{t: start}
	f := feed(c)
	for range historySeconds + 10 {
		f.tick()
		c.advance(time.Second)
	}
	mux := http.NewServeMux()
	f.Routes(mux.Handle)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/history", nil))
	var h map[string][]*float64
	if err := json.Unmarshal(w.Body.Bytes(), &h); err != nil {
		t.Fatalf("%v: %.300s", err, w.Body)
	}
	for name, col := range h {
		if len(col) != historySeconds {
			t.Errorf("%s has %d", name, len(col))
		}
	}
	if h["p50_seconds"][0] != nil || *h["lag_seconds"][0] != 1.5 || *h["time_ms"][0] != float64(start.Add(10*time.Second).UnixMilli()) {
		t.Errorf("%.300s", w.Body)
	}
}

func TestStreamSendsTheNewestAndEndsWithTheFeed(t *testing.T) {
	t.Parallel()
	f := feed(&clock{t: start})
	f.Clients = 2
	mux := http.NewServeMux()
	f.Routes(mux.Handle)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()

	open := func() *http.Response {
		t.Helper()
		resp, err := http.Get(srv.URL + "/api/events")
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	first, second := open(), open()
	defer first.Body.Close()
	defer second.Body.Close()
	third := open()
	third.Body.Close()
	if third.StatusCode != http.StatusServiceUnavailable || third.Header.Get("Retry-After") == "" {
		t.Errorf("one too many is answered with %d", third.StatusCode)
	}
	lines := bufio.NewScanner(first.Body)
	lines.Buffer(nil, 1<<20)
	statuses := 0
	for statuses < 2 && lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			statuses++
			if !json.Valid([]byte(data)) {
				t.Errorf("no JSON: %s", data)
			}
		}
	}
	if statuses != 2 || first.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%d statuses, %s", statuses, first.Header)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, second.Body); err != nil {
		t.Errorf("the stream ends with %v", err)
	}
	late := open()
	late.Body.Close()
	if late.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after the end: %d", late.StatusCode)
	}
	http.DefaultClient.CloseIdleConnections()
}

// A client that does not read costs the others nothing, and gets the newest.
func TestSlowListenerGetsTheNewest(t *testing.T) {
	t.Parallel()
	c := &clock{t: start}
	f := feed(c)
	slow, _, ok := f.listen()
	if !ok {
		t.Fatal("not let in")
	}
	for range 5 {
		f.tick()
		c.advance(time.Second)
	}
	var s Status
	if err := json.Unmarshal(<-slow, &s); err != nil || s.Time != stamp(start.Add(4*time.Second)) {
		t.Errorf("got the status of %s (%v)", s.Time, err)
	}
	f.leave(slow)
	f.end()
}

func TestUnderRace(t *testing.T) {
	t.Parallel()
	f := feed(&clock{t: start})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for i := range 50 {
				f.Recorder.Commit(commit(start, time.Second, event(i), letter(i)))
				f.tick()
				f.status()
				f.Recorder.Recent()
			}
		})
	}
	wg.Wait()
}
