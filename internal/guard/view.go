package guard

import (
	"slices"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// View is one picture of the server and the slot; its JSON keys are stable.
// After a look that failed it holds what was read last, at TakenAt, with
// Reachable false and the Error. A View is not changed once it is shown.
type View struct {
	TakenAt       time.Time `json:"taken_at"` // zero: nothing was read yet
	Reachable     bool      `json:"reachable"`
	Error         *Trouble  `json:"error,omitempty"` // why the last look failed
	Host          string    `json:"host,omitempty"`  // host, port and database
	ServerVersion int       `json:"server_version"`  // server_version_num
	InRecovery    bool      `json:"in_recovery"`     // no host is a primary
	Timeline      int32     `json:"timeline"`
	CurrentLSN    string    `json:"current_lsn"`
	ClockSkew     float64   `json:"clock_skew_seconds"` // database minus relay, less what the answer took

	Slot              Slot     `json:"slot"`
	WALBytesPerSecond float64  `json:"wal_bytes_per_second"` // of the whole server, smoothed over a minute
	SecondsToLoss     *float64 `json:"seconds_to_loss"`      // nil: no limit, or the slot keeps up
	Stalled           bool     `json:"stalled"`              // see OBX-4204
	StraySlots        []Stray  `json:"stray_slots"`

	Paused       bool       `json:"paused"`
	PausedBy     string     `json:"paused_by,omitempty"`
	PausedReason string     `json:"paused_reason,omitempty"`
	PausedSince  *time.Time `json:"paused_since,omitempty"`

	Findings []Finding `json:"findings"` // the worst first
}

// Slot is the relay's slot. What the server's version does not tell is absent.
type Slot struct {
	Name               string     `json:"name"`
	Exists             bool       `json:"exists"`
	Active             bool       `json:"active"`
	Holder             string     `json:"holder,omitempty"`
	WALStatus          string     `json:"wal_status"` // reserved, extended, unreserved, lost
	InvalidationReason string     `json:"invalidation_reason,omitempty"`
	RestartLSN         string     `json:"restart_lsn"`
	ConfirmedFlushLSN  string     `json:"confirmed_flush_lsn"`
	RetainedBytes      int64      `json:"retained_bytes"`
	LagBytes           int64      `json:"lag_bytes"`
	SafeWALBytes       *int64     `json:"safe_wal_bytes"` // nil: no limit
	LimitBytes         *int64     `json:"limit_bytes"`    // max_slot_wal_keep_size; nil: none
	Failover           bool       `json:"failover"`
	Synced             bool       `json:"synced"`
	InactiveSince      *time.Time `json:"inactive_since,omitempty"`
}

// Stray is a slot that this relay seems to have left behind.
type Stray struct {
	Name          string `json:"name"`
	RetainedBytes int64  `json:"retained_bytes"`
}

// Trouble is a failure as it is shown.
type Trouble struct {
	Code   string `json:"code"`
	Name   string `json:"name"`
	Detail string `json:"detail"`
	Why    string `json:"why"`
	Fix    string `json:"fix"`
}

// Severity of a finding.
type Severity string

// The severities. Fail: events are lost, or will be within minutes.
const (
	Warn Severity = "warn"
	Fail Severity = "fail"
)

// Finding is something that a person should know of or act on.
type Finding struct {
	Code     string   `json:"code"`
	Name     string   `json:"name"`
	Severity Severity `json:"severity"`
	Detail   string   `json:"detail"`
	Why      string   `json:"why"`
	Fix      string   `json:"fix"`

	about string // which of several findings of one code: the name of a slot
}

func finding(s Severity, f *fault.Error) Finding {
	return Finding{Code: f.Code.ID, Name: f.Code.Name, Severity: s, Detail: f.Detail, Why: f.Reason(), Fix: f.Remedy()}
}

func trouble(err error) *Trouble {
	f := fault.As(err)
	detail := strings.TrimPrefix(f.Error(), f.Code.ID+" ")
	return &Trouble{Code: f.Code.ID, Name: f.Code.Name, Detail: detail, Why: f.Reason(), Fix: f.Remedy()}
}

// Worst returns the first finding of the highest severity, or nil.
func (v View) Worst() *Finding {
	if len(v.Findings) == 0 {
		return nil
	}
	return &v.Findings[0]
}

// worstFirst keeps the order of what is equally bad.
func worstFirst(all []Finding) {
	slices.SortStableFunc(all, func(a, b Finding) int { return strings.Compare(string(a.Severity), string(b.Severity)) })
}

// slotOf is what was read, as it is shown.
func slotOf(s replication.Slot, limit int64) Slot {
	v := Slot{
		Name: s.Name, Exists: true, Active: s.Active, WALStatus: s.WALStatus, InvalidationReason: s.Invalidation,
		RestartLSN: s.RestartLSN.String(), ConfirmedFlushLSN: s.ConfirmedLSN.String(),
		RetainedBytes: s.RetainedBytes(), LagBytes: s.LagBytes(), Failover: s.Failover, Synced: s.Synced,
	}
	if s.SafeBytes >= 0 {
		v.SafeWALBytes = &s.SafeBytes
	}
	if limit >= 0 {
		v.LimitBytes = &limit
	}
	if !s.Inactive.IsZero() {
		v.InactiveSince = &s.Inactive
	}
	return v
}
