package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// catalogTime bounds all that is read from the catalogs: a lock on one of them
// must not hold the report up.
const catalogTime = 5 * time.Second

// postgres is what was found out about the database, as the role of the relay.
type postgres struct {
	conn   error  // why there is no connection; nil: there is one
	at     string // host, port and database
	tls    bool
	unread error // what could not be read from the catalogs

	server      serverFacts
	slots       []slotFacts
	activity    activityFacts
	table       *tableFacts
	publication *publicationFacts
	partOf      []string // publications with updates or deletes that the table is in

	slot   *replication.Slot
	holder replication.Holder
	unfit  error // what keeps the slot from being streamed from
	check  error // what the probe of a session says

	replication error             // why there is no replication connection
	state       replication.State // as a session would find it, read after the checkpoint
	ckpt        checkpointFacts
	skew        time.Duration // server's clock minus ours
	skewError   time.Duration // half of the way there and back
}

// serverFacts is what the server says of itself.
type serverFacts struct {
	Version   int             `json:"version"`
	Release   string          `json:"release"`
	Database  string          `json:"database"`
	Encoding  string          `json:"encoding"`
	User      string          `json:"user"`
	Super     bool            `json:"super"`
	Creates   bool            `json:"creates"` // roles
	Bypasses  bool            `json:"bypasses"`
	RoleLimit int             `json:"role_limit"` // connections; -1: any number
	BaseLimit int             `json:"base_limit"`
	Senders   int             `json:"senders"`
	Settings  map[string]knob `json:"settings"`
}

// knob is a row of pg_settings.
type knob struct {
	Setting string `json:"setting"`
	Unit    string `json:"unit"`
}

// number is a setting in its own unit.
func (f serverFacts) number(name string) (int64, bool) {
	n, err := strconv.ParseInt(f.Settings[name].Setting, 10, 64)
	return n, err == nil
}

// duration is a setting as a time; -1 and what does not exist are not ok.
func (f serverFacts) duration(name string) (time.Duration, bool) {
	n, ok := f.number(name)
	unit := map[string]time.Duration{"ms": time.Millisecond, "s": time.Second, "min": time.Minute}[f.Settings[name].Unit]
	return time.Duration(n) * unit, ok && unit > 0
}

// bytes is a setting as a size; -1 stays -1.
func (f serverFacts) bytes(name string) (int64, bool) {
	n, ok := f.number(name)
	unit := map[string]int64{"B": 1, "kB": 1 << 10, "8kB": 8 << 10, "MB": 1 << 20}[f.Settings[name].Unit]
	if n < 0 {
		return -1, ok
	}
	return n * unit, ok && unit > 0
}

func (f serverFacts) text(name string) string { return f.Settings[name].Setting }

const serverSQL = `SELECT jsonb_build_object(
  'version', current_setting('server_version_num')::int, 'release', current_setting('server_version'),
  'database', d.datname, 'encoding', pg_encoding_to_char(d.encoding), 'base_limit', d.datconnlimit,
  'user', r.rolname, 'super', r.rolsuper, 'creates', r.rolcreaterole, 'bypasses', r.rolbypassrls, 'role_limit', r.rolconnlimit,
  'senders', (SELECT count(*) FROM pg_stat_replication),
  'settings', (SELECT jsonb_object_agg(s.name, jsonb_build_object('setting', s.setting, 'unit', coalesce(s.unit, ''))) FROM pg_settings s WHERE s.name IN (
    'wal_level', 'max_replication_slots', 'max_wal_senders', 'wal_sender_timeout', 'max_slot_wal_keep_size', 'idle_replication_slot_timeout',
    'logical_decoding_work_mem', 'idle_session_timeout', 'fsync', 'synchronized_standby_slots', 'max_prepared_transactions')))
  FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user`

// slotFacts is a row of pg_replication_slots, of whatever kind.
type slotFacts struct {
	Name     string  `json:"slot_name"`
	Type     string  `json:"slot_type"`
	Plugin   string  `json:"plugin"`
	Database string  `json:"database"`
	Active   bool    `json:"active"`
	Status   string  `json:"wal_status"`
	Idle     float64 `json:"idle"`     // seconds, PG 17; -1: unknown
	Retained int64   `json:"retained"` // bytes
}

