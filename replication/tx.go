package replication

import (
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/mutant"
)

// Row is one insert into the outbox table.
type Row struct {
	// Values in text form, one per column of the relation; nil is NULL. The
	// memory belongs to the row and is never changed or reused.
	Values [][]byte
	// Ord is the 1-based number of the change message in its transaction.
	Ord uint64
	// Seq is the 1-based number of the outbox row in its transaction.
	Seq uint64
}

// Tx is a committed transaction, a part of one, or an idle position. Parts of
// a transaction follow each other without anything between them.
type Tx struct {
	XID        uint32
	CommitLSN  pglogrepl.LSN // start of the commit record, known from the first part on
	EndLSN     pglogrepl.LSN // what the slot may be told; zero unless Last or Idle
	CommitTime time.Time
	Relation   *Relation // shape of Rows; nil when there are none
	Rows       []Row
	Bytes      int  // memory held by Rows
	Last       bool // the transaction ends with this part

	// Idle: no rows, but everything that commits below EndLSN was handed over.
	Idle bool
	// ReplyAsked: the server waits for exactly this position to be confirmed,
	// as it does when it is shutting down.
	ReplyAsked bool
}

// Resume says what the checkpoint covers. LSNs belong to the timeline that
// the source streams from.
type Resume struct {
	// Floor: a transaction whose commit record starts below it is dropped.
	Floor pglogrepl.LSN
	// CutLSN and CutOrd: of the transaction that commits at CutLSN the first
	// CutOrd change messages are dropped. Zero: none is cut.
	CutLSN pglogrepl.LSN
	CutOrd uint64
	// WitnessLSN and WitnessXID name a transaction that Postgres must send
	// again. If anything later comes first, the history is not the one that
	// the checkpoint was written on. Zero: none expected.
	WitnessLSN pglogrepl.LSN
	WitnessXID uint32
}

// Parts are handed over at these sizes, so that a transaction of any length
// flows through bounded memory.
const (
	partRows  = 256
	partBytes = 128 << 10
)

// What a row and each of its values take beside their data: the Row, the slice
// header, and their share of the copied message.
const (
	rowOverhead   = 48
	valueOverhead = 32
)

// assembler folds messages into transactions and applies Resume.
type assembler struct {
	schema, table string
	resume        Resume
	emit          func(*Tx)
	metrics       *Metrics
	canary        *canary // nil: none

	relations map[uint32]*Relation
	msg       Message

	open    bool
	cur     Tx // identity of the open transaction, and the part being filled
	ord     uint64
	seq     uint64
	skip    bool   // the whole transaction is covered
	skipOrd uint64 // changes up to this ordinal are covered
	seen    bool   // the witness was seen, or none is expected
	sent    bool   // a part of the open transaction was handed over

	arena  []byte   // messages are copied here; rows point into it
	values [][]byte // slab for Row.Values
}

func newAssembler(schema, table string, resume Resume, m *Metrics, emit func(*Tx)) *assembler {
	return &assembler{
		schema: schema, table: table, resume: resume, emit: emit, metrics: m,
		relations: map[uint32]*Relation{}, seen: resume.WitnessLSN == 0,
	}
}

// message takes one pgoutput message. at is the WAL position of the message.
func (a *assembler) message(at pglogrepl.LSN, data []byte) error {
	m := &a.msg
	// Only rows of ours outlive the call, so only those are copied, before
	// they are decoded: the values then point into the copy.
	if len(data) > 0 && Kind(data[0]) == KindInsert && a.wanted(data, at) {
		data = a.keep(data)
	}
	if err := Decode(data, m); err != nil {
		return fault.Wrap(err, fault.WALDecode, "message at %s", at)
	}
	switch m.Kind {
	case KindBegin:
		return a.begin(m)
	case KindCommit:
		return a.commit(m)
	case KindRelation:
		a.relations[m.Relation.ID] = m.Relation
	case KindInsert, KindUpdate, KindDelete, KindTruncate:
		if !a.open {
			return fault.New(fault.WALDecode, "change message at %s outside a transaction", at)
		}
		a.ord++
		if m.Kind != KindInsert {
			a.metrics.ignored(m.Kind)
			return nil
		}
		return a.insert(m, at)
	}
	return nil
}

// wanted looks at the relation of an insert without decoding it.
func (a *assembler) wanted(data []byte, at pglogrepl.LSN) bool {
	if !a.open || a.skip || a.ord+1 <= a.skipOrd || len(data) < 5 {
		return false
	}
	if mutant.FilterByRowLSN && at < a.resume.Floor {
		return false
	}
	rel := a.relations[uint32(data[1])<<24|uint32(data[2])<<16|uint32(data[3])<<8|uint32(data[4])]
	return rel != nil && a.ours(rel)
}

func (a *assembler) ours(r *Relation) bool { return r.Name == a.table && r.Schema == a.schema }

// keep copies data into memory that the rows of the current part own.
func (a *assembler) keep(data []byte) []byte {
	if cap(a.arena)-len(a.arena) < len(data) {
		a.arena = make([]byte, 0, max(partBytes, len(data)))
	}
	n := len(a.arena)
	a.arena = append(a.arena, data...)
	return a.arena[n:len(a.arena):len(a.arena)]
}

