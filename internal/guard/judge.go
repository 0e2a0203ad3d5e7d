package guard

import (
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/size"
)

const (
	// warnShare of the limit is where retained WAL is warned about, failShare
	// where it fails.
	warnShare, failShare = 0.5, 0.9
	// warnAhead is how long before the loss of the slot is warned, failAhead
	// where it fails.
	warnAhead, failAhead = 4 * time.Hour, 15 * time.Minute
)

const (
	inspectFix = "outbox-relay slot inspect shows who reads it; start the relay, or end its halt"
	limitFix   = "; to gain time, on the server: ALTER SYSTEM SET max_slot_wal_keep_size = '<more>'; SELECT pg_reload_conf()"
)

// judge says what of a picture a person should know of.
func (g *Guard) judge(r reading, v View) []Finding {
	all := []Finding{}
	add := func(s Severity, f *fault.Error) { all = append(all, finding(s, f)) }
	switch {
	case !r.exists:
		// One look may fall between the start of the relay and its slot.
		if g.cfg.Wanted && g.history.missing > 1 {
			add(Fail, fault.New(fault.SlotMissing, "slot %s is not on %s", v.Slot.Name, r.host).
				WithWhy("there is no slot of this name: what commits now reaches Kafka only by hand, later").
				WithFix("outbox-relay slot list; outbox-relay init, if this relay is new"))
		}
	case r.slot.Lost():
		add(Fail, fault.New(fault.SlotLost, "slot %s (%s)", v.Slot.Name, lostBy(v.Slot)))
	default:
		g.judgeSlot(r, v, add)
	}
	if p, _ := g.pause.now(); p != nil {
		add(Warn, p.Fault())
	}
	for _, s := range v.StraySlots {
		f := finding(Warn, fault.New(fault.SlotStray, "slot %s, read by nobody, holds back %s of WAL", s.Name, size.Of(s.RetainedBytes)).
			WithFix("make sure that nobody needs it, then: SELECT pg_drop_replication_slot('%s')", s.Name))
		f.about = s.Name
		all = append(all, f)
	}
	worstFirst(all)
	return all
}

func (g *Guard) judgeSlot(r reading, v View, add func(Severity, *fault.Error)) {
	s := v.Slot
	switch s.WALStatus {
	case "unreserved":
		add(Fail, fault.New(fault.SlotUnreserved, "slot %s is over max_slot_wal_keep_size with %s", s.Name, size.Of(s.RetainedBytes)))
	case "extended":
		add(Warn, fault.New(fault.SlotExtended, "slot %s holds back %s of WAL, more than max_wal_size", s.Name, size.Of(s.RetainedBytes)))
	}
	g.judgeRetained(v, add)
	if v.SecondsToLoss != nil {
		left := time.Duration(min(*v.SecondsToLoss, warnAhead.Seconds()+1) * float64(time.Second))
		if left < warnAhead {
			f := fault.New(fault.SlotLossPredicted, "slot %s is lost in about %s at %s of WAL per second", s.Name, left.Round(time.Second), size.Of(int64(v.WALBytesPerSecond))).
				WithFix(inspectFix + limitFix)
			add(severity(left < failAhead), f)
		}
	}
	if r.idleTimeout > 0 && !s.Active && !r.slot.Inactive.IsZero() {
		add(Warn, fault.New(fault.SlotIdleTimeout, "slot %s is idle since %s, and idle_replication_slot_timeout is %s",
			s.Name, r.slot.Inactive.UTC().Format(time.RFC3339), r.idleTimeout))
	}
	if v.Stalled {
		add(Warn, fault.New(fault.SourceStalled, "slot %s stands at %s for %s while the server wrote %s", s.Name, s.ConfirmedFlushLSN,
			g.history.progress.age(r).Round(time.Second), size.Of(g.history.progress.bytes(r))))
	}
	if g.history.unread(r) {
		add(Warn, fault.New(fault.SlotUnread, "nobody reads slot %s, which holds back %s of WAL", s.Name, size.Of(s.RetainedBytes)))
	}
	if g.history.pinned(r) {
		add(Warn, fault.New(fault.SlotPinned, "slot %s is confirmed up to %s and holds back %s of WAL from %s on", s.Name,
			s.ConfirmedFlushLSN, size.Of(s.RetainedBytes), s.RestartLSN))
	}
}

// judgeRetained compares with the limit, or with the setting where there is none.
func (g *Guard) judgeRetained(v View, add func(Severity, *fault.Error)) {
	s := v.Slot
	if s.LimitBytes == nil {
		if g.cfg.WarnBytes > 0 && s.RetainedBytes > g.cfg.WarnBytes {
			add(Warn, fault.New(fault.SlotRetention, "slot %s holds back %s of WAL, and nothing limits it", s.Name, size.Of(s.RetainedBytes)).
				WithWhy("OUTBOX_SLOT_WARN_BYTES is %s; max_slot_wal_keep_size is -1, so the disk is the limit", size.Of(g.cfg.WarnBytes)).
				WithFix(inspectFix+"; df -h on the server says how much room is left"))
		}
		return
	}
	limit := *s.LimitBytes
	if share := float64(s.RetainedBytes) / float64(max(limit, 1)); share > warnShare {
		add(severity(share > failShare), fault.New(fault.SlotRetention, "slot %s holds back %s of WAL, %.0f %% of max_slot_wal_keep_size", s.Name, size.Of(s.RetainedBytes), 100*share).
			WithFix(inspectFix+limitFix))
	}
}

func severity(fail bool) Severity {
	if fail {
		return Fail
	}
	return Warn
}

func lostBy(s Slot) string {
	if s.InvalidationReason != "" {
		return s.InvalidationReason
	}
	return "wal_status " + s.WALStatus
}
