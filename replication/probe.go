package replication

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// connectTimeout bounds one attempt to reach one host, unless the connection
// string says otherwise (connect_timeout).
const connectTimeout = 10 * time.Second

// Server is a plain connection to a primary, and how to reach the same host
// again. It is used by one goroutine at a time.
type Server struct {
	cfg     Config
	host    *pgconn.Config // exactly one host
	conn    *pgx.Conn
	version int // server_version_num
	// sender is the wal_sender_timeout to ask for; 0: none.
	sender time.Duration
	// skipped is the server's warning that it left rows out of what was decoded.
	skipped *pgconn.PgError
	// passedOver are other hosts that are primaries too.
	passedOver []string
}

// elsewhere is how long other hosts are waited for when one has been found to
// be a primary: it may not be the only one.
const elsewhere = time.Second

// Connect reaches the primary. Several hosts are asked at once. The first of
// them in order that is a primary is taken, unless another one is a primary of a
// newer timeline: after a failover the old one may come back not knowing of it,
// and its slot would look free.
func Connect(ctx context.Context, cfg Config) (*Server, error) {
	all := hosts(cfg.Conn)
	if len(all) == 1 {
		s := &Server{cfg: cfg, host: all[0]}
		if err := s.dial(ctx); err != nil {
			return nil, err
		}
		return s, nil
	}
	primaries, errs := reachAll(ctx, cfg, all)
	if len(primaries) > 0 {
		return newest(ctx, primaries)
	}
	// The first host's error speaks: it is the preferred one's.
	var first *fault.Error
	errors.As(errs[0], &first)
	return nil, fault.Wrap(errors.Join(errs...), first.Code, "connect to any of %d hosts", len(errs))
}

// reachAll asks all hosts and returns those that are primaries, and what the
// others said, each in the order of the hosts.
func reachAll(ctx context.Context, cfg Config, all []*pgconn.Config) (primaries []*Server, errs []error) {
	dctx, cancel := context.WithCancel(ctx)
	defer cancel()
	servers, failed := make([]*Server, len(all)), make([]error, len(all))
	answers := make(chan int, len(all))
	for i, host := range all {
		go func() {
			s := &Server{cfg: cfg, host: host}
			if failed[i] = s.dial(dctx); failed[i] == nil {
				servers[i] = s
			}
			answers <- i
		}()
	}
	var late *time.Timer
	for range all {
		if i := <-answers; failed[i] == nil && late == nil {
			late = time.AfterFunc(elsewhere, cancel)
			defer late.Stop()
		}
	}
	for i := range all {
		if servers[i] != nil {
			primaries = append(primaries, servers[i])
		} else {
			errs = append(errs, failed[i])
		}
	}
	return primaries, errs
}

// newest keeps the primary of the newest timeline and closes the others.
func newest(ctx context.Context, primaries []*Server) (*Server, error) {
	if len(primaries) == 1 {
		return primaries[0], nil
	}
	best, top := -1, int32(0)
	var err error
	for i, s := range primaries {
		var id Identity
		if id, err = s.Identify(ctx); err == nil && id.Timeline > top {
			best, top = i, id.Timeline
		}
	}
	for i, s := range primaries {
		if i == best {
			continue
		}
		if best >= 0 {
			primaries[best].passedOver = append(primaries[best].passedOver, s.describe())
		}
		s.Close()
	}
	if best < 0 {
		return nil, err
	}
	return primaries[best], nil
}

