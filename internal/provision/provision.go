// Package provision creates what a relay needs, once: table, publication,
// slot, topics and the first checkpoint.
//
// The order is the point. The topics come first, then an intent record, then
// the publication, then the slot, then the first checkpoint at the slot's
// consistent point. A publication made after the slot would leave a stretch of
// WAL that cannot be decoded; a slot without an intent cannot be told from one
// whose checkpoint was lost.
//
// It is idempotent only while slot and checkpoint agree. One without the other
// is refused by name, except where the intent proves that an earlier init died
// between them: nobody can have streamed from such a slot, because serve
// refuses a slot without a checkpoint.
//
// A slot that another program has read, Debezium's connector as a rule, is taken
// over instead of made (TakeOver): same intent, same first checkpoint, at the
// position that its reader confirmed last.
//
// It leaves to others: deciding where an initialised relay resumes
// (internal/relay), and rights, which are the operator's.
package provision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// insufficientPrivilege is a SQLSTATE.
const insufficientPrivilege = "42501"

// slotTimeout bounds the creation of the slot, which waits for every open
// transaction of the server.
const slotTimeout = 2 * time.Minute

// Plan is everything that init creates.
type Plan struct {
	Source  replication.Config // with the credentials that may create
	Table   outbox.Table
	Columns outbox.Columns
	Sink    sink.Config
	Kafka   []kgo.Opt
	Topics  []Topic // the checkpoint topic among them
	// Partitioned makes a table that is partitioned by time, with Partitions as
	// the statements that make its first ones.
	Partitioned bool
	Partitions  []string
	Role        string // that relays; "": the one that creates
	Canary      bool   // outbox.canary is to be in the publication
	Log         zerolog.Logger
}

// Statements returns the SQL of the plan, in order, for a server of the given
// version (server_version_num).
func (p *Plan) Statements(version int) ([]string, error) {
	ddl, err := p.TableStatements()
	if err != nil {
		return nil, err
	}
	ddl = append(ddl, outbox.Surface()...)
	ddl = append(ddl, p.surfaceGrants()...)
	ddl = append(ddl, p.Source.CreatePublicationSQL())
	if p.Canary {
		ddl = append(ddl, p.Source.AddCanarySQL())
	}
	return append(ddl, p.Source.CreateSlotSQL(version)), nil
}

// TableStatements returns the SQL that makes the table alone.
func (p *Plan) TableStatements() ([]string, error) {
	schema := outbox.Schema
	if p.Partitioned {
		schema = outbox.SchemaPartitioned
	}
	ddl, err := schema(p.Table.SQL())
	if err != nil {
		return nil, fault.Wrap(err, fault.ConfigInvalid, "OUTBOX_TABLE")
	}
	if p.Partitioned {
		ddl = append(ddl, p.Partitions...)
	}
	return ddl, nil
}

// Outcome says what Run found.
type Outcome struct {
	Created    bool // false: everything was there already
	Position   pglogrepl.LSN
	Checkpoint checkpoint.Checkpoint
}

// Run carries the plan out. Errors carry a fault.Code.
func (p *Plan) Run(ctx context.Context) (Outcome, error) {
	srv, err := replication.Connect(ctx, p.Source)
	if err != nil {
		return Outcome{}, err
	}
	defer srv.Close()
	// Before anything is made: what could never stream is to leave no trace.
	if err := srv.CheckServer(ctx); err != nil {
		return Outcome{}, err
	}
	if err := srv.Lock(ctx, p.Sink.Name); err != nil {
		return Outcome{}, err
	}
	if err := p.schema(ctx, srv); err != nil {
		return Outcome{}, err
	}
	if err := p.surface(ctx, srv); err != nil {
		return Outcome{}, err
	}
	if err := p.createTopics(ctx); err != nil {
		return Outcome{}, err
	}
	log := checkpoint.Log{Topic: p.Sink.CheckpointTopic, Name: p.Sink.Name, Opts: p.Kafka}
	state, err := peek(ctx, log)
	if err != nil {
		return Outcome{}, err
	}
	id, err := srv.Identify(ctx)
	if err != nil {
		return Outcome{}, err
	}
	slot, err := srv.Slot(ctx)
	exists := !fault.Has(err, fault.SlotMissing)
	if err != nil && exists {
		return Outcome{}, err
	}
	switch {
	case exists && state.Last != nil:
		return Outcome{Position: slot.ConfirmedLSN, Checkpoint: *state.Last}, p.publication(ctx, srv)
	case exists && slot.Active:
		return Outcome{}, fault.New(fault.SlotHeld, "slot %s is held by %s", slot.Name, replication.WhoHolds(ctx, srv.Conn(), slot.ActivePID)).
			WithFix("choose another OUTBOX_SLOT, or end that session: SELECT pg_terminate_backend(%d)", slot.ActivePID)
	case exists && !p.intended(state.Intent, id):
		return Outcome{}, fault.New(fault.CheckpointMissing, "slot %s exists, at %s, and topic %s has no checkpoint for relay %s",
			slot.Name, slot.ConfirmedLSN, log.Topic, log.Name)
	case !exists && state.Last != nil:
		return Outcome{}, fault.New(fault.SlotMissing, "checkpoint %d at %s exists, and slot %s does not", state.Last.Seq, state.Last.Pos, p.Source.Slot)
	}
	return p.create(ctx, srv, id, slot, exists)
}

