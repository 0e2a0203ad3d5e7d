package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
)

// OracleSource says where the committed history is read.
type OracleSource struct {
	Slot        string // never confirmed by anybody; made by CreateOracle
	Publication string
	Table       string         // "" is outbox.DefaultTable
	Columns     outbox.Columns // zero is the default
	// Earlier is what DrainOracle has taken from the slot before; nil: nothing.
	Earlier *Oracle
	// Pruned says that rows are deleted from the table, so that it cannot
	// witness for the slot.
	Pruned bool
}

// CreateOracle makes the slot. What commits from now on is history; a relay
// that is initialised later owes only what its first checkpoint does not
// cover. Where the server can, standbys keep it in step: the history is wanted
// after a failover too.
func CreateOracle(ctx context.Context, conn *pgx.Conn, slot string) error {
	create := `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`
	var version int
	if err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&version); err != nil {
		return fmt.Errorf("read version: %w", err)
	}
	if version >= 170000 {
		create = `SELECT pg_create_logical_replication_slot($1, 'pgoutput', false, false, true)`
	}
	if _, err := conn.Exec(ctx, create, slot); err != nil {
		return fmt.Errorf("create oracle slot: %w", err)
	}
	return nil
}

// settings make values look as they do in the relay's stream, whatever the
// role has set.
const settings = `SET LOCAL bytea_output = 'hex'; SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres';
	SET LOCAL timezone = 'UTC'; SET LOCAL extra_float_digits = 1; SET LOCAL statement_timeout = 0`

// timelineNow asks for the timeline as file names of the WAL tell it; the
// control file may be behind after a promotion.
const timelineNow = `SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int`

const (
	get  = `SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', $2)`
	peek = `SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', $2)`
)

// DrainOracle is ReadOracle that takes what it reads from the slot, so that the
// server need not keep it, and does not compare it with the table.
func DrainOracle(ctx context.Context, conn *pgx.Conn, src OracleSource) (Oracle, error) {
	return readOracle(ctx, conn, src, get)
}

// ReadOracle reads the whole history that the slot holds, without moving it,
// and compares it with the table. Nothing may commit meanwhile. All of it goes
// by the name of the server's present timeline; see lineage.
func ReadOracle(ctx context.Context, conn *pgx.Conn, src OracleSource) (Oracle, error) {
	return readOracle(ctx, conn, src, peek)
}

func readOracle(ctx context.Context, conn *pgx.Conn, src OracleSource, how string) (Oracle, error) {
	if src.Table == "" {
		src.Table = outbox.DefaultTable
	}
	if src.Columns == (outbox.Columns{}) {
		src.Columns = outbox.DefaultColumns()
	}
	table, err := outbox.ParseTable(src.Table)
	if err != nil {
		return Oracle{}, err
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{})
	if err != nil {
		return Oracle{}, fmt.Errorf("read oracle: %w", err)
	}
	defer tx.Rollback(ctx)
	if _, err := tx.Exec(ctx, settings); err != nil {
		return Oracle{}, fmt.Errorf("read oracle: %w", err)
	}
	var timeline int32
	if err := tx.QueryRow(ctx, timelineNow).Scan(&timeline); err != nil {
		return Oracle{}, fmt.Errorf("read timeline: %w", err)
	}
	s := scribe{table: table, columns: src.Columns, timeline: timeline, shapes: map[uint32]*shape{}}
	if src.Earlier != nil {
		s.oracle.Txs, s.oracle.Rows = slices.Clone(src.Earlier.Txs), slices.Clone(src.Earlier.Rows)
	}
	rows, err := tx.Query(ctx, how, src.Slot, quoteIdentifier(src.Publication))
	if err != nil {
		return Oracle{}, fmt.Errorf("read oracle slot: %w", err)
	}
	var data pgtype.DriverBytes // the connection's own memory, until the next row
	if _, err := pgx.ForEachRow(rows, []any{&data}, func() error { return s.take(data) }); err != nil {
		return Oracle{}, fmt.Errorf("read oracle slot: %w", err)
	}
	if s.open {
		return Oracle{}, errors.New("read oracle slot: it ends inside a transaction")
	}
	if how == get {
		return s.oracle, tx.Commit(ctx)
	}
	if !src.Pruned {
		if err := s.crossCheck(ctx, tx, src.Columns.ID); err != nil {
			return Oracle{}, fmt.Errorf("compare oracle with %s: %w", table, err)
		}
	}
	return s.oracle, nil
}

// quoteIdentifier writes a publication's name as the option's list of names
// wants it.
func quoteIdentifier(name string) string { return pgx.Identifier{name}.Sanitize() }

