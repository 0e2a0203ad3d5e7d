package doctor

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// leastConnections is what a replica takes: the stream, the monitor beside it,
// the guard; and a second replica that stands by.
const leastConnections = 5

func postgresChecks() []check {
	return []check{
		{Postgres, "connect", "the primary lets the relay's role into its database", 0, connectCodes(), connects},
		{Postgres, "catalogs", "what the other checks need can be read", fromPostgres, []*fault.Code{fault.CatalogUnreadable}, catalogs},
		{
			Postgres, "replication", "the same role gets a replication connection: REPLICATION, pg_hba.conf, no pooler, a free walsender", fromPostgres,
			[]*fault.Code{fault.NoReplicationRole, fault.PostgresAuth, fault.SlotsExhausted, fault.Pooler, fault.PostgresUnreachable, fault.PostgresLost, fault.PostgresStopping},
			replicates,
		},
		{Postgres, "wal_level", "wal_level is logical", fromPostgres, []*fault.Code{fault.WalLevel}, walLevel},
		{Postgres, "slots_free", "there is room for the relay's slot", fromPostgres, []*fault.Code{fault.SlotsExhausted}, slotsFree},
		{Postgres, "connections", "the limits of role and database allow two replicas", fromPostgres, []*fault.Code{fault.ConnectionLimit}, connections},
		{Postgres, "wal_sender_timeout", "from 10 seconds to 5 minutes: shorter cuts a busy stream, longer delays a take-over", fromPostgres, []*fault.Code{fault.WalSenderTimeout}, walSenderTimeout},
		{Postgres, "wal_limit", "max_slot_wal_keep_size is set, and 1 GB at least", fromPostgres, []*fault.Code{fault.WalUnlimited, fault.WalLimitSmall}, walLimit},
		{Postgres, "idle_slot_timeout", "idle_replication_slot_timeout is off (Postgres 18)", fromPostgres, []*fault.Code{fault.SlotIdleTimeout}, idleSlotTimeout},
		{Postgres, "decoding_memory", "logical_decoding_work_mem is 4 MB at least", fromPostgres, []*fault.Code{fault.DecodingMemory}, decodingMemory},
		{Postgres, "session_timeout", "idle_session_timeout does not end the relay's sessions", fromPostgres, []*fault.Code{fault.SessionTimeout}, sessionTimeout},
		{Postgres, "durability", "fsync is on", fromPostgres, []*fault.Code{fault.FsyncOff}, durability},
		{Postgres, "encoding", "the database knows the encoding of its text", fromPostgres, []*fault.Code{fault.DatabaseEncoding}, encoding},
		{Postgres, "transactions", "no transaction that writes is open for an hour", fromPostgres, []*fault.Code{fault.LongTransaction}, longTransactions},
		{Postgres, "prepared", "no transaction is left prepared for an hour", fromPostgres, []*fault.Code{fault.PreparedTransaction}, preparedTransactions},
	}
}

func connectCodes() []*fault.Code {
	return []*fault.Code{
		fault.DatabaseURL, fault.ConfigMissing, fault.PostgresUnreachable, fault.PostgresAuth, fault.PostgresStopping, fault.PostgresLost,
		fault.PostgresStandby, fault.PostgresVersion, fault.DatabaseMissing, fault.NoRight,
	}
}

func connects(w *world) answer {
	p := w.pg
	if p.conn != nil {
		return fail(p.conn)
	}
	how := "unencrypted"
	if p.tls {
		how = "by TLS"
	}
	return pass("%s as %s, release %s, %s", p.at, p.server.User, p.server.Release, how)
}

func catalogs(w *world) answer {
	if w.pg.unread != nil {
		return fail(w.pg.unread)
	}
	return pass("read")
}

func replicates(w *world) answer {
	err := w.pg.replication
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return pass("by a walsender")
	case asPg(err, &pg) && strings.HasPrefix(pg.Code, "08"):
		return fail(fault.Wrap(err, fault.Pooler, "open a replication connection"))
	case asPg(err, &pg) && pg.Code == "53300" && !strings.Contains(pg.Message, "role"):
		return fail(fault.Wrap(err, fault.SlotsExhausted, "open a replication connection").WithFix("raise max_wal_senders and restart Postgres, or end a walsender that nobody needs: SELECT pid, application_name FROM pg_stat_replication"))
	case fault.Has(err, fault.NoReplicationRole):
		return fail(fault.As(err).WithFix("ALTER ROLE %s WITH REPLICATION;", ident(w.pg.server.User)))
	}
	return fail(err)
}

func walLevel(w *world) answer {
	if l := w.pg.server.text("wal_level"); l != "logical" {
		return fail(fault.New(fault.WalLevel, "wal_level is %s", l))
	}
	return pass("logical")
}

func slotsFree(w *world) answer {
	most, _ := w.pg.server.number("max_replication_slots")
	used := int64(len(w.pg.slots))
	if used >= most && w.pg.slot == nil {
		return fail(fault.New(fault.SlotsExhausted, "all %d of max_replication_slots are taken", most).
			WithFix("ALTER SYSTEM SET max_replication_slots = %d; then restart Postgres; or drop a slot that nobody needs", most+4))
	}
	senders, _ := w.pg.server.number("max_wal_senders")
	return pass("%d of %d slots, %d of %d walsenders", used, most, w.pg.server.Senders, senders)
}

