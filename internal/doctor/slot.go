package doctor

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/relay"
)

func slotChecks() []check {
	return []check{
		{
			Slot, "exists", "the slot is there, and is one that can be streamed from", fromPostgres,
			[]*fault.Code{fault.SlotMissing, fault.NotInitialised, fault.SlotShape, fault.SlotLost, fault.SlotUnreserved},
			slotExists,
		},
		{Slot, "holder", "whoever streams from the slot is a relay", fromSlot, []*fault.Code{fault.SlotForeign}, slotHolder},
		{Slot, "idle", "a relay that has run is running, and one that has not keeps little WAL", fromSlot, []*fault.Code{fault.SlotUnread}, slotIdle},
		{Slot, "budget", "retained WAL stays below half of max_slot_wal_keep_size; from 80 % on it is a failure", fromSlot, []*fault.Code{fault.SlotRetention}, slotBudget},
		{Slot, "held_back", "no transaction keeps WAL that is long confirmed", fromSlot, []*fault.Code{fault.SlotPinned}, slotHeldBack},
		{Slot, "position", "slot, checkpoint, cluster and timeline belong together: what serve would decide", fromSlot, []*fault.Code{
			fault.CheckpointMissing, fault.CheckpointForked, fault.CheckpointCorrupt, fault.IdentityChanged, fault.OldPrimary, fault.Diverged,
			fault.Gap, fault.LSNBackwards, fault.CutChanged, fault.NameChanged, fault.AlreadyHalf,
		}, slotPosition},
		{
			Slot, "failover", "from Postgres 17 on, where there are standbys, the slot is one that survives a failover", fromSlot,
			[]*fault.Code{fault.SlotNotFailover, fault.StandbysUnguarded},
			slotFailover,
		},
		{Slot, "standbys", "each further host of DATABASE_URL keeps a copy of the slot (Postgres 17)", fromSlot | fromStandbys, []*fault.Code{fault.StandbyUnsynced}, standbysSynced},
		{Slot, "strays", "no slot that nobody reads keeps WAL", fromPostgres, []*fault.Code{fault.SlotForgotten}, straySlots},
	}
}

func slotExists(w *world) answer {
	p, name := w.pg, w.Settings.Outbox.Slot
	ck := p.ckpt.session.State.Last
	switch {
	case p.slot == nil && ck != nil:
		return fail(fault.New(fault.SlotMissing, "slot %s does not exist, checkpoint %d at %s does", name, ck.Seq, ck.Pos))
	case p.slot == nil:
		return fail(fault.New(fault.NotInitialised, "slot %s does not exist", name).WithWhy("the relay is not initialised, or the slot was dropped, or this is another server").
			WithFix("outbox-relay init, if this relay is new; else check DATABASE_URL and OUTBOX_SLOT"))
	case p.unfit != nil:
		return fail(p.unfit)
	case p.slot.WALStatus == "unreserved":
		return fail(fault.New(fault.SlotUnreserved, "slot %s, wal_status unreserved, keeps %s", name, size(p.slot.RetainedBytes())))
	}
	return pass("%s at %s, %s", name, p.slot.ConfirmedLSN, p.slot.WALStatus)
}

// relayName is how our sessions call themselves.
const relayName = "outbox-relay "

func slotHolder(w *world) answer {
	s, h := w.pg.slot, w.pg.holder
	switch {
	case !s.Active:
		return pass("nobody streams")
	case h.Application == "":
		return pass("PID %d streams", s.ActivePID)
	case !strings.HasPrefix(h.Application, relayName):
		return fail(fault.New(fault.SlotForeign, "slot %s is held by %s", s.Name, h).
			WithFix("SELECT pg_terminate_backend(%d); and give that program a slot of its own", s.ActivePID))
	}
	return pass("%s streams", h)
}

func slotIdle(w *world) answer {
	s := w.pg.slot
	if s.Active {
		return pass("a relay streams")
	}
	idle := time.Duration(-1)
	for _, f := range w.pg.slots {
		if f.Name == s.Name && f.Idle >= 0 {
			idle = time.Duration(f.Idle * float64(time.Second))
		}
	}
	ck := w.pg.ckpt.session.State.Last
	hasRun := ck != nil && ck.Seq > 1
	bad := func(since string) answer {
		return warn(fault.New(fault.SlotUnread, "nobody streams from slot %s%s, which keeps %s", s.Name, since, size(s.RetainedBytes())))
	}
	switch {
	case idle > w.Limits.IdleSlot && hasRun:
		return bad(" for " + age(idle))
	case s.RetainedBytes() > w.Limits.IdleRetained:
		return bad("")
	}
	return pass("nobody streams yet, %s kept", size(s.RetainedBytes()))
}

func slotBudget(w *world) answer {
	s := w.pg.slot
	limit, ok := w.pg.server.bytes("max_slot_wal_keep_size")
	kept := s.RetainedBytes()
	if !ok || limit <= 0 || w.pg.unfit != nil {
		return pass("%s kept", size(kept))
	}
	f := fault.New(fault.SlotRetention, "slot %s keeps %s of at most %s", s.Name, size(kept), size(limit))
	switch {
	case kept > limit/5*4:
		return fail(f)
	case kept > limit/2:
		return warn(f)
	}
	return pass("%s kept of at most %s", size(kept), size(limit))
}

func slotHeldBack(w *world) answer {
	s := w.pg.slot
	if s.Lost() || s.ConfirmedLSN < s.RestartLSN {
		return skip("the slot keeps nothing")
	}
	if n := int64(s.ConfirmedLSN - s.RestartLSN); n > w.Limits.HeldBack {
		return warn(fault.New(fault.SlotPinned, "slot %s is confirmed up to %s and keeps WAL from %s on, %s more", s.Name, s.ConfirmedLSN, s.RestartLSN, size(n)))
	}
	return pass("restart_lsn %s", s.RestartLSN)
}