func (a *assembler) begin(m *Message) error {
	if a.open {
		return fault.New(fault.WALDecode, "transaction %d begins inside transaction %d", m.XID, a.cur.XID)
	}
	if err := a.witness(m.CommitLSN, m.XID); err != nil {
		return err
	}
	a.open, a.ord, a.seq, a.sent = true, 0, 0, false
	a.cur = Tx{XID: m.XID, CommitLSN: m.CommitLSN, CommitTime: m.CommitTime}
	a.skip = m.CommitLSN < a.resume.Floor && !mutant.FilterByRowLSN
	a.skipOrd = 0
	if a.resume.CutOrd > 0 && m.CommitLSN == a.resume.CutLSN {
		a.skipOrd = a.resume.CutOrd
	}
	return nil
}

// witness checks the fingerprint of the history: a server that was restored
// from an older copy and has grown past the checkpoint looks healthy in every
// other respect.
func (a *assembler) witness(at pglogrepl.LSN, xid uint32) error {
	if a.seen || at < a.resume.WitnessLSN {
		return nil
	}
	if at == a.resume.WitnessLSN && xid == a.resume.WitnessXID {
		a.seen = true
		return nil
	}
	return fault.New(fault.HistoryMismatch, "expected transaction %d at %s again, Postgres sent %d at %s",
		a.resume.WitnessXID, a.resume.WitnessLSN, xid, at)
}

func (a *assembler) insert(m *Message, at pglogrepl.LSN) error {
	rel := a.relations[m.RelationID]
	if rel == nil {
		return fault.New(fault.WALDecode, "insert at %s into relation %d, which was not described", at, m.RelationID)
	}
	if !a.ours(rel) {
		a.canary.saw(m, rel)
		a.metrics.row(rowFiltered)
		return nil
	}
	a.seq++
	if a.skip || a.ord <= a.skipOrd || (mutant.FilterByRowLSN && at < a.resume.Floor) {
		a.metrics.skipped()
		return nil
	}
	if len(m.Values) != len(rel.Columns) {
		return fault.New(fault.WALDecode, "insert at %s has %d values for %d columns", at, len(m.Values), len(rel.Columns))
	}
	if a.cur.Relation != rel && len(a.cur.Rows) > 0 {
		a.flush(false, 0) // the table was altered inside the transaction
	}
	a.cur.Relation = rel
	if len(a.values)+len(m.Values) > cap(a.values) {
		a.values = make([][]byte, 0, max(partRows*len(m.Values), len(m.Values)))
	}
	n := len(a.values)
	a.values = append(a.values, m.Values...)
	a.cur.Rows = append(a.cur.Rows, Row{Values: a.values[n:len(a.values):len(a.values)], Ord: a.ord, Seq: a.seq})
	a.cur.Bytes += rowOverhead
	for _, v := range m.Values {
		a.cur.Bytes += len(v) + valueOverhead
	}
	if len(a.cur.Rows) >= partRows || a.cur.Bytes >= partBytes {
		a.flush(false, 0)
	}
	return nil
}

func (a *assembler) commit(m *Message) error {
	if !a.open {
		return fault.New(fault.WALDecode, "commit at %s without a begin", m.CommitLSN)
	}
	if m.CommitLSN != a.cur.CommitLSN || m.EndLSN <= m.CommitLSN {
		return fault.New(fault.WALDecode, "transaction %d began for commit %s and ended at %s, %s", a.cur.XID, a.cur.CommitLSN, m.CommitLSN, m.EndLSN)
	}
	a.open = false
	if err := a.canary.passed(m.EndLSN); err != nil {
		return err
	}
	a.metrics.transaction()
	switch {
	case len(a.cur.Rows) > 0 || a.sent || a.skipOrd > 0:
		// Also when no row is left over: the end of the transaction has to be
		// told, or a cut position would stay cut.
		a.flush(true, m.EndLSN)
	case !a.skip && m.EndLSN > a.resume.Floor && m.EndLSN > a.resume.CutLSN:
		a.emit(&Tx{Idle: true, EndLSN: m.EndLSN})
	}
	return nil
}

func (a *assembler) flush(last bool, end pglogrepl.LSN) {
	part := a.cur
	part.Last, part.EndLSN = last, end
	a.sent = true
	a.metrics.events(len(part.Rows))
	a.emit(&part)
	a.cur.Rows, a.cur.Relation, a.cur.Bytes = nil, nil, 0
}

// idle takes the position of a keepalive. Inside a transaction it means
// nothing to us: the transaction is not handed over yet. Nor does it before a
// transaction that was cut has come again: as a complete position it would
// make the cut forgotten, and the first part would be published twice. That is
// no rare moment: the server asks while it decodes a transaction for longer
// than half of wal_sender_timeout, and the ones that are cut are the long ones.
func (a *assembler) idle(end pglogrepl.LSN, replyAsked bool) error {
	if a.open || end < a.resume.Floor || end <= a.resume.CutLSN {
		return nil
	}
	if !a.seen && end > a.resume.WitnessLSN {
		return fault.New(fault.HistoryMismatch, "expected transaction %d at %s again, Postgres is at %s without it",
			a.resume.WitnessXID, a.resume.WitnessLSN, end)
	}
	if err := a.canary.passed(end); err != nil {
		return err
	}
	a.emit(&Tx{Idle: true, EndLSN: end, ReplyAsked: replyAsked})
	return nil
}

// String names the transaction for logs and errors.
func (t *Tx) String() string { return fmt.Sprintf("transaction %d at %s", t.XID, t.CommitLSN) }
