package slots

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// Slot is a slot as it is shown; its keys are stable. Sizes are in bytes.
type Slot struct {
	Name          string `json:"name"`
	Database      string `json:"database"`
	Plugin        string `json:"plugin"`
	Active        bool   `json:"active"`
	Holder        string `json:"holder,omitempty"`
	WALStatus     string `json:"wal_status"`
	Invalidation  string `json:"invalidation_reason,omitempty"`
	RestartLSN    string `json:"restart_lsn"`
	ConfirmedLSN  string `json:"confirmed_flush_lsn"`
	CurrentLSN    string `json:"current_lsn"`
	RetainedBytes int64  `json:"retained_bytes"`
	LagBytes      int64  `json:"lag_bytes"`
	SafeBytes     *int64 `json:"safe_wal_bytes,omitempty"`
	Failover      bool   `json:"failover"`
}

// SlotOf shows what was read of a slot.
func SlotOf(s replication.Slot) Slot {
	v := Slot{
		Name: s.Name, Database: s.Database, Plugin: s.Plugin, Active: s.Active, WALStatus: s.WALStatus, Invalidation: s.Invalidation,
		RestartLSN: s.RestartLSN.String(), ConfirmedLSN: s.ConfirmedLSN.String(), CurrentLSN: s.CurrentLSN.String(),
		LagBytes: s.LagBytes(), Failover: s.Failover,
	}
	if s.RestartLSN > 0 {
		v.RetainedBytes = s.RetainedBytes()
	}
	if s.SafeBytes >= 0 {
		v.SafeBytes = &s.SafeBytes
	}
	return v
}

// View is a slot and what follows from it; its keys are stable.
type View struct {
	Slot
	// LimitBytes is max_slot_wal_keep_size; nil: none.
	LimitBytes *int64 `json:"limit_bytes"`
	// Rate is how fast the server wrote WAL while it was watched, AverageRate
	// since its statistics began.
	Rate        float64  `json:"wal_bytes_per_second"`
	AverageRate *float64 `json:"wal_bytes_per_second_average"`
	// LagSeconds is the age of the relay's newest checkpoint while there is
	// something that it does not cover, 0 if there is nothing; nil: not known.
	LagSeconds *float64 `json:"lag_seconds"`
	// Checkpoint is how far Kafka says that the relay has come.
	Checkpoint      string   `json:"checkpoint,omitempty"`
	CheckpointError string   `json:"checkpoint_error,omitempty"`
	Outlook         Outlook  `json:"outlook"`
	SQL             []string `json:"sql"`

	// Moved tells whether the position changed while it was watched.
	Moved bool `json:"moved"`
	// IdleSince is since when nobody holds it, from Postgres 17 on.
	IdleSince *time.Time `json:"inactive_since,omitempty"`
	// IdleLimit is idle_replication_slot_timeout, from Postgres 18 on.
	IdleLimit time.Duration `json:"-"`
}

// Desk is where slots are looked at and changed. It is used by one goroutine.
type Desk struct {
	Conn        *pgx.Conn
	Slot        string // of the relay
	Publication string
	Identity    replication.Identity
	// Ask asks Kafka how far the relay has come.
	Ask Asking
}

// Inspect looks at a slot twice, the given time apart.
func (d *Desk) Inspect(ctx context.Context, name string, watch time.Duration) (View, error) {
	first, err := d.read(ctx, name)
	if err != nil {
		return View{}, err
	}
	began := time.Now()
	stand := d.standing(ctx, name)
	v := View{SQL: []string{InspectSQL(name), HolderSQL(name), LimitSQL}}
	if err := d.limits(ctx, name, &v); err != nil {
		return View{}, err
	}
	select {
	case <-time.After(watch - time.Since(began)):
	case <-ctx.Done():
		return View{}, context.Cause(ctx)
	}
	last, err := d.read(ctx, name)
	if err != nil {
		return View{}, err
	}
	v.Rate = float64(last.CurrentLSN-first.CurrentLSN) / time.Since(began).Seconds()
	v.Moved = last.ConfirmedLSN != first.ConfirmedLSN
	v.Slot = SlotOf(last)
	if last.Active {
		v.Holder = replication.WhoHolds(ctx, d.Conn, last.ActivePID).String()
	}
	v.lag(stand, last)
	v.Outlook = v.outlook(name == d.Slot)
	return v, nil
}

// lag says how old the relay's position is.
func (v *View) lag(stand Standing, s replication.Slot) {
	c := stand.Checkpoint
	switch {
	case c != nil:
		v.Checkpoint = c.Pos.String()
		lag := max(0, time.Since(c.Time).Seconds())
		if c.Pos.EndLSN >= s.CurrentLSN {
			lag = 0
		}
		v.LagSeconds = &lag
	case !stand.Known:
		v.CheckpointError = stand.Why
	}
}

func (d *Desk) read(ctx context.Context, name string) (replication.Slot, error) {
	s, err := replication.Inspect(ctx, d.Conn, name)
	if errors.Is(err, replication.ErrNoSlot) {
		return s, fault.New(fault.SlotMissing, "slot %s of %s", name, d.Identity.Database).
			WithWhy("there is no slot of this name").
			WithFix("outbox-relay slot list; outbox-relay init, if this relay is new")
	}
	return s, classify(err, "inspect slot "+name)
}

// limits reads what bounds the slot.
func (d *Desk) limits(ctx context.Context, name string, v *View) error {
	var keep int64
	var wal, seconds *float64
	err := d.Conn.QueryRow(ctx, `SELECT keep_mib, wal_bytes::float8, seconds::float8 FROM (`+LimitSQL+`) t`).Scan(&keep, &wal, &seconds)
	if err != nil {
		return classify(err, "read limits of WAL")
	}
	if keep >= 0 {
		keep <<= 20
		v.LimitBytes = &keep
	}
	if wal != nil && seconds != nil && *seconds > 1 {
		average := *wal / *seconds
		v.AverageRate = &average
	}
	var idle *int64
	err = d.Conn.QueryRow(ctx, `SELECT (to_jsonb(s)->>'inactive_since')::timestamptz,
	    (SELECT setting::bigint * CASE unit WHEN 'min' THEN 60 WHEN 'ms' THEN 0 ELSE 1 END FROM pg_settings WHERE name = 'idle_replication_slot_timeout')
	   FROM pg_replication_slots s WHERE slot_name = $1`, name).Scan(&v.IdleSince, &idle)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // it went a moment ago, which the next look says
	}
	if idle != nil {
		v.IdleLimit = time.Duration(*idle) * time.Second
	}
	return classify(err, "read limits of slot "+name)
}

// List reads every logical slot.
func (d *Desk) List(ctx context.Context) ([]Slot, error) {
	all, err := replication.Slots(ctx, d.Conn)
	if err != nil {
		return nil, classify(err, "list slots")
	}
	views := make([]Slot, len(all))
	for i, s := range all {
		views[i] = SlotOf(s)
	}
	return views, nil
}