// scribe folds pgoutput messages into the history.
type scribe struct {
	table    outbox.Table
	columns  outbox.Columns
	timeline int32
	oracle   Oracle

	shapes map[uint32]*shape
	msg    replication.Message
	open   bool
	tx     Tx
	ord    uint32
	rec    outbox.Record
}

// shape is a table as the stream described it; other tables have no decoder.
type shape struct{ decoder *outbox.Decoder }

func (s *scribe) take(data []byte) error {
	m := &s.msg
	if err := replication.Decode(data, m); err != nil {
		return err
	}
	switch m.Kind {
	case replication.KindBegin:
		s.open, s.ord = true, 0
		s.tx = Tx{Timeline: s.timeline, XID: m.XID, LSN: m.CommitLSN, First: uint32(len(s.oracle.Rows))}
	case replication.KindCommit:
		s.open = false
		if m.CommitLSN != s.tx.LSN {
			return fmt.Errorf("transaction %d began for commit %s and ended at %s", s.tx.XID, s.tx.LSN, m.CommitLSN)
		}
		if int(s.tx.First) == len(s.oracle.Rows) {
			return nil
		}
		s.tx.EndLSN = m.EndLSN
		s.oracle.Txs = append(s.oracle.Txs, s.tx)
	case replication.KindRelation:
		return s.describe(m.Relation)
	case replication.KindInsert:
		s.ord++
		return s.insert(m)
	case replication.KindUpdate, replication.KindDelete, replication.KindTruncate:
		s.ord++
	}
	return nil
}

func (s *scribe) describe(r *replication.Relation) error {
	sh := &shape{}
	s.shapes[r.ID] = sh
	if r.Name != s.table.Name || s.table.Schema != "" && r.Schema != s.table.Schema {
		return nil
	}
	columns := make([]outbox.Column, len(r.Columns))
	for i, c := range r.Columns {
		columns[i] = outbox.Column{Name: c.Name, TypeOID: c.TypeOID}
	}
	var err error
	sh.decoder, err = outbox.NewDecoder(s.columns, columns)
	return err
}

func (s *scribe) insert(m *replication.Message) error {
	sh := s.shapes[m.RelationID]
	switch {
	case sh == nil:
		return fmt.Errorf("insert into relation %d, which was not described", m.RelationID)
	case sh.decoder == nil:
		return nil
	}
	// A row that can be no record is history all the same: a letter is owed.
	var bad *outbox.RowError
	if err := sh.decoder.Decode(m.Values, &s.rec); err != nil && !errors.As(err, &bad) {
		return err
	}
	key := s.rec.Key
	if key == "" {
		key = s.rec.AggregateID
	}
	partition := int32(-1)
	if n, ok := s.rec.Partition.Get(); ok {
		partition = n
	}
	mark := readMarks(s.rec.Payload)
	if mark.undone {
		return fmt.Errorf("row %s was rolled back by its writer and is in the committed history", s.rec.ID)
	}
	s.oracle.Rows = append(s.oracle.Rows, Row{
		ID: IDOf(s.rec.ID), Hash: HashOf(s.rec.Payload), Key: NameOf(key), Topic: NameOf(s.rec.Topic),
		Tx: uint32(len(s.oracle.Txs)), Ord: s.ord, Partition: partition,
		KeySeq: mark.keySeq, Marked: mark.marked, Poison: mark.poison != nil, Reason: NameOf(string(mark.poison)),
	})
	return nil
}

// crossCheck compares the ids of the slot with those of the table.
func (s *scribe) crossCheck(ctx context.Context, tx pgx.Tx, column string) error {
	compare := func(a, b ID) int { return bytes.Compare(a[:], b[:]) }
	slot := make([]ID, len(s.oracle.Rows))
	for i := range slot {
		slot[i] = s.oracle.Rows[i].ID
	}
	table := make([]ID, 0, len(slot))
	rows, err := tx.Query(ctx, "SELECT "+quoteIdentifier(column)+"::text FROM "+s.table.SQL())
	if err != nil {
		return err
	}
	var text string
	if _, err := pgx.ForEachRow(rows, []any{&text}, func() error { table = append(table, IDOf(text)); return nil }); err != nil {
		return err
	}
	slices.SortFunc(slot, compare)
	slices.SortFunc(table, compare)
	note := func(id ID, count *int) {
		*count++
		if len(s.oracle.Disagree) < 2*reach {
			s.oracle.Disagree = append(s.oracle.Disagree, id)
		}
	}
	for i, k := 0, 0; i < len(slot) || k < len(table); {
		switch {
		case k == len(table) || i < len(slot) && compare(slot[i], table[k]) < 0:
			note(slot[i], &s.oracle.OnlyInSlot)
			i++
		case i == len(slot) || compare(table[k], slot[i]) < 0:
			note(table[k], &s.oracle.OnlyInTable)
			k++
		default:
			i, k = i+1, k+1
		}
	}
	return nil
}