// intended tells whether an earlier init meant exactly this slot: one of the
// same name elsewhere is somebody else's.
func (p *Plan) intended(i *checkpoint.Intent, id replication.Identity) bool {
	return i != nil && i.Source.SystemID == id.SystemID && i.Source.Database == id.Database && i.Source.Slot == p.Source.Slot
}

// topicPatience is how long the brokers may take until all of them know a topic
// that has just been created.
const topicPatience = 10 * time.Second

// peek reads the checkpoint topic, which exists: createTopics has seen to it. A
// broker that answers otherwise has not heard of it yet.
func peek(ctx context.Context, log checkpoint.Log) (checkpoint.State, error) {
	for since := time.Now(); ; {
		state, err := log.Peek(ctx)
		err = kafka.Classify("read checkpoint", err)
		if !fault.Has(err, fault.KafkaTopicMissing) || time.Since(since) > topicPatience {
			return state, err
		}
		select {
		case <-time.After(topicPatience / 100):
		case <-ctx.Done():
			return state, fmt.Errorf("read checkpoint: %w", context.Cause(ctx))
		}
	}
}

// Install makes the table alone, and tells whether it did.
func (p *Plan) Install(ctx context.Context) (made bool, err error) {
	srv, err := replication.Connect(ctx, p.Source)
	if err != nil {
		return false, err
	}
	defer srv.Close()
	if err := srv.Lock(ctx, p.Sink.Name); err != nil {
		return false, err
	}
	return p.table(ctx, srv)
}

func (p *Plan) schema(ctx context.Context, srv *replication.Server) error {
	_, err := p.table(ctx, srv)
	return err
}

// table makes the table if it does not exist, and judges it if it does.
func (p *Plan) table(ctx context.Context, srv *replication.Server) (made bool, err error) {
	ddl, err := p.TableStatements()
	if err != nil {
		return false, err
	}
	var there bool
	err = srv.Conn().QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, p.Table.SQL()).Scan(&there)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == insufficientPrivilege:
		return false, fault.Wrap(err, fault.NoRight, "look up table %s", p.Table).
			WithFix("have the owner run: GRANT USAGE ON SCHEMA %s TO %s;", pgx.Identifier{p.Source.Schema}.Sanitize(), pgx.Identifier{p.Source.Conn.User}.Sanitize())
	case err != nil:
		return false, fault.Wrap(err, fault.Unclassified, "look up table %s", p.Table)
	}
	if there && p.Partitioned {
		var kind string
		if err := srv.Conn().QueryRow(ctx, `SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)`, p.Table.SQL()).Scan(&kind); err != nil {
			return false, fault.Wrap(err, fault.Unclassified, "look up table %s", p.Table)
		}
		if kind != "p" {
			return false, fault.New(fault.TableUnlike, "table %s has no partitions", p.Table)
		}
	}
	if there {
		return false, p.columns(ctx, srv) // also somebody else's table with the five columns
	}
	for _, sql := range ddl {
		if err := srv.Exec(ctx, sql); err != nil {
			return false, err
		}
	}
	p.Log.Info().Str("table", p.Table.String()).Msg("table created")
	return true, nil
}