func connections(w *world) answer {
	s := w.pg.server
	var a answer
	if s.RoleLimit >= 0 && s.RoleLimit < leastConnections && !s.Super {
		a.add(Warn, "role", fault.New(fault.ConnectionLimit, "role %s may have %d connections", s.User, s.RoleLimit).
			WithFix("ALTER ROLE %s CONNECTION LIMIT %d;", ident(s.User), 2*leastConnections))
	}
	if s.BaseLimit >= 0 && s.BaseLimit < leastConnections {
		a.add(Warn, "database", fault.New(fault.ConnectionLimit, "database %s may have %d connections", s.Database, s.BaseLimit).
			WithFix("ALTER DATABASE %s CONNECTION LIMIT -1;", ident(s.Database)))
	}
	return a.or("not limited below %d", leastConnections)
}

func walSenderTimeout(w *world) answer {
	d, _ := w.pg.server.duration("wal_sender_timeout")
	f := func(why string) answer {
		return warn(fault.New(fault.WalSenderTimeout, "wal_sender_timeout is %s", d).WithWhy("%s", why).
			WithFix("ALTER ROLE %s SET wal_sender_timeout = '60s';", ident(w.pg.server.User)))
	}
	switch {
	case d == 0:
		return f("a relay whose host has died holds the slot until TCP gives up, and no replica can take over")
	case d < 10*time.Second:
		return f("a relay that is busy for that long loses its connection")
	case d > 5*time.Minute:
		return f("a relay whose host has died holds the slot for that long, and no replica can take over")
	}
	return pass("%s", d)
}

// leastKeep is what a relay that is down for some minutes makes of a server
// that is busy.
const leastKeep = 1 << 30

func walLimit(w *world) answer {
	limit, ok := w.pg.server.bytes("max_slot_wal_keep_size")
	switch {
	case !ok:
		return skip("not known")
	case limit < 0:
		return warn(fault.New(fault.WalUnlimited, "max_slot_wal_keep_size is -1"))
	case limit < leastKeep:
		return warn(fault.New(fault.WalLimitSmall, "max_slot_wal_keep_size is %s", size(limit)))
	}
	return pass("%s", size(limit))
}

func idleSlotTimeout(w *world) answer {
	d, ok := w.pg.server.duration("idle_replication_slot_timeout")
	switch {
	case !ok:
		return skip("Postgres 18 brought it")
	case d > 0:
		return warn(fault.New(fault.SlotIdleTimeout, "idle_replication_slot_timeout is %s", age(d)))
	}
	return pass("off")
}

func decodingMemory(w *world) answer {
	n, ok := w.pg.server.bytes("logical_decoding_work_mem")
	if ok && n < 4<<20 {
		return warn(fault.New(fault.DecodingMemory, "logical_decoding_work_mem is %s", size(n)).
			WithFix("ALTER ROLE %s SET logical_decoding_work_mem = '64MB';", ident(w.pg.server.User)))
	}
	return pass("%s", size(n))
}

func sessionTimeout(w *world) answer {
	if d, ok := w.pg.server.duration("idle_session_timeout"); ok && d > 0 {
		return warn(fault.New(fault.SessionTimeout, "idle_session_timeout is %s", d).
			WithFix("ALTER ROLE %s SET idle_session_timeout = 0;", ident(w.pg.server.User)))
	}
	return pass("off")
}

func durability(w *world) answer {
	if w.pg.server.text("fsync") == "off" {
		return warn(fault.New(fault.FsyncOff, "fsync is off"))
	}
	return pass("fsync is on")
}

func encoding(w *world) answer {
	if e := w.pg.server.Encoding; e == "SQL_ASCII" {
		return warn(fault.New(fault.DatabaseEncoding, "database %s is SQL_ASCII", w.pg.server.Database))
	}
	return pass("%s", w.pg.server.Encoding)
}

func longTransactions(w *world) answer {
	var a answer
	for _, t := range w.pg.activity.Long {
		a.add(Warn, fmt.Sprint(t.PID), fault.New(fault.LongTransaction, "PID %d (%s %s) has written and is open for %s", t.PID, t.User, t.Application, age(seconds(t.Seconds))).
			WithFix("SELECT pg_terminate_backend(%d);", t.PID))
	}
	if n := w.pg.activity.Hidden; n > 0 {
		return a.or("%d that write are of an age that this role may not see", n)
	}
	return a.or("none that writes is older than %s", age(w.Limits.LongTransaction))
}

func preparedTransactions(w *world) answer {
	var a answer
	for _, t := range w.pg.activity.Prepared {
		a.add(Warn, t.GID, fault.New(fault.PreparedTransaction, "%s in database %s is prepared for %s", t.GID, t.Database, age(seconds(t.Seconds))).
			WithFix("in database %s: ROLLBACK PREPARED %s; or COMMIT PREPARED, if that was meant", t.Database, quote(t.GID)))
	}
	return a.or("none is older than %s", age(w.Limits.LongTransaction))
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
