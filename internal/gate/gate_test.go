package gate_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/gate"
	"github.com/holdwall/outbox-relay/test/harness"
)

func newGate(t *testing.T) (*gate.Gate, *harness.Database) {
	t.Helper()
	db := harness.Postgres(t).NewDatabase(t)
	g := &gate.Gate{Slot: db.Slot("relay"), Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, db.URL()) }}
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+g.Slot+"', 'pgoutput')", "CREATE TABLE t (x int)", "INSERT INTO t VALUES (1)")
	return g, db
}

// follow is a relay that catches up now.
func follow(t *testing.T, g *gate.Gate, db *harness.Database) {
	db.Exec(t, "INSERT INTO t VALUES (2)", "SELECT pg_replication_slot_advance('"+g.Slot+"', pg_current_wal_insert_lsn())")
}

func TestGate(t *testing.T) {
	g, db := newGate(t)
	a, err := g.Wait(t.Context(), gate.Now, 20*time.Millisecond, nil)
	if f := fault.As(err); f.Code != fault.WaitTimeout || f.Remedy() != "outbox-relay serve" || a.Reached || a.LeftBytes <= 0 || a.Confirmed == "" {
		t.Errorf("%v %+v", err, a)
	}
	follow(t, g, db)
	looked := 0
	b, err := g.Wait(t.Context(), a.LSN, time.Minute, func(gate.Answer) { looked++ })
	if err != nil || !b.Reached || b.LeftBytes != 0 || looked != 0 {
		t.Errorf("%v %+v", err, b)
	}
	for name, c := range map[string]struct {
		at    pglogrepl.LSN
		err   error
		want  *fault.Code
		kafka string
	}{
		"Kafka has it too":             {1 << 62, nil, nil, ""},
		"Kafka has less than the slot": {1, nil, fault.Gap, ""},
		"Kafka is away":                {0, errors.New("away"), nil, "away"},
	} {
		g.Covered = func(context.Context) (pglogrepl.LSN, error) { return c.at, c.err }
		b, err := g.Wait(t.Context(), a.LSN, time.Minute, nil)
		if (err != nil) != (c.want != nil) || c.want != nil && !fault.Has(err, c.want) || b.Reached != (c.want == nil) || b.Kafka != c.kafka {
			t.Errorf("%s: %v %+v", name, err, b)
		}
	}
	db.Exec(t, "INSERT INTO t VALUES (3)")
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := g.Wait(ctx, "", time.Minute, func(gate.Answer) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("told to stop: %v", err)
	}
	g.Slot = "nobody"
	if _, err := g.Wait(t.Context(), a.LSN, time.Minute, nil); !fault.Has(err, fault.SlotMissing) {
		t.Errorf("no slot: %v", err)
	}
}

func ask(t *testing.T, g http.Handler, query string) (int, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/wait?"+query, nil))
	var body map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("%v: %s", err, w.Body.String())
	}
	return w.Code, body
}

func TestHandler(t *testing.T) {
	g, db := newGate(t)
	h := g.Handler()
	for _, c := range []struct {
		query  string
		status int
		code   string
	}{
		{"timeout=20", 504, "OBX-4350"},
		{"timeout=20ms&lsn=now", 504, "OBX-4350"},
		{"timeout=-1s", 400, "OBX-4351"},
		{"timeout=1h", 400, "OBX-4351"},
		{"timeout=soon", 400, "OBX-4351"},
		{"lsn=FFFFFFFF/0", 400, "OBX-4351"},
		{"lsn=" + url.QueryEscape("0/1'; DROP TABLE t"), 400, "OBX-4351"},
	} {
		if status, body := ask(t, h, c.query); status != c.status || body["code"] != c.code || body["reached"] != false {
			t.Errorf("%s: %d %v", c.query, status, body)
		}
	}
	follow(t, g, db)
	if status, body := ask(t, h, "lsn=0/1"); status != 200 || body["reached"] != true || body["confirmed_lsn"] == "" {
		t.Errorf("%d %v", status, body)
	}
	// As many as may wait hold their seats until they are told to go.
	ctx, cancel := context.WithCancel(t.Context())
	entered := make(chan struct{})
	connect := g.Connect
	g.Connect = func(ctx context.Context) (*pgx.Conn, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return connect(ctx)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/wait", nil))
		})
		<-entered
	}
	if status, _ := ask(t, h, ""); status != http.StatusTooManyRequests {
		t.Errorf("one more: %d", status)
	}
	cancel()
	wg.Wait()
}
