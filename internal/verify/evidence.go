package verify

import (
	"cmp"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/checkpoint"
)

// Evidence is everything that Check judges by.
type Evidence struct {
	Oracle      Oracle
	Logs        []Log
	Checkpoints []CheckpointRecord // in offset order
	State       State
	Samples     []Sample // in time order
	Sightings   []Sighting
	Rules       Rules
}

// Rules say what the configuration promises; the zero value promises nothing.
type Rules struct {
	// Topic is where rows go that ask for none. "" with a topic template.
	Topic string `json:"topic,omitempty"`
	// Quiet says that the run had come to rest before the logs were read, so
	// that no transaction may be open.
	Quiet bool `json:"quiet,omitempty"`
	// Parked says that later rows of a key wait behind its letter, so that the
	// order of the key holds over originals and replays together.
	Parked bool `json:"parked,omitempty"`
	// Redirects are topics that letters may be replayed to instead of their
	// own: a person named another.
	Redirects []string `json:"redirects,omitempty"`
}

// Position names a row for ever on its timeline. Row LSNs do not: they repeat.
type Position struct {
	Timeline int32
	LSN      pglogrepl.LSN // of the commit
	Ord      uint32        // change message within the transaction, from 1
}

// Compare orders positions as the history does.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Timeline, q.Timeline), cmp.Compare(p.LSN, q.LSN), cmp.Compare(p.Ord, q.Ord))
}

func (p Position) String() string { return fmt.Sprintf("%d:%s+%d", p.Timeline, p.LSN, p.Ord) }

// Oracle is the committed history of the outbox table, in commit order.
type Oracle struct {
	Txs  []Tx
	Rows []Row
	// OnlyInTable and OnlyInSlot count ids on which the slot and the table do
	// not agree; Disagree holds some of them.
	OnlyInTable, OnlyInSlot int
	Disagree                []ID
}

// Tx is a committed transaction that inserted into the outbox.
type Tx struct {
	LSN, EndLSN pglogrepl.LSN
	First       uint32 // index of its first row in Oracle.Rows
	XID         uint32
	Timeline    int32
}

// Row is one committed insert.
type Row struct {
	ID        ID
	Hash      Hash
	Key       Name // message key, or else aggregate id
	Topic     Name // asked for by the row
	Tx        uint32
	Ord       uint32
	KeySeq    uint32 // from its Mark; 0: has none
	Partition int32  // asked for by the row; -1: none
	Marked    bool   // its payload is a Mark
	Poison    bool   // its Mark says that it must become a letter
	Reason    Name   // with which one; "": any
}

// At returns the position of row i.
func (o *Oracle) At(i int) Position {
	r := &o.Rows[i]
	tx := &o.Txs[r.Tx]
	return Position{Timeline: tx.Timeline, LSN: tx.LSN, Ord: r.Ord}
}

// Fate is how the Kafka transaction of a record ended, by its marker.
type Fate uint8

// The fates. NoTransaction is a record outside of any.
const (
	Open Fate = iota
	Commit
	Abort
	NoTransaction
)

func (f Fate) String() string {
	return [...]string{"open", "commit", "abort", "no transaction"}[f]
}

// Producer is who wrote a record. With transaction.version=2 the epoch grows
// with every transaction, so that it names one.
type Producer struct {
	ID    int64
	Epoch int16
}

// Log is one output partition.
type Log struct {
	Topic     string
	Partition int32
	Letters   bool // a dead letter topic
	// Start, LSO and HW are its bounds when it was read: first offset, last
	// stable offset, high watermark.
	Start, LSO, HW int64
	Records        []Record // in offset order, without markers
}

// Record is one record, as far as it matters.
type Record struct {
	Offset    int64
	ID        ID
	Hash      Hash
	Key       Name
	LSN       pglogrepl.LSN
	Ckpt      uint64
	Producer  Producer
	Ord, Seq  uint32
	KeySeq    uint32
	Timeline  int32
	Fate      Fate
	Committed bool // shown to a read_committed consumer
	Undone    bool // carries the mark of a row that was rolled back
	Replayed  bool // was a letter before
	Recovered bool // made from the table: its position is the recovery's own
	Keyless   bool // a letter that had to leave its key out
	Reason    Name // of a letter
	Group     Name // of consumers: their letter, or a replay for them alone
	ReplayOf  ID   // of a replay: the letter that it names
	Again     bool // has been a letter before: the second attempt or a later one
}

// delivery tells whether the record is what the relay itself made of a row:
// its event or its letter. Replays are not, nor what becomes of them, nor are
// letters of consumers.
func (r *Record) delivery() bool {
	return r.Committed && !r.Replayed && !r.Again && r.Group == (Name{})
}

// At returns the position that the record's headers name.
func (r *Record) At() Position {
	return Position{Timeline: r.Timeline, LSN: r.LSN, Ord: r.Ord}
}

// CheckpointRecord is one record of the checkpoint topic.
type CheckpointRecord struct {
	Offset     int64
	Kind       checkpoint.Kind
	Session    string
	Checkpoint checkpoint.Checkpoint // of kind Lane
	Producer   Producer
	Fate       Fate
	Committed  bool
	Hole       bool   // offsets before it are gone: the log was compacted
	Fault      string // why it could not be decoded
}

// Sample is one look at both ends. The checkpoint is looked at after the slot,
// so that it can only be newer.
type Sample struct {
	At        time.Time
	Epoch     int // grows when Postgres had gone away: the slot may fall back then
	Confirmed pglogrepl.LSN
	Seq       uint64        // newest committed checkpoint; 0: none
	End       pglogrepl.LSN // its position
	LSO, HW   int64         // of the checkpoint topic
}

// Sighting is what a live read_committed consumer saw of one partition, in the
// order in which it saw it.
type Sighting struct {
	Topic     string
	Partition int32
	Start     int64 // where it began to read
	Offsets   []int64
	IDs       []uint64 // folded
	Faults    []string // what the client complained of
}