func slotPosition(w *world) answer {
	p := w.pg
	switch {
	case !w.Settings.Kafka.Enabled:
		return skip("KAFKA_ENABLED=false")
	case p.unfit != nil:
		return skip("needs a slot that can be streamed from")
	case !p.ckpt.asked:
		return skip("needs KAFKA_BROKERS")
	case p.ckpt.missing:
		return fail(fault.New(fault.CheckpointMissing, "slot %s is at %s and topic %s does not exist", p.slot.Name, p.slot.ConfirmedLSN, w.Settings.Kafka.CheckpointTopic))
	case fault.Has(p.ckpt.err, fault.CheckpointCorrupt) || fault.Has(p.ckpt.err, fault.CheckpointForked):
		return fail(p.ckpt.err)
	case p.ckpt.err != nil:
		return skip("needs the checkpoint: %s", p.ckpt.err)
	case p.replication != nil:
		return skip("needs a replication connection")
	}
	if err := relay.Judge(p.state, p.ckpt.session); err != nil {
		return fail(err)
	}
	c := p.ckpt.session.State.Last
	return pass("checkpoint %d at %s, slot at %s: serve would stream", c.Seq, c.Pos, p.slot.ConfirmedLSN)
}

// standbysThere are physical slots that somebody streams from.
func (p *postgres) standbysThere() []string {
	var names []string
	for _, s := range p.slots {
		if s.Type == "physical" && s.Active {
			names = append(names, s.Name)
		}
	}
	return names
}

func slotFailover(w *world) answer {
	p := w.pg
	standbys := p.standbysThere()
	hosts := 0
	if src, err := sourceOf(w.Settings); err == nil {
		hosts = len(src.Hosts())
	}
	switch {
	case p.server.Version < 170000:
		return skip("Postgres 17 brought slots that survive a failover")
	case len(standbys) == 0 && hosts < 2:
		return skip("no standby streams by a slot of its own")
	case !p.slot.Failover:
		return warn(fault.New(fault.SlotNotFailover, "slot %s has failover=false, and there are standbys", p.slot.Name).
			WithFix("with the relay stopped: psql 'dbname=%s replication=database' -c 'ALTER_REPLICATION_SLOT %s (FAILOVER true)'", p.server.Database, p.slot.Name))
	case len(standbys) > 0 && p.server.text("synchronized_standby_slots") == "":
		return warn(fault.New(fault.StandbysUnguarded, "synchronized_standby_slots is empty, and %s streams", strings.Join(standbys, ", ")).
			WithFix("ALTER SYSTEM SET synchronized_standby_slots = '%s'; SELECT pg_reload_conf();", strings.Join(standbys, ", ")))
	}
	return pass("failover slot")
}

func standbysSynced(w *world) answer {
	if w.pg.server.Version < 170000 {
		return skip("Postgres 17 brought slots that survive a failover")
	}
	var a answer
	seen := 0
	for _, s := range w.standbys {
		if s.err == nil && !s.facts.Recovery {
			continue // the primary
		}
		seen++
		about := func(why, fix string) {
			a.add(Warn, s.host, fault.New(fault.StandbyUnsynced, "standby %s has no copy of slot %s", s.host, w.Settings.Outbox.Slot).WithWhy("%s", why).WithFix("%s", fix))
		}
		switch {
		case s.err != nil:
			a.add(Warn, s.host, fault.Wrap(s.err, fault.StandbyUnsynced, "host %s was not reached", s.host).
				WithWhy("whether it could take over is not known").WithFix("check that host, or take it out of DATABASE_URL"))
		case s.facts.Sync != "on":
			about("sync_replication_slots is off there", "on "+s.host+": ALTER SYSTEM SET sync_replication_slots = on; SELECT pg_reload_conf();")
		case s.facts.Feedback != "on":
			about("hot_standby_feedback is off there, which slot synchronisation needs", "on "+s.host+": ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();")
		case s.facts.Primary == "":
			about("primary_slot_name is empty there, which slot synchronisation needs", "on the primary: SELECT pg_create_physical_replication_slot('standby_1'); on "+s.host+": ALTER SYSTEM SET primary_slot_name = 'standby_1'; SELECT pg_reload_conf();")
		case !s.facts.Slot:
			about("the slot was not copied yet, or primary_conninfo there names no dbname", "look at the log of "+s.host+" for the slot sync worker; primary_conninfo needs dbname=postgres")
		}
	}
	if seen == 0 {
		return skip("DATABASE_URL names no standby")
	}
	return a.or("%d with a copy of the slot", seen)
}

func straySlots(w *world) answer {
	var a answer
	for _, s := range w.pg.slots {
		if s.Active || s.Name == w.Settings.Outbox.Slot || s.Retained < w.Limits.StrayRetained {
			continue
		}
		a.add(Warn, s.Name, fault.New(fault.SlotForgotten, "slot %s (%s%s) keeps %s, and nobody reads it", s.Name, s.Type, in(s.Database), size(s.Retained)).
			WithFix("if nobody needs it: SELECT pg_drop_replication_slot(%s);", quote(s.Name)))
	}
	return a.or("%d in all", len(w.pg.slots))
}

func in(database string) string {
	if database == "" {
		return ""
	}
	return ", database " + database
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func ident(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

// size is a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

// age is a duration for people.
func age(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	}
	return fmt.Sprintf("%.1f seconds", d.Seconds())
}
