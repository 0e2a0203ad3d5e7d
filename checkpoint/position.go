package checkpoint

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
)

// Position is a point in the history of one timeline.
type Position struct {
	// Timeline is the Postgres timeline the LSNs belong to. LSNs of different
	// timelines must not be compared: after a failover new commits may reuse
	// LSNs that were published before it.
	Timeline int32
	// EndLSN is the end of the last completely published transaction, or an
	// idle position past it. A resent transaction is dropped iff its commit
	// record starts below EndLSN.
	EndLSN pglogrepl.LSN
	// CommitLSN is the start of the last commit record: of the complete
	// transaction, or of the one that is cut.
	CommitLSN pglogrepl.LSN
	// Ordinal is 0 for a complete position. Otherwise that many change
	// messages of the transaction that commits at CommitLSN are published.
	Ordinal uint64
}

// Cut tells whether the position lies inside a transaction.
func (p Position) Cut() bool { return p.Ordinal > 0 }

// Compare orders two positions of one timeline: negative when p is before q.
// A cut position lies after every position that ends before its transaction.
func (p Position) Compare(q Position) int {
	// Order by "everything below is published": the filter LSN, then how far
	// the next transaction was cut.
	switch {
	case p.EndLSN != q.EndLSN:
		return cmp(uint64(p.EndLSN), uint64(q.EndLSN))
	case p.Ordinal != q.Ordinal:
		return cmp(p.Ordinal, q.Ordinal)
	}
	return 0
}

func cmp(a, b uint64) int {
	if a < b {
		return -1
	}
	return 1
}

// String renders the position for logs and people.
func (p Position) String() string {
	if p.Cut() {
		return fmt.Sprintf("%d:%s+%d", p.Timeline, p.CommitLSN, p.Ordinal)
	}
	return fmt.Sprintf("%d:%s", p.Timeline, p.EndLSN)
}

// Transaction names the last source transaction that carried rows. After a
// restart it is the fingerprint of the history: what Postgres sends again must
// contain it.
type Transaction struct {
	CommitLSN  pglogrepl.LSN
	EndLSN     pglogrepl.LSN // zero while the transaction is cut: not known yet
	XID        uint32
	CommitTime time.Time
}

// Source is the identity of both ends. A checkpoint is worth nothing for
// another database, another topic or another cluster.
type Source struct {
	SystemID    string // IDENTIFY_SYSTEM
	Database    string
	Slot        string
	Publication string
	ClusterID   string // Kafka cluster id
	TopicID     string // id of the checkpoint topic: a recreated topic has another
}

// Checkpoint is the progress of a relay after one Kafka transaction.
type Checkpoint struct {
	Seq       uint64 // +1 with every commit
	SessionID string // who wrote it
	SessionNo uint64 // grows from one committing session to the next

	Pos    Position
	LastTx Transaction
	Source Source

	// OptionsHash covers everything that decides how change messages are
	// counted: stream options and the publication. It matters inside a cut
	// transaction only.
	OptionsHash string

	Rows         uint64 // rows of this Kafka transaction, letters included
	RowsTotal    uint64
	LettersTotal uint64

	Host    string
	PID     int
	Version string
	Time    time.Time

	// Override is the audit record of a decision taken by a person, such as
	// "accept-gap 0/10:0/20". Empty for an ordinary commit.
	Override string

	// Rebased says that the position need not lie behind the one before it: a
	// person has told `recover` that the history is another one.
	Rebased bool

	// Recovery is there for as long as `recover` is under way. The position is
	// then that of no stream: Ordinal counts what was published of the rows
	// that no slot sends any more, and nobody may resume from it.
	Recovery *Recovery

	// Parked are the keys whose events are held back behind a dead letter.
	// They are part of the checkpoint, not records of their own, so that one
	// read finds both, however long the topic is.
	Parked []ParkedKey
}

// Recovery is a recovery that was begun and has not ended.
type Recovery struct {
	ID    string    // of the run that began it
	Code  string    // what it is for, such as OBX-3103
	Began time.Time // by the clock of the host
	// From is where the relay stood before, which an abandoned recovery goes
	// back to. Its Timeline is 0 if nobody knew.
	From Position
	// At is when the relay last wrote a checkpoint of its own; zero: not known.
	At time.Time
	// Rows and Letters are the totals before it began.
	Rows, Letters uint64
}

// ParkedKey is a key whose events become letters until the one that blocks it
// is replayed or purged.
type ParkedKey struct {
	// Hash names the key: a key may be long, and may be private.
	Hash string
	// Timeline, LSN and Ordinal are where the row of the first letter is.
	Timeline int32
	LSN      pglogrepl.LSN
	Ordinal  uint64
	// Letters counts the letters of the key from there on: those that block it
	// and those that wait.
	Letters uint64
	// Partition and Offset are where the first letter is, or Offset is -1
	// until that is known.
	Partition int32
	Offset    int64
}

// before tells whether c lies before last, on the same timeline. The ordinals of a
// recovery are its own, and end with it.
func (c *Checkpoint) before(last *Checkpoint) bool {
	if last.Recovery != nil && c.Recovery == nil {
		return c.Pos.EndLSN < last.Pos.EndLSN
	}
	return c.Pos.Compare(last.Pos) < 0
}

// validate holds on both sides of the codec.
func (c *Checkpoint) validate() error {
	switch {
	case c.Seq == 0:
		return errors.New("seq is zero")
	case c.SessionID == "":
		return errors.New("session is empty")
	case c.Pos.Timeline <= 0:
		return fmt.Errorf("timeline is %d", c.Pos.Timeline)
	case c.Pos.EndLSN == 0:
		return errors.New("end_lsn is zero")
	case c.Pos.Cut() && c.Pos.CommitLSN < c.Pos.EndLSN && c.Recovery == nil:
		return fmt.Errorf("cut at %s before the end %s of its predecessor", c.Pos.CommitLSN, c.Pos.EndLSN)
	case !c.Pos.Cut() && c.Pos.CommitLSN > c.Pos.EndLSN:
		return fmt.Errorf("commit %s after its end %s", c.Pos.CommitLSN, c.Pos.EndLSN)
	case c.Source.SystemID == "" || c.Source.Slot == "" || c.Source.Database == "":
		return errors.New("source is incomplete")
	}
	if r := c.Recovery; r != nil && (r.ID == "" || r.Code == "" || r.Began.IsZero()) {
		return errors.New("recovery is incomplete")
	}
	for _, k := range c.Parked {
		if k.Hash == "" || k.LSN == 0 || k.Ordinal == 0 || k.Letters == 0 {
			return fmt.Errorf("parked key %q is incomplete", k.Hash)
		}
	}
	return nil
}