// dial opens the plain connection and checks that the server is a primary of a
// version that we know.
func (s *Server) dial(ctx context.Context) error {
	pc, err := pgx.ParseConfig("")
	if err != nil {
		return fault.Wrap(err, fault.DatabaseURL, "prepare connection")
	}
	pc.Config = *s.host.Copy()
	if pc.ConnectTimeout == 0 {
		pc.ConnectTimeout = connectTimeout
	}
	setParams(&pc.Config, "outbox-relay "+s.cfg.Slot+" monitor")
	// Poolers in transaction mode and a monitor that outlives DDL both speak
	// against named statements.
	pc.DefaultQueryExecMode = pgx.QueryExecModeExec
	pc.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if skipsRows(n.Code, n.Routine) {
			e := pgconn.PgError(*n)
			s.skipped = &e
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*pc.ConnectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, pc)
	var denied *pgconn.PgError
	if errors.As(err, &denied) && denied.Code == "42501" {
		// The right to replicate, for which this SQLSTATE stands elsewhere, is
		// not asked for by a plain connection.
		return fault.Wrap(err, fault.NoRight, "connect to %s:%d", s.host.Host, s.host.Port).
			WithFix("GRANT CONNECT ON DATABASE %s TO %s;", pgx.Identifier{pc.Database}.Sanitize(), pgx.Identifier{pc.User}.Sanitize())
	}
	if err != nil {
		return classifyConnect(err, "connect to %s:%d", s.host.Host, s.host.Port)
	}
	var recovery bool
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, pg_is_in_recovery()`).Scan(&s.version, &recovery)
	switch {
	case err != nil:
		err = classify(err, fault.Unclassified, "read version of %s:%d", s.host.Host, s.host.Port)
	case recovery:
		err = fault.New(fault.PostgresStandby, "%s:%d is a standby", s.host.Host, s.host.Port)
	case s.version < 140000:
		err = fault.New(fault.PostgresVersion, "%s:%d runs version %d", s.host.Host, s.host.Port, s.version/10000)
	}
	if err != nil {
		_ = conn.Close(ctx)
		return err
	}
	s.conn = conn
	return nil
}

// classifyConnect is classify for a connection that was never there: what
// would be "lost" is "unreachable".
func classifyConnect(err error, format string, args ...any) error {
	err = classify(err, fault.Unclassified, format, args...)
	var f *fault.Error
	if errors.As(err, &f) && f.Code == fault.PostgresLost {
		f.Code = fault.PostgresUnreachable
	}
	return err
}

func setParams(c *pgconn.Config, application string) {
	params := map[string]string{}
	for k, v := range c.RuntimeParams {
		params[k] = v
	}
	for k, v := range sessionSettings {
		params[k] = v
	}
	params["application_name"] = application
	c.RuntimeParams = params
}

// Close ends the plain connection.
func (s *Server) Close() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// probe checks everything that would make streaming pointless or wrong, and
// returns the hash of what decides how changes are counted.
func (s *Server) probe(ctx context.Context) (optionsHash string, err error) {
	if err := s.probeServer(ctx); err != nil {
		return "", err
	}
	if err := s.probeTable(ctx); err != nil {
		return "", err
	}
	return s.probePublication(ctx)
}

// probeServer checks what does not depend on the outbox: that the server can
// decode and that the role may stream.
func (s *Server) probeServer(ctx context.Context) error {
	var walLevel, user string
	var mayReplicate bool
	err := s.conn.QueryRow(ctx, `SELECT current_setting('wal_level'), current_user::text,
	    (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user)`).Scan(&walLevel, &user, &mayReplicate)
	if err != nil {
		return classify(err, fault.Unclassified, "read settings")
	}
	if walLevel != "logical" {
		return fault.New(fault.WalLevel, "wal_level is %s", walLevel)
	}
	if !mayReplicate {
		// Managed services grant the right through a role of their own
		// (rds_replication), so the walsender has the last word.
		return s.tryReplication(ctx, user)
	}
	return nil
}

func (s *Server) tryReplication(ctx context.Context, user string) error {
	conn, err := s.dialReplication(ctx)
	if err == nil {
		_ = conn.Close(ctx)
		return nil
	}
	if fault.Has(err, fault.NoReplicationRole) {
		return fault.Wrap(errors.Unwrap(err), fault.NoReplicationRole, "role %s may not replicate", user).
			WithFix("ALTER ROLE %s WITH REPLICATION", pgx.Identifier{user}.Sanitize())
	}
	return err
}

func (s *Server) probeTable(ctx context.Context) error {
	var exists bool
	err := s.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	    WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r','p'))`, s.cfg.Schema, s.cfg.Table).Scan(&exists)
	if err != nil {
		return classify(err, fault.Unclassified, "look up table")
	}
	if !exists {
		return fault.New(fault.TableMissing, "table %s", s.cfg.qualified())
	}
	return nil
}