const slotsSQL = `SELECT coalesce(jsonb_agg(to_jsonb(s) || jsonb_build_object(
    'idle', coalesce(extract(epoch FROM now() - (to_jsonb(s)->>'inactive_since')::timestamptz), -1),
    'retained', coalesce(pg_current_wal_lsn() - s.restart_lsn, 0)) ORDER BY s.slot_name), '[]') FROM pg_replication_slots s`

// activityFacts is who holds the decoding of others up.
type activityFacts struct {
	Long     []openTransaction `json:"long"`
	Hidden   int               `json:"hidden"` // with an xid, and of an age that this role may not see
	Prepared []prepared        `json:"prepared"`
}

type openTransaction struct {
	PID         int     `json:"pid"`
	User        string  `json:"usename"`
	Application string  `json:"application"`
	Seconds     float64 `json:"seconds"`
}

type prepared struct {
	GID      string  `json:"gid"`
	Database string  `json:"database"`
	Seconds  float64 `json:"seconds"`
}

const activitySQL = `SELECT jsonb_build_object(
  'long', (SELECT coalesce(jsonb_agg(jsonb_build_object('pid', pid, 'usename', usename, 'application', coalesce(application_name, ''),
       'seconds', extract(epoch FROM now() - xact_start)) ORDER BY xact_start), '[]')
     FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND xact_start < now() - make_interval(secs => $1)),
  'hidden', (SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND xact_start IS NULL),
  'prepared', (SELECT coalesce(jsonb_agg(jsonb_build_object('gid', gid, 'database', database, 'seconds', extract(epoch FROM now() - prepared)) ORDER BY prepared), '[]')
     FROM pg_prepared_xacts WHERE prepared < now() - make_interval(secs => $1)))`

// gather connects and reads. One goroutine has the connection.
func (p *postgres) gather(ctx context.Context, w *world) {
	src, err := sourceOf(w.Settings)
	if err != nil {
		p.conn = err
		return
	}
	srv, err := replication.Connect(ctx, src)
	if err != nil {
		p.conn = err
		return
	}
	defer srv.Close()
	p.at = srv.Describe()
	_, p.tls = srv.TLS()
	cctx, cancel := context.WithTimeout(ctx, catalogTime)
	defer cancel()
	if p.unread = p.catalogs(cctx, srv, w); p.unread != nil {
		return
	}
	p.check = srv.Check(cctx)
	// The order makes the comparison sound while a relay runs: the slot never
	// passes the checkpoint, so it is read first, and the end of the WAL, which
	// the checkpoint never passes, is read last.
	p.readSlot(cctx, srv, src.Slot)
	if w.Settings.Kafka.Enabled && p.slot != nil && p.unfit == nil {
		p.ckpt = readCheckpoint(ctx, w)
	}
	lctx, stop := context.WithTimeout(ctx, catalogTime)
	defer stop()
	if p.state, p.replication = srv.Look(lctx); p.replication == nil && p.slot != nil {
		p.state.Slot = *p.slot
		if p.check == nil {
			p.state.OptionsHash, _ = srv.OptionsHash(lctx) // a Check that failed would fail here
		}
	}
}

// sourceOf is how the relay itself reaches its database.
func sourceOf(c config.Config) (replication.Config, error) {
	conn, err := c.Database.Conn()
	if err != nil {
		return replication.Config{}, err
	}
	return replication.Config{
		Conn: conn, Slot: c.Outbox.Slot, Publication: c.Outbox.Publication,
		Schema: c.Outbox.Table.Schema, Table: c.Outbox.Table.Name, MaxRowBytes: int(c.Outbox.MaxRowBytes),
	}, nil
}

