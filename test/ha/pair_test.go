package ha

import (
	"context"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// standbyName is the application name of the standby, and its slot.
const standbyName = "standby_a"

// pair is a primary and its hot standby, and a relay that knows both.
type pair struct {
	r                *rig.Rig
	primary, standby *harness.PostgresServer
}

// newPair starts both, of one major version; 0 is whichever is installed.
func newPair(t *testing.T, version int, settings map[string]string) *pair {
	t.Helper()
	rig.Real(t)
	p := &pair{primary: harness.NewPostgres(t, harness.PostgresConfig{Version: version, Settings: settings})}
	p.standby = harness.NewStandby(t, p.primary, standbyName, nil)
	p.r = rig.New(t, rig.Config{Postgres: p.primary, Standbys: []*harness.PostgresServer{p.standby}})
	p.r.Init(t)
	return p
}

// judge watches the run. The slot of its oracle is never confirmed, so it is
// moved to where the standby can copy it before anything is written.
func (p *pair) judge(t *testing.T) *rig.Judge {
	t.Helper()
	judge := p.r.Judge(t)
	oracle := p.r.Database.Slot("oracle")
	p.awaitSynced(t, oracle, `SELECT pg_replication_slot_advance('`+oracle+`', pg_current_wal_lsn())`)
	return judge
}

// awaitSynced returns when the standby has a copy of the slot that survives a
// promotion. It becomes one when the primary's slot has passed the oldest
// catalog that the standby has, which it does behind a record of the running
// transactions; the server writes one every 15 s.
func (p *pair) awaitSynced(t *testing.T, slot string, move ...string) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); ; {
		p.r.Database.Exec(t, append([]string{`SELECT pg_log_standby_snapshot()`}, move...)...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		// An idle worker sleeps up to 30 s; a reload wakes it.
		err := p.standby.AwaitSQL(ctx, "", `SELECT (synced AND NOT temporary)::text FROM pg_replication_slots, pg_reload_conf() WHERE slot_name = '`+slot+`'`, "true")
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// promote makes the standby the primary.
func (p *pair) promote(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.standby.Promote(ctx); err != nil {
		t.Fatal(err)
	}
}