// probePublication refuses a publication under which rows of the outbox table
// would be missing from the stream without an error.
func (s *Server) probePublication(ctx context.Context) (string, error) {
	var insert, viaRoot bool
	err := s.conn.QueryRow(ctx, `SELECT pubinsert, pubviaroot FROM pg_publication WHERE pubname = $1`, s.cfg.Publication).
		Scan(&insert, &viaRoot)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", fault.New(fault.PublicationMissing, "publication %s", s.cfg.Publication)
	}
	if err != nil {
		return "", classify(err, fault.Unclassified, "read publication %s", s.cfg.Publication)
	}
	if !insert {
		return "", s.shape("it does not publish inserts", "ALTER PUBLICATION %s SET (publish = 'insert')")
	}
	// pg_publication_tables shows row filters from version 15 on. A column list
	// is not refused here: a column that an event needs is missed by name.
	var filter *string
	err = s.conn.QueryRow(ctx, `SELECT to_jsonb(t)->>'rowfilter' FROM pg_publication_tables t
	   WHERE t.pubname = $1 AND t.schemaname = $2 AND t.tablename = $3`,
		s.cfg.Publication, s.cfg.Schema, s.cfg.Table).Scan(&filter)
	if errors.Is(err, pgx.ErrNoRows) {
		if partitioned, perr := s.partitioned(ctx); perr == nil && partitioned && !viaRoot {
			return "", s.shape("it publishes the partitions under their own names", "ALTER PUBLICATION %s SET (publish_via_partition_root = true)")
		}
		return "", s.shape("the table is not in it", "ALTER PUBLICATION %s ADD TABLE "+s.cfg.qualified())
	}
	if err != nil {
		return "", classify(err, fault.Unclassified, "read publication %s", s.cfg.Publication)
	}
	if filter != nil {
		return "", s.shape("it has a row filter on the table", "ALTER PUBLICATION %s SET TABLE "+s.cfg.qualified())
	}
	// What decides how many change messages a transaction has: the tables and
	// the operations of the publication.
	var definition string
	err = s.conn.QueryRow(ctx, `SELECT p.pubinsert::text || p.pubupdate::text || p.pubdelete::text || p.pubtruncate::text || p.pubviaroot::text || ' ' ||
	      (SELECT string_agg(format('%I.%I', t.schemaname, t.tablename) || coalesce(to_jsonb(t)->>'rowfilter', ''), ',' ORDER BY t.schemaname, t.tablename)
	         FROM pg_publication_tables t WHERE t.pubname = p.pubname)
	    FROM pg_publication p WHERE p.pubname = $1`, s.cfg.Publication).Scan(&definition)
	if err != nil {
		return "", classify(err, fault.Unclassified, "read publication %s", s.cfg.Publication)
	}
	sum := sha256.Sum256([]byte(strings.Join(s.pluginArgs(), ",") + "\n" + definition))
	return hex.EncodeToString(sum[:8]), nil
}

func (s *Server) partitioned(ctx context.Context) (bool, error) {
	var p bool
	err := s.conn.QueryRow(ctx, `SELECT c.relkind = 'p' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	   WHERE n.nspname = $1 AND c.relname = $2`, s.cfg.Schema, s.cfg.Table).Scan(&p)
	return p, err
}

func (s *Server) shape(what, fix string) error {
	return fault.New(fault.PublicationShape, "publication %s: %s", s.cfg.Publication, what).
		WithFix(fix, pgx.Identifier{s.cfg.Publication}.Sanitize())
}

// pluginArgs are the options of START_REPLICATION. pglogrepl splices them into
// the command as they are, so the quoting is ours.
func (s *Server) pluginArgs() []string {
	name := strings.ReplaceAll(pgx.Identifier{s.cfg.Publication}.Sanitize(), `'`, `''`)
	return []string{"proto_version '1'", "publication_names '" + name + "'"}
}

// slot reads the slot and checks that it is one that we can stream from.
func (s *Server) slot(ctx context.Context) (Slot, error) {
	slot, err := Inspect(ctx, s.conn, s.cfg.Slot)
	switch {
	case errors.Is(err, ErrNoSlot):
		return Slot{}, fault.New(fault.SlotMissing, "slot %s", s.cfg.Slot)
	case err != nil:
		return Slot{}, classify(err, fault.Unclassified, "inspect slot")
	}
	return slot, s.fit(slot)
}

// fit refuses a slot that cannot be streamed from.
func (s *Server) fit(slot Slot) error {
	switch {
	case slot.Plugin != "pgoutput":
		return fault.New(fault.SlotShape, "slot %s uses plugin %s", slot.Name, slot.Plugin)
	case slot.Database != s.host.Database:
		return fault.New(fault.SlotShape, "slot %s belongs to database %s, not %s", slot.Name, slot.Database, s.host.Database)
	case slot.Temporary || slot.TwoPhase:
		// Not slot.Synced: this is a primary, where the mark means nothing but
		// that the slot was a copy before a failover.
		return fault.New(fault.SlotShape, "slot %s: temporary=%t two_phase=%t", slot.Name, slot.Temporary, slot.TwoPhase)
	case slot.Lost():
		reason := slot.Invalidation
		if reason == "" {
			reason = "wal_status " + slot.WALStatus
		}
		return fault.New(fault.SlotLost, "slot %s (%s)", slot.Name, reason)
	}
	return nil
}

// agree settles how long Postgres holds the slot for a session that it does not
// hear of, and returns it; 0 means for ever. A busy walsender does not let
// anybody down by it: before it gives up it looks for replies that it has not
// read yet (WalSndWriteData and WalSndLoop in walsender.c).
func (s *Server) agree(ctx context.Context) (time.Duration, error) {
	var ms int64
	err := s.conn.QueryRow(ctx, `SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout'`).Scan(&ms)
	if err != nil {
		return 0, classify(err, fault.Unclassified, "read wal_sender_timeout")
	}
	own := time.Duration(ms) * time.Millisecond
	if want := s.cfg.SenderTimeout; want > 0 && (own == 0 || own > want) {
		s.sender = want
		return want, nil
	}
	return own, nil
}

// describe is for errors and logs; it holds no credentials.
func (s *Server) describe() string {
	return fmt.Sprintf("%s:%d/%s", s.host.Host, s.host.Port, s.host.Database)
}