func (p *postgres) catalogs(ctx context.Context, srv *replication.Server, w *world) error {
	conn, o := srv.Conn(), w.Settings.Outbox
	if err := p.clock(ctx, conn); err != nil {
		return err
	}
	for _, q := range []struct {
		what string
		sql  string
		args []any
		into any
	}{
		{"the server's settings", serverSQL, nil, &p.server},
		{"pg_replication_slots", slotsSQL, nil, &p.slots},
		{"pg_stat_activity", activitySQL, []any{w.Limits.LongTransaction.Seconds()}, &p.activity},
		{"the table", tableSQL, []any{o.Table.Schema, o.Table.Name}, &p.table},
		{"the publication", publicationSQL, []any{o.Publication, o.Table.Schema, o.Table.Name}, &p.publication},
		{"the publications of the table", partOfSQL, []any{o.Table.Schema, o.Table.Name}, &p.partOf},
	} {
		var raw []byte
		err := conn.QueryRow(ctx, q.sql, q.args...).Scan(&raw)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err == nil {
			err = json.Unmarshal(raw, q.into)
		}
		if err != nil {
			return fault.Wrap(err, fault.CatalogUnreadable, "read %s", q.what)
		}
	}
	return nil
}

// clock compares the server's clock with ours. The way there and back is the
// error of it.
func (p *postgres) clock(ctx context.Context, conn *pgx.Conn) error {
	var theirs time.Time
	before := time.Now()
	if err := conn.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&theirs); err != nil {
		return fault.Wrap(err, fault.CatalogUnreadable, "read the server's clock")
	}
	half := time.Since(before) / 2
	p.skew, p.skewError = theirs.Sub(before.Add(half)), half
	return nil
}

func (p *postgres) readSlot(ctx context.Context, srv *replication.Server, name string) {
	slot, err := replication.Inspect(ctx, srv.Conn(), name)
	switch {
	case errors.Is(err, replication.ErrNoSlot):
		return
	case err != nil:
		p.unread = fault.Wrap(err, fault.CatalogUnreadable, "read slot %s", name)
		return
	}
	p.slot, p.unfit = &slot, srv.Fit(slot)
	if slot.Active {
		p.holder = replication.WhoHolds(ctx, srv.Conn(), slot.ActivePID)
	}
}

// standby is another host of the database URL.
type standby struct {
	host  string
	err   error // not reached
	facts standbyFacts
}

type standbyFacts struct {
	Version  int    `json:"version"`
	Recovery bool   `json:"recovery"`
	Sync     string `json:"sync"`     // sync_replication_slots, "" before 17
	Feedback string `json:"feedback"` // hot_standby_feedback
	Primary  string `json:"primary"`  // primary_slot_name
	Slot     bool   `json:"slot"`     // a copy of the relay's
}

const standbySQL = `SELECT jsonb_build_object('version', current_setting('server_version_num')::int, 'recovery', pg_is_in_recovery(),
  'sync', coalesce(current_setting('sync_replication_slots', true), ''), 'feedback', current_setting('hot_standby_feedback'),
  'primary', coalesce((SELECT setting FROM pg_settings WHERE name = 'primary_slot_name'), ''),
  'slot', EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1))`

// askStandbys looks at every host of a URL that names several.
func askStandbys(ctx context.Context, cfg Config) []standby {
	src, err := sourceOf(cfg.Settings)
	if err != nil {
		return nil
	}
	hosts := src.Hosts()
	if len(hosts) < 2 {
		return nil
	}
	all := make([]standby, len(hosts))
	done := make(chan struct{})
	for i, h := range hosts {
		go func() {
			defer func() { done <- struct{}{} }()
			s := &all[i]
			s.host = fmt.Sprintf("%s:%d", h.Host, h.Port)
			one, err := pgx.ParseConfig("")
			if err != nil {
				s.err = err
				return
			}
			one.Config = *h
			one.DefaultQueryExecMode = pgx.QueryExecModeExec
			one.ConnectTimeout = min(positive(one.ConnectTimeout, catalogTime), catalogTime)
			actx, cancel := context.WithTimeout(ctx, 2*catalogTime)
			defer cancel()
			conn, err := pgx.ConnectConfig(actx, one)
			if err != nil {
				s.err = err
				return
			}
			defer conn.Close(context.WithoutCancel(ctx))
			var raw []byte
			if s.err = conn.QueryRow(actx, standbySQL, src.Slot).Scan(&raw); s.err == nil {
				s.err = json.Unmarshal(raw, &s.facts)
			}
		}()
	}
	for range hosts {
		<-done
	}
	return all
}

func positive(d, fallback time.Duration) time.Duration {
	if d <= 0 {
		return fallback
	}
	return d
}
