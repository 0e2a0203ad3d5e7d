package checkpoint

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"
)

// formatVersion is the newest that a reader knows; it accepts older ones. The
// golden files under testdata hold one record of each. What is written is the
// oldest version that says everything: 2 only while keys are parked, because a
// program that cannot see those would send their events on, and 3 only while a
// recovery is under way, because one that cannot see that would resume inside of
// it. So a relay that never did either can go back to its predecessor.
const (
	formatVersion   = 3
	recoveryVersion = 3
	parkedVersion   = 2
	plainVersion    = 1
)

// Kind tells the three sorts of record in the checkpoint topic apart.
type Kind uint8

// The kinds. Unknown is a record of another relay or another program.
const (
	Unknown Kind = iota
	Lane
	Session
	Init
)

const (
	laneSuffix    = "/lane/0"
	sessionSuffix = "/session"
	initSuffix    = "/init"
	auditInfix    = "/audit/" // followed by the id of a recovery
	keyPrefix     = "outbox-"
)

// KindOf tells what a record with this key is, and to which relay it belongs.
func KindOf(key []byte) (kind Kind, name string) {
	s, ok := strings.CutPrefix(string(key), keyPrefix)
	if !ok {
		return Unknown, ""
	}
	for suffix, k := range map[string]Kind{laneSuffix: Lane, sessionSuffix: Session, initSuffix: Init} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			return k, n
		}
	}
	return Unknown, ""
}

// Barrier is written by every session before it reads: what a read_committed
// reader finds before it is everything that any predecessor committed.
type Barrier struct {
	SessionID string
	Host      string
	PID       int
	Version   string
	Time      time.Time
}

// Intent is written by init before it creates the slot, so that an init which
// died half-way can be told from a checkpoint that was lost.
type Intent struct {
	Source Source
	Time   time.Time
}

// LSNs are text in the form every Postgres tool prints; as JSON numbers they
// would lose precision above 2^53 in most readers.
type wirePosition struct {
	Timeline  int32  `json:"timeline"`
	CommitLSN string `json:"commit_lsn"`
	EndLSN    string `json:"end_lsn"`
	Ordinal   uint64 `json:"ordinal,omitempty"`
}

type wireTransaction struct {
	CommitLSN  string     `json:"commit_lsn"`
	EndLSN     string     `json:"end_lsn,omitempty"`
	XID        uint32     `json:"xid"`
	CommitTime *time.Time `json:"commit_ts,omitempty"`
}

type wireSource struct {
	SystemID    string `json:"system_id"`
	Database    string `json:"database"`
	Slot        string `json:"slot"`
	Publication string `json:"publication"`
	ClusterID   string `json:"kafka_cluster_id"`
	TopicID     string `json:"checkpoint_topic_id"`
}

type wireCheckpoint struct {
	V           int              `json:"v"`
	Seq         uint64           `json:"seq"`
	SessionID   string           `json:"session_id"`
	SessionNo   uint64           `json:"session_no"`
	Pos         wirePosition     `json:"pos"`
	LastTx      *wireTransaction `json:"last_tx,omitempty"`
	Source      wireSource       `json:"source"`
	OptionsHash string           `json:"options_hash,omitempty"`
	Rows        uint64           `json:"rows"`
	RowsTotal   uint64           `json:"rows_total"`
	DLQTotal    uint64           `json:"dlq_total"`
	Host        string           `json:"host,omitempty"`
	PID         int              `json:"pid,omitempty"`
	Version     string           `json:"relay_version,omitempty"`
	Time        time.Time        `json:"time"`
	Override    string           `json:"override,omitempty"`
	Rebased     bool             `json:"rebased,omitempty"`
	Recovery    *wireRecovery    `json:"recovery,omitempty"`
	Parked      []wireParked     `json:"parked,omitempty"`
}

type wireRecovery struct {
	ID    string        `json:"id"`
	Code  string        `json:"code"`
	Began time.Time     `json:"began"`
	From  *wirePosition `json:"from,omitempty"`

	At      *time.Time `json:"at,omitempty"`
	Rows    uint64     `json:"rows_before"`
	Letters uint64     `json:"dlq_before"`
}

type wireParked struct {
	Hash      string `json:"key"`
	Timeline  int32  `json:"timeline"`
	LSN       string `json:"commit_lsn"`
	Ordinal   uint64 `json:"ordinal"`
	Letters   uint64 `json:"letters"`
	Partition int32  `json:"partition,omitempty"`
	Offset    int64  `json:"offset"`
}

