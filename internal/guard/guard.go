package guard

import (
	"context"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// Config is what the guard looks at and when it warns.
type Config struct {
	// Source says which database, slot and table; all hosts are tried.
	Source replication.Config
	// Relay is the relay's name, Instance and Version those of this process.
	Relay, Instance, Version string
	// Interval between two looks.
	Interval time.Duration
	// WarnBytes is the retained WAL to warn at where max_slot_wal_keep_size
	// sets no limit. With a limit it is half of that.
	WarnBytes int64
	// Heartbeat is how often the relay moves an idle slot.
	Heartbeat time.Duration
	// Wanted tells whether there is to be a slot at all: a relay without Kafka
	// holds none.
	Wanted bool
	// Self is asked at each look what the relay of this process is doing. nil:
	// nothing.
	Self func() Self
	Log  zerolog.Logger
}

// Self is what the relay of this process does, for comparison with what the
// server says.
type Self struct {
	State     string
	Code      string // what is the matter; "": nothing
	Streaming bool   // it claims to read the slot
	Leading   bool   // it is this one's to say how the relay is
	Halted    bool
	Commits   uint64 // grows with each Kafka transaction that was read back
	Last      *Last  // nil: none yet
}

// Last is the newest checkpoint of this process.
type Last struct {
	Seq           uint64
	LSN           string
	At            time.Time
	CommitLSN     string    // of the newest transaction with rows
	CommitAt      time.Time // zero: there was none
	Rows, Letters uint64    // in all
}

// Guard looks after a slot. Run is called once; Latest from any goroutine.
type Guard struct {
	cfg  Config
	view atomic.Pointer[View]

	srv      *replication.Server // nil: not connected
	forecast forecast
	history  history
	surface  surface
	shown    map[string]Finding // what the log knows of
	down     bool               // the log knows that the server cannot be asked

	pause pausing
	asked chan chan struct{} // for a look before its time
}

// New returns a guard that has seen nothing yet.
func New(cfg Config) *Guard {
	g := &Guard{cfg: cfg, shown: map[string]Finding{}, asked: make(chan chan struct{}), pause: pausing{changed: make(chan struct{})}}
	g.view.Store(&View{Slot: Slot{Name: cfg.Source.Slot}, StraySlots: []Stray{}, Findings: []Finding{}})
	return g
}

// Latest returns the newest picture, with the pause as it is now.
func (g *Guard) Latest() View {
	v := *g.view.Load()
	v.Paused, v.PausedBy, v.PausedReason, v.PausedSince = false, "", "", nil
	if p, _ := g.pause.now(); p != nil {
		v.Paused, v.PausedBy, v.PausedReason, v.PausedSince = true, p.By, p.Reason, &p.Since
	}
	return v
}

// minPatience bounds one look, connecting included. A server under load may
// take its time, and a look that is given up costs it a connection.
const minPatience = 5 * time.Second

// Run looks until ctx ends. It returns nil: that the server cannot be asked is
// part of the picture.
func (g *Guard) Run(ctx context.Context) error {
	defer g.disconnect()
	t := time.NewTicker(g.cfg.Interval)
	defer t.Stop()
	var asked chan struct{}
	for {
		g.look(ctx)
		if asked != nil {
			close(asked)
		}
		select {
		case <-t.C:
			asked = nil
		case asked = <-g.asked:
		case <-ctx.Done():
			return nil
		}
	}
}

// Look has Run look now and returns when it has, or when ctx ends. Who begins to
// read the slot asks this first, so that a pause is known before the first row.
func (g *Guard) Look(ctx context.Context) {
	done := make(chan struct{})
	select {
	case g.asked <- done:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// look takes one picture.
func (g *Guard) look(ctx context.Context) {
	tctx, cancel := context.WithTimeout(ctx, max(minPatience, g.cfg.Interval))
	defer cancel()
	r, err := g.ask(tctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		g.disconnect()
		g.unreachable(err)
		return
	}
	if g.down {
		g.down = false
		g.cfg.Log.Info().Str("host", r.host).Msg("guard is back")
	}
	self := g.self()
	g.tend(tctx, g.srv.Conn(), r.at, self)
	v := g.picture(r, self)
	g.view.Store(&v)
	g.tell(v)
}

func (g *Guard) ask(ctx context.Context) (reading, error) {
	if g.srv == nil {
		if err := g.connect(ctx); err != nil {
			return reading{}, err
		}
	}
	r, err := read(ctx, g.srv.Conn(), g.cfg.Source.Slot)
	if err != nil {
		return r, replication.Classify(err, "ask %s", g.srv.Describe())
	}
	r.host = g.srv.Describe()
	return r, nil
}

// The server gives up by itself what we have given up: a look must not queue
// behind another one.
const sessionSQL = `SET statement_timeout = '4s'; SET lock_timeout = '2s'; SET idle_in_transaction_session_timeout = '10s'; SET application_name = '%s'`

func (g *Guard) connect(ctx context.Context) error {
	srv, err := replication.Connect(ctx, g.cfg.Source)
	if err != nil {
		return err
	}
	// A slot name has neither quotes nor backslashes.
	if _, err := srv.Conn().PgConn().Exec(ctx, fmt.Sprintf(sessionSQL, "outbox-relay "+g.cfg.Source.Slot+" guard")).ReadAll(); err != nil {
		srv.Close()
		return replication.Classify(err, "prepare session on %s", srv.Describe())
	}
	g.srv = srv
	return nil
}

func (g *Guard) disconnect() {
	if g.srv != nil {
		g.srv.Close()
		g.srv = nil
	}
}

// unreachable keeps what was read last, and says since when it is old.
func (g *Guard) unreachable(err error) {
	v := g.Latest()
	v.Reachable, v.Error = false, trouble(err)
	v.InRecovery = fault.Has(err, fault.PostgresStandby)
	g.view.Store(&v)
	if !g.down {
		g.down = true
		g.cfg.Log.Warn().Fields(fault.As(err).Fields()).Err(err).Msg("guard cannot ask Postgres")
	}
}

func (g *Guard) self() Self {
	if g.cfg.Self == nil {
		return Self{}
	}
	return g.cfg.Self()
}

// picture makes of a reading what is shown.
func (g *Guard) picture(r reading, self Self) View {
	g.forecast.add(sample{at: r.at, timeline: r.timeline, current: r.slot.CurrentLSN, restart: r.slot.RestartLSN, active: r.slot.Active})
	g.history.add(r, self)
	v := View{
		TakenAt: r.at, Reachable: true, Host: r.host, ServerVersion: r.version, Timeline: r.timeline,
		CurrentLSN: r.slot.CurrentLSN.String(), ClockSkew: r.skew.Seconds(),
		Slot: Slot{Name: g.cfg.Source.Slot}, WALBytesPerSecond: g.forecast.rate,
		StraySlots: g.history.strays(r, g.cfg.Source),
	}
	if r.exists {
		v.Slot = slotOf(r.slot, r.limit)
		v.Slot.Holder = r.holder
		v.SecondsToLoss = g.secondsToLoss(r)
	}
	v.Stalled = g.history.stalled(r, self, g.cfg.Heartbeat)
	v.Findings = g.judge(r, v)
	return v
}

// secondsToLoss is the nearer of the two ends that a slot can come to: its WAL
// is used up, or (PG 18) it was idle for too long.
func (g *Guard) secondsToLoss(r reading) *float64 {
	if r.slot.Lost() {
		return nil
	}
	var end *float64
	if r.slot.SafeBytes >= 0 {
		if s, ok := g.forecast.secondsToLoss(r.slot.SafeBytes); ok {
			end = &s
		}
	}
	if r.idleTimeout > 0 && !r.slot.Active && !r.slot.Inactive.IsZero() {
		s := max(0, r.idleTimeout-r.at.Add(r.skew).Sub(r.slot.Inactive)).Seconds()
		if end == nil || s < *end {
			end = &s
		}
	}
	return end
}

// tell logs what has changed since the last look.
func (g *Guard) tell(v View) {
	now := map[string]Finding{}
	for _, f := range v.Findings {
		key := f.Code + " " + f.about
		now[key] = f
		if was, known := g.shown[key]; known && was.Severity == f.Severity {
			continue
		}
		line := g.cfg.Log.Warn()
		if f.Severity == Fail {
			line = g.cfg.Log.Error()
		}
		line.Str("code", f.Code).Str("name", f.Name).Str("why", f.Why).Str("hint", f.Fix).Msg(f.Detail)
	}
	for key, f := range maps.All(g.shown) {
		if _, still := now[key]; !still {
			g.cfg.Log.Info().Str("code", f.Code).Str("name", f.Name).Str("was", f.Detail).Msg("over")
		}
	}
	g.shown = now
}