// columns refuses a table from which no event could be read. Only init asks:
// the rows that serve has yet to read may be older than the table's shape, and
// are judged by the shape that the stream gives them.
func (p *Plan) columns(ctx context.Context, srv *replication.Server) error {
	table, err := srv.Columns(ctx)
	if err != nil {
		return err
	}
	cols := make([]outbox.Column, len(table))
	for i, c := range table {
		cols[i] = outbox.Column{Name: c.Name, TypeOID: c.TypeOID}
	}
	if _, err := outbox.NewDecoder(p.Columns, cols); err != nil {
		return fault.Wrap(err, fault.ColumnMissing, "table %s", p.Table)
	}
	return nil
}

func (p *Plan) publication(ctx context.Context, srv *replication.Server) error {
	there, err := srv.PublicationExists(ctx)
	if err != nil {
		return err
	}
	if !there {
		if err := srv.Exec(ctx, p.Source.CreatePublicationSQL()); err != nil {
			return err
		}
		p.Log.Info().Str("publication", p.Source.Publication).Msg("publication created")
	}
	if p.Canary {
		if err := p.canary(ctx, srv); err != nil {
			return err
		}
	}
	return srv.Check(ctx)
}

// create makes intent, publication, slot and first checkpoint.
func (p *Plan) create(ctx context.Context, srv *replication.Server, id replication.Identity, slot replication.Slot, exists bool) (Outcome, error) {
	snk, sess, err := sink.Open(ctx, p.Sink, p.Kafka, p.Log, nil)
	if err != nil {
		return Outcome{}, err
	}
	defer snk.Close()
	source := checkpoint.Source{
		SystemID: id.SystemID, Database: id.Database, Slot: p.Source.Slot, Publication: p.Source.Publication,
		ClusterID: sess.ClusterID, TopicID: sess.TopicID,
	}
	intent, err := checkpoint.Intent{Source: source, Time: time.Now()}.Record(p.Sink.CheckpointTopic, p.Sink.Name)
	if err != nil {
		return Outcome{}, fault.Wrap(err, fault.Unclassified, "write intent")
	}
	if err := snk.Single(ctx, intent); err != nil {
		return Outcome{}, fmt.Errorf("write intent: %w", err)
	}
	if err := p.publication(ctx, srv); err != nil {
		return Outcome{}, err
	}
	at := slot.ConfirmedLSN
	if !exists {
		if at, err = p.slot(ctx, srv); err != nil {
			return Outcome{}, err
		}
	}
	host, _ := os.Hostname()
	ck := checkpoint.Checkpoint{
		Seq: 1, SessionID: sess.ID, SessionNo: sess.No,
		Pos:    checkpoint.Position{Timeline: id.Timeline, EndLSN: at},
		Source: source, Host: host, PID: os.Getpid(), Version: p.Sink.Version, Time: time.Now(),
	}
	if err := snk.Begin(); err != nil {
		return Outcome{}, err
	}
	if err := snk.Commit(ctx, ck); err != nil {
		return Outcome{}, err
	}
	if err := snk.ReadBack(ctx, ck); err != nil {
		return Outcome{}, err
	}
	p.Log.Info().Str("lsn", at.String()).Str("topic", p.Sink.CheckpointTopic).Msg("first checkpoint written")
	return Outcome{Created: true, Position: at, Checkpoint: ck}, nil
}

func (p *Plan) slot(ctx context.Context, srv *replication.Server) (pglogrepl.LSN, error) {
	sctx, cancel := context.WithTimeout(ctx, slotTimeout)
	defer cancel()
	at, err := srv.CreateSlot(sctx)
	if err != nil {
		if errors.Is(sctx.Err(), context.DeadlineExceeded) {
			return 0, fault.Wrap(err, fault.PostgresUnreachable, "create slot %s within %s", p.Source.Slot, slotTimeout).
				WithWhy("creating a slot waits for every open transaction of the server").
				WithFix("SELECT pid, xact_start, query FROM pg_stat_activity WHERE xact_start < now() - interval '1 minute'; then run init again")
		}
		return 0, err
	}
	p.Log.Info().Str("slot", p.Source.Slot).Str("lsn", at.String()).Msg("slot created")
	return at, nil
}
