package main

import (
	"context"
	"time"

	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/guard"
	"github.com/holdwall/outbox-relay/internal/live"
	"github.com/holdwall/outbox-relay/internal/relay"
)

// newGuard looks after the slot on every replica, whatever its relay does.
func (s *service) newGuard() (*guard.Guard, error) {
	src, err := s.sourceConfig(false)
	if err != nil {
		return nil, err
	}
	o := s.cfg.Outbox
	g := guard.New(guard.Config{
		Source: src, Relay: o.Name, Instance: instance(), Version: build().Version, Interval: o.GuardInterval, WarnBytes: int64(o.SlotWarnBytes), Heartbeat: o.HeartbeatInterval,
		Wanted: s.cfg.Kafka.Enabled, Self: s.self, Log: s.log,
	})
	s.reg.MustRegister(g)
	return g, nil
}

// watchSlot runs the guard. A bug in it is no reason to stop the relay.
func (s *service) watchSlot(ctx context.Context) error {
	if err := fault.Guard(func() error { return s.guard.Run(ctx) })(); err != nil {
		s.log.Error().Fields(fault.As(err).Fields()).Err(err).Msg("the slot is not looked after any more")
	}
	return nil
}

// self is what the guard compares with what the server says, and tells in
// outbox.relay_state.
func (s *service) self() guard.Self {
	s.mu.Lock()
	defer s.mu.Unlock()
	me := guard.Self{
		State: string(s.now), Streaming: s.now == relay.Streaming, Halted: s.now == relay.Failed,
		Commits: s.commits.Load(), Last: s.last.Load(),
	}
	switch s.now {
	case relay.Streaming, relay.Paused:
		s.led, me.Leading = true, true
	case relay.Standby, relay.Stopped:
		s.led = false
	default:
		me.Leading = s.led // it will be back, or another one says so
	}
	if s.cause != nil {
		me.Code = s.cause.Code.ID
	}
	return me
}

// heard keeps what the guard tells of the newest Kafka transaction.
func (s *service) heard(c relay.Commit) {
	ck := c.Checkpoint
	s.commits.Add(1)
	s.last.Store(&guard.Last{
		Seq: ck.Seq, LSN: ck.Pos.EndLSN.String(), At: ck.Time, CommitLSN: ck.LastTx.CommitLSN.String(), CommitAt: ck.LastTx.CommitTime,
		Rows: ck.RowsTotal, Letters: ck.LettersTotal,
	})
}

// paused is the switch as the relay asks for it.
func (s *service) paused() (*fault.Error, <-chan struct{}) {
	p, changed := s.guard.Paused()
	if p == nil {
		return nil, changed
	}
	return p.Fault(), changed
}

// guardChecks answer from the guard's newest picture and ask nobody.
func (s *service) guardChecks() map[string]health.Check {
	return map[string]health.Check{
		"postgres": func(context.Context) health.Result { return postgresCheck(s.guard.Latest()) },
		"slot":     func(context.Context) health.Result { return slotCheck(s.guard.Latest()) },
	}
}

// shownSlot is the guard's picture as the status shows it. Numbers that were read
// before the server went away are in the picture, marked as old, and nowhere else.
func shownSlot(v guard.View) live.Slot {
	return live.Slot{
		View: v, Known: v.Reachable && v.Slot.Exists, Server: v.CurrentLSN, Confirmed: v.Slot.ConfirmedFlushLSN,
		Lag: v.Slot.LagBytes, Retained: v.Slot.RetainedBytes,
	}
}

func postgresCheck(v guard.View) health.Result {
	if v.Error != nil {
		// An outage is a warning: a restart of the relay cures nothing.
		return health.Result{Status: health.Warn, Code: v.Error.Code, Hint: v.Error.Fix, Facts: map[string]any{
			"detail": v.Error.Detail, "why": v.Error.Why, "read_at": readAt(v),
		}}
	}
	if !v.Reachable {
		return health.Result{Status: health.Warn, Hint: "not asked yet"}
	}
	return health.Result{Status: health.Pass, Facts: map[string]any{
		"host": v.Host, "server_version": v.ServerVersion, "timeline": v.Timeline, "current_lsn": v.CurrentLSN,
		"clock_skew_seconds": v.ClockSkew, "read_at": readAt(v),
	}}
}

func slotCheck(v guard.View) health.Result {
	if v.TakenAt.IsZero() {
		return health.Result{Status: health.Warn, Hint: "not asked yet"}
	}
	facts := map[string]any{
		"name": v.Slot.Name, "exists": v.Slot.Exists, "active": v.Slot.Active, "wal_status": v.Slot.WALStatus,
		"retained_bytes": v.Slot.RetainedBytes, "lag_bytes": v.Slot.LagBytes, "safe_wal_bytes": v.Slot.SafeWALBytes,
		"limit_bytes": v.Slot.LimitBytes, "seconds_to_loss": v.SecondsToLoss, "read_at": readAt(v),
	}
	worst := v.Worst()
	if worst == nil {
		return health.Result{Status: health.Pass, Facts: facts}
	}
	facts["detail"], facts["why"], facts["findings"] = worst.Detail, worst.Why, v.Findings
	status := health.Warn
	if worst.Severity == guard.Fail {
		status = health.Fail
	}
	return health.Result{Status: status, Code: worst.Code, Hint: worst.Fix, Facts: facts}
}

func readAt(v guard.View) string {
	if v.TakenAt.IsZero() {
		return ""
	}
	return v.TakenAt.UTC().Format(time.RFC3339)
}
