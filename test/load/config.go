// Package load writes outbox rows in every way that an application might, so
// that a relay has something to get wrong.
//
// W writers run transactions of random kinds: of one row, of ten, of
// thousands through COPY, with savepoints rolled back, rolled back as a whole,
// over several keys, prepared in two phases, and with the client gone right
// after it sent COMMIT. Each transaction takes the numbers for its keys from a
// counter table inside the transaction, which holds the key's lock until the
// end: so key_seq is 1, 2, 3 ... per key in commit order, without holes, and
// says what order is owed without asking Postgres for LSNs.
//
// Every payload is a verify.Mark. Rows that are rolled back carry a mark that
// no record may show. Rows marked as poison can be no event and must become
// letters.
//
// Postgres may go away at any time. The writers then connect again; whether
// the last transaction committed is for the oracle to say, so Totals counts it
// as unknown and nothing here keeps a ledger.
//
// What is done is decided by the seed; in which order the writers get to do it
// is not.
package load

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdwall/outbox-relay/outbox"
)

// Poison is a way in which a row can be unfit for an event.
type Poison string

// The poisons. PartitionRange, Oversize and Ancient depend on the topic, so
// they have to be asked for.
const (
	IllegalTopic   Poison = "illegal_topic"   // a name that Kafka forbids
	DeniedTopic    Poison = "denied_topic"    // a topic of Kafka's own
	ReservedHeader Poison = "reserved_header" // a header that is the relay's
	PartitionRange Poison = "partition_range" // a partition of Config.PoisonPartition
	Oversize       Poison = "oversize"        // a payload of Config.OversizeBytes
	// Undecodable is created at infinity. It is the one value that the table
	// takes and no record can hold: jsonb, text and bytea can all be read.
	Undecodable Poison = "undecodable"
	// Ancient was created ten years ago. A topic with
	// message.timestamp.before.max.ms has its broker refuse it.
	Ancient Poison = "ancient"
)

// Reason returns the reason of the letter that such a row must become.
func (p Poison) Reason() string {
	switch p {
	case IllegalTopic:
		return "invalid_topic"
	case DeniedTopic:
		return "unauthorized_topic"
	case Oversize:
		return "too_large"
	case Undecodable:
		return "decode"
	case Ancient:
		return "refused"
	}
	return string(p)
}

// Config says how much and of what.
type Config struct {
	URL   string // of the database
	Table string // "" is outbox.DefaultTable; needs all columns of outbox.Schema
	Run   string // label of the payloads; ids depend on it
	Seed  uint64

	Writers      int // default 4
	Keys         int // default 50
	Transactions int // in all; 0: until the context ends
	// Pause is how long a writer waits between transactions, at most.
	Pause time.Duration
	// PayloadBytes pads payloads to about this size.
	PayloadBytes int

	Mix Mix // zero is DefaultMix

	// LargeRows is the size of a large transaction, at most; at least half of
	// it. Default 2,000.
	LargeRows int
	// HotShare is the share of rows for one key. Default 0.2.
	HotShare float64
	// PoisonShare is the share of poison among rows, of all kinds together, in
	// even parts. Default 0.
	PoisonShare     float64
	Poisons         []Poison // default IllegalTopic, DeniedTopic, ReservedHeader
	PoisonKeys      int      // only so many keys have poison, the hot one first; 0: all
	PoisonPartition int32    // default 2^20
	OversizeBytes   int      // default 1.5 MiB
	// Topics are asked for by a fifth of the keys, if there are any.
	Topics []string
	// Grace is how long a transaction that is under way when the context ends
	// may take. Default 5 s.
	Grace time.Duration
}

// Mix holds the weights of the kinds of transaction.
type Mix struct {
	Single, Ten, Large, MultiKey, Savepoint, Rollback int
	// Prepared needs max_prepared_transactions.
	Prepared int
	// Killed sends COMMIT and leaves without waiting for the answer.
	Killed int
}

// DefaultMix leaves out what the server has to be set up for.
func DefaultMix() Mix {
	return Mix{Single: 50, Ten: 20, Large: 1, MultiKey: 12, Savepoint: 10, Rollback: 6, Killed: 1}
}

func (c Config) defaults() (Config, error) {
	set := func(n *int, to int) {
		if *n == 0 {
			*n = to
		}
	}
	if c.Table == "" {
		c.Table = outbox.DefaultTable
	}
	set(&c.Writers, 4)
	set(&c.Keys, 50)
	set(&c.LargeRows, 2000)
	set(&c.OversizeBytes, 3<<19)
	if c.Mix == (Mix{}) {
		c.Mix = DefaultMix()
	}
	if c.HotShare == 0 {
		c.HotShare = 0.2
	}
	if len(c.Poisons) == 0 {
		c.Poisons = []Poison{IllegalTopic, DeniedTopic, ReservedHeader}
	}
	if c.PoisonKeys == 0 {
		c.PoisonKeys = c.Keys
	}
	if c.PoisonPartition == 0 {
		c.PoisonPartition = 1 << 20
	}
	if c.Grace == 0 {
		c.Grace = 5 * time.Second
	}
	var bad []error
	if c.PoisonShare < 0 || c.PoisonShare > 1 || c.HotShare < 0 || c.HotShare > 1 {
		bad = append(bad, errors.New("a share is not between 0 and 1"))
	}
	if c.Keys < 2 || c.LargeRows < 2 {
		bad = append(bad, fmt.Errorf("%d keys and large transactions of %d rows are too few", c.Keys, c.LargeRows))
	}
	if c.URL == "" {
		bad = append(bad, errors.New("no database"))
	}
	return c, errors.Join(bad...)
}

// Totals counts what was done, by the answers of Postgres.
type Totals struct {
	Transactions int            `json:"transactions"` // committed
	Rows         int            `json:"rows"`         // committed
	Poison       int            `json:"poison"`       // of them
	Poisons      map[Poison]int `json:"poisons"`      // of those, by kind
	RolledBack   int            `json:"rolled_back"`  // transactions that were not committed
	UndoneRows   int            `json:"undone_rows"`  // of those, and behind savepoints
	Unknown      int            `json:"unknown"`      // transactions without an answer to COMMIT
	UnknownRows  int            `json:"unknown_rows"`
	Connections  int            `json:"connections"`
	Kinds        map[string]int `json:"kinds"` // transactions begun, by kind
}

func (t *Totals) add(o Totals) {
	t.Transactions += o.Transactions
	t.Rows += o.Rows
	t.Poison += o.Poison
	t.RolledBack += o.RolledBack
	t.UndoneRows += o.UndoneRows
	t.Unknown += o.Unknown
	t.UnknownRows += o.UnknownRows
	t.Connections += o.Connections
	if t.Kinds == nil {
		t.Kinds = map[string]int{}
	}
	for k, n := range o.Kinds {
		t.Kinds[k] += n
	}
	t.addPoison(o.Poisons)
}

func (t *Totals) addPoison(poisons map[Poison]int) {
	if t.Poisons == nil {
		t.Poisons = map[Poison]int{}
	}
	for p, n := range poisons {
		t.Poisons[p] += n
	}
}

func (t Totals) String() string {
	return fmt.Sprintf("%d transactions with %d rows committed (%d poison %v), %d rolled back, %d rows undone, %d unknown with %d rows, %d connections, kinds %v",
		t.Transactions, t.Rows, t.Poison, t.Poisons, t.RolledBack, t.UndoneRows, t.Unknown, t.UnknownRows, t.Connections, t.Kinds)
}