type wireBarrier struct {
	V         int       `json:"v"`
	SessionID string    `json:"session_id"`
	Host      string    `json:"host,omitempty"`
	PID       int       `json:"pid,omitempty"`
	Version   string    `json:"relay_version,omitempty"`
	Time      time.Time `json:"time"`
}

type wireIntent struct {
	V      int        `json:"v"`
	Source wireSource `json:"source"`
	Time   time.Time  `json:"time"`
}

// Record returns the checkpoint as the record to be produced to topic, for the
// relay called name. It refuses a checkpoint that breaks an invariant.
func (c Checkpoint) Record(topic, name string) (*kgo.Record, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("encode checkpoint: %w", err)
	}
	w := wireCheckpoint{
		V: plainVersion, Seq: c.Seq, SessionID: c.SessionID, SessionNo: c.SessionNo,
		Pos:    wirePositionOf(c.Pos),
		Source: wireSource(c.Source), OptionsHash: c.OptionsHash,
		Rows: c.Rows, RowsTotal: c.RowsTotal, DLQTotal: c.LettersTotal,
		Host: c.Host, PID: c.PID, Version: c.Version, Time: c.Time.UTC(), Override: c.Override,
	}
	if tx := c.LastTx; tx.CommitLSN != 0 {
		w.LastTx = &wireTransaction{CommitLSN: tx.CommitLSN.String(), XID: tx.XID}
		if tx.EndLSN != 0 {
			w.LastTx.EndLSN = tx.EndLSN.String()
		}
		if !tx.CommitTime.IsZero() {
			t := tx.CommitTime.UTC()
			w.LastTx.CommitTime = &t
		}
	}
	w.Rebased = c.Rebased
	for _, k := range c.Parked {
		w.V = parkedVersion
		w.Parked = append(w.Parked, wireParked{
			Hash: k.Hash, Timeline: k.Timeline, LSN: k.LSN.String(), Ordinal: k.Ordinal, Letters: k.Letters, Partition: k.Partition, Offset: k.Offset,
		})
	}
	if r := c.Recovery; r != nil {
		w.V = recoveryVersion
		w.Recovery = &wireRecovery{ID: r.ID, Code: r.Code, Began: r.Began.UTC(), Rows: r.Rows, Letters: r.Letters}
		if !r.At.IsZero() {
			at := r.At.UTC()
			w.Recovery.At = &at
		}
		if r.From.Timeline != 0 {
			from := wirePositionOf(r.From)
			w.Recovery.From = &from
		}
	}
	return record(topic, name+laneSuffix, w)
}

func wirePositionOf(p Position) wirePosition {
	return wirePosition{Timeline: p.Timeline, CommitLSN: p.CommitLSN.String(), EndLSN: p.EndLSN.String(), Ordinal: p.Ordinal}
}

// Record returns the barrier as the record to be produced to topic.
func (b Barrier) Record(topic, name string) (*kgo.Record, error) {
	return record(topic, name+sessionSuffix, wireBarrier{
		V: plainVersion, SessionID: b.SessionID, Host: b.Host, PID: b.PID, Version: b.Version, Time: b.Time.UTC(),
	})
}

// Record returns the intent as the record to be produced to topic.
func (i Intent) Record(topic, name string) (*kgo.Record, error) {
	return record(topic, name+initSuffix, wireIntent{V: plainVersion, Source: wireSource(i.Source), Time: i.Time.UTC()})
}

func record(topic, key string, value any) (*kgo.Record, error) {
	b, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode record for %s: %w", topic, err)
	}
	return &kgo.Record{Topic: topic, Partition: 0, Key: []byte(keyPrefix + key), Value: b}, nil
}

// Decode reads a checkpoint record.
func Decode(rec *kgo.Record) (Checkpoint, error) {
	var w wireCheckpoint
	if err := unmarshal(rec, &w, &w.V); err != nil {
		return Checkpoint{}, err
	}
	c := Checkpoint{
		Seq: w.Seq, SessionID: w.SessionID, SessionNo: w.SessionNo,
		Pos: Position{Timeline: w.Pos.Timeline, Ordinal: w.Pos.Ordinal}, Source: Source(w.Source),
		OptionsHash: w.OptionsHash, Rows: w.Rows, RowsTotal: w.RowsTotal, LettersTotal: w.DLQTotal,
		Host: w.Host, PID: w.PID, Version: w.Version, Time: w.Time, Override: w.Override, Rebased: w.Rebased,
	}
	var bad error
	lsn := func(text string) pglogrepl.LSN {
		v, err := pglogrepl.ParseLSN(text)
		if err != nil {
			bad = fmt.Errorf("decode checkpoint at offset %d: %w", rec.Offset, err)
		}
		return v
	}
	c.Pos.CommitLSN, c.Pos.EndLSN = lsn(w.Pos.CommitLSN), lsn(w.Pos.EndLSN)
	if tx := w.LastTx; tx != nil {
		c.LastTx = Transaction{CommitLSN: lsn(tx.CommitLSN), XID: tx.XID}
		if tx.EndLSN != "" {
			c.LastTx.EndLSN = lsn(tx.EndLSN)
		}
		if tx.CommitTime != nil {
			c.LastTx.CommitTime = *tx.CommitTime
		}
	}
	for _, k := range w.Parked {
		c.Parked = append(c.Parked, ParkedKey{
			Hash: k.Hash, Timeline: k.Timeline, LSN: lsn(k.LSN), Ordinal: k.Ordinal, Letters: k.Letters, Partition: k.Partition, Offset: k.Offset,
		})
	}
	if r := w.Recovery; r != nil {
		c.Recovery = &Recovery{ID: r.ID, Code: r.Code, Began: r.Began, Rows: r.Rows, Letters: r.Letters}
		if r.At != nil {
			c.Recovery.At = *r.At
		}
		if r.From != nil {
			c.Recovery.From = Position{Timeline: r.From.Timeline, CommitLSN: lsn(r.From.CommitLSN), EndLSN: lsn(r.From.EndLSN), Ordinal: r.From.Ordinal}
		}
	}
	if bad != nil {
		return Checkpoint{}, bad
	}
	if err := c.validate(); err != nil {
		return Checkpoint{}, fmt.Errorf("decode checkpoint at offset %d: %w", rec.Offset, err)
	}
	return c, nil
}

// DecodeBarrier reads a barrier record.
func DecodeBarrier(rec *kgo.Record) (Barrier, error) {
	var w wireBarrier
	if err := unmarshal(rec, &w, &w.V); err != nil {
		return Barrier{}, err
	}
	return Barrier{SessionID: w.SessionID, Host: w.Host, PID: w.PID, Version: w.Version, Time: w.Time}, nil
}

// DecodeIntent reads an intent record.
func DecodeIntent(rec *kgo.Record) (Intent, error) {
	var w wireIntent
	if err := unmarshal(rec, &w, &w.V); err != nil {
		return Intent{}, err
	}
	return Intent{Source: Source(w.Source), Time: w.Time}, nil
}

// Audit is what a recovery leaves behind for good: unlike the text in a
// checkpoint, it has a key of its own, so compaction keeps it.
type Audit struct {
	ID       string   `json:"id"`
	Code     string   `json:"code"`
	Text     string   `json:"text"`     // what was done, for people
	Accepted []string `json:"accepted"` // decisions of a person, as they were repeated
	State    string   `json:"state"`    // begun, done or abandoned
	From     string   `json:"from"`     // position before
	To       string   `json:"to"`       // position after; empty until it is known
	Rows     uint64   `json:"rows"`     // published in all
	Letters  uint64   `json:"dlq"`      // dead letters among them
	LeftOut  uint64   `json:"left_out"` // rows of which it is not known whether they were published
	Host     string   `json:"host"`
	PID      int      `json:"pid"`
	Version  string   `json:"relay_version"`

	Began time.Time `json:"began"`
	Time  time.Time `json:"time"`
}

// Record returns the audit record as the record to be produced to topic.
func (a Audit) Record(topic, name string) (*kgo.Record, error) {
	a.Began, a.Time = a.Began.UTC(), a.Time.UTC()
	return record(topic, name+auditInfix+a.ID, struct {
		V int `json:"v"`
		Audit
	}{plainVersion, a})
}

// unmarshal reads the JSON and refuses a version that this program does not
// know: a field it cannot see might change what the others mean.
func unmarshal(rec *kgo.Record, into any, version *int) error {
	if err := json.Unmarshal(rec.Value, into); err != nil {
		return fmt.Errorf("decode record at offset %d: %w", rec.Offset, err)
	}
	if *version < 1 || *version > formatVersion {
		return fmt.Errorf("decode record at offset %d: format version %d, this program knows 1 to %d", rec.Offset, *version, formatVersion)
	}
	return nil
}
