package load

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sort"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/holdwall/outbox-relay/internal/verify"
)

// kind of a transaction.
type kind string

const (
	single    kind = "single"
	ten       kind = "ten"
	large     kind = "large"
	multiKey  kind = "multi_key"
	savepoint kind = "savepoint"
	rollback  kind = "rollback"
	prepared  kind = "prepared"
	killed    kind = "killed"
)

// plan is what one transaction is to do.
type plan struct {
	kind  kind
	tx    int
	parts []part
}

// part is a run of rows behind a savepoint, or the only one.
type part struct {
	keys   []string // of the rows, in their order; a key's rows lie together
	undone bool     // rolled back to its savepoint
}

func (p *plan) rows(undone bool) int {
	n := 0
	for _, part := range p.parts {
		if part.undone == undone {
			n += len(part.keys)
		}
	}
	return n
}

// planner decides; one per writer.
type planner struct {
	cfg    Config
	rng    *rand.Rand
	writer int
	tx     int
	clock  time.Time // of the last row
	kinds  []kind    // by weight
}

func newPlanner(cfg Config, writer int) *planner {
	h := fnv.New64a()
	h.Write([]byte(cfg.Run))
	p := &planner{cfg: cfg, writer: writer, rng: rand.New(rand.NewPCG(cfg.Seed^h.Sum64(), uint64(writer)))}
	m := cfg.Mix
	for _, w := range []struct {
		kind   kind
		weight int
	}{
		{single, m.Single},
		{ten, m.Ten},
		{large, m.Large},
		{multiKey, m.MultiKey},
		{savepoint, m.Savepoint},
		{rollback, m.Rollback},
		{prepared, m.Prepared},
		{killed, m.Killed},
	} {
		for range w.weight {
			p.kinds = append(p.kinds, w.kind)
		}
	}
	return p
}

func (p *planner) next() plan {
	p.tx++
	pl := plan{kind: p.kinds[p.rng.IntN(len(p.kinds))], tx: p.tx}
	switch pl.kind {
	case single:
		pl.parts = []part{p.part(1, 1)}
	case ten, prepared, killed:
		pl.parts = []part{p.part(10, 1+p.rng.IntN(3))}
	case rollback:
		pl.parts = []part{p.part(1+p.rng.IntN(20), 2)}
	case multiKey:
		pl.parts = []part{p.part(2+p.rng.IntN(12), 2+p.rng.IntN(6))}
	case large:
		n := p.cfg.LargeRows/2 + p.rng.IntN(p.cfg.LargeRows/2) + 1
		pl.parts = []part{p.part(n, min(p.cfg.Keys, 20))}
	case savepoint:
		pl.parts = p.sections(p.part(4+p.rng.IntN(12), 3))
	}
	return pl
}

// sections cuts rows into parts, of which all but the last may be undone. Keys
// stay in order over all of them: locks are taken in one order, or two writers
// could wait for each other. A key on a cut gets the numbers that were undone
// before it once more.
func (p *planner) sections(all part) []part {
	var parts []part
	for len(all.keys) > 3 && len(parts) < 3 {
		n := 1 + p.rng.IntN(len(all.keys)-1)
		parts = append(parts, part{keys: all.keys[:n], undone: p.rng.IntN(2) == 0})
		all.keys = all.keys[n:]
	}
	return append(parts, all)
}

// part draws rows over up to so many keys. Keys are in order, for the locks.
func (p *planner) part(rows, keys int) part {
	chosen := map[int]int{}
	names := make([]int, 0, keys)
	for range keys {
		k := 0
		if p.rng.Float64() >= p.cfg.HotShare {
			k = 1 + p.rng.IntN(p.cfg.Keys-1)
		}
		if _, ok := chosen[k]; !ok {
			names = append(names, k)
		}
		chosen[k] = 0
	}
	for range rows {
		chosen[names[p.rng.IntN(len(names))]]++
	}
	sort.Ints(names)
	var pt part
	for _, k := range names {
		for range chosen[k] {
			pt.keys = append(pt.keys, keyName(k))
		}
	}
	return pt
}

func keyName(k int) string { return fmt.Sprintf("key-%05d", k) }

// row is one row as it is inserted; a nil pointer is NULL.
type row struct {
	id        uuid.UUID
	key       string
	payload   []byte
	headers   []byte
	topic     *string
	partition *int32
	created   pgtype.Timestamptz
	poison    Poison
}

var noHeaders = []byte("{}")

// row builds the row that has number seq of its key.
func (p *planner) row(pl *plan, n int, key string, seq uint32, undone bool) (row, error) {
	// No two rows of a writer at the same microsecond: whoever has only the table
	// to go by could not tell their order.
	now := time.Now().Truncate(time.Microsecond)
	if !now.After(p.clock) {
		now = p.clock.Add(time.Microsecond)
	}
	p.clock = now
	r := row{key: key, headers: noHeaders, created: pgtype.Timestamptz{Time: now, Valid: true}}
	for i := 0; i < len(r.id); i += 8 {
		v := p.rng.Uint64()
		for j := range 8 {
			r.id[i+j] = byte(v >> (8 * j))
		}
	}
	r.id[6], r.id[8] = r.id[6]&0x0f|0x40, r.id[8]&0x3f|0x80
	mark := verify.Mark{Run: p.cfg.Run, Writer: p.writer, Tx: pl.tx, Row: n, Key: key, KeySeq: seq, Undone: undone}
	if len(p.cfg.Topics) > 0 && key[len(key)-1]%5 == 0 {
		r.topic = &p.cfg.Topics[int(key[len(key)-2])%len(p.cfg.Topics)]
	}
	size := p.cfg.PayloadBytes
	if p.cfg.PoisonShare > 0 && key < keyName(p.cfg.PoisonKeys) && p.rng.Float64() < p.cfg.PoisonShare {
		r.poison = p.cfg.Poisons[p.rng.IntN(len(p.cfg.Poisons))]
		mark.Poison = r.poison.Reason()
		switch r.poison {
		case IllegalTopic:
			name := strings.Repeat(".", 1+p.rng.IntN(2)) // the table lets no other illegal name in
			r.topic = &name
		case DeniedTopic:
			name := "__consumer_offsets"
			r.topic = &name
		case ReservedHeader:
			r.headers = []byte(`{"outbox.lsn": "0/0"}`)
		case PartitionRange:
			r.partition = &p.cfg.PoisonPartition
		case Oversize:
			size = p.cfg.OversizeBytes
		case Undecodable:
			r.created = pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
		case Ancient:
			r.created.Time = r.created.Time.AddDate(-10, 0, 0)
		default:
			return row{}, fmt.Errorf("no poison %q", r.poison)
		}
	}
	var err error
	if r.payload, err = json.Marshal(mark); err != nil {
		return row{}, err
	}
	if missing := size - len(r.payload) - len(`,"pad":""`); missing > 0 {
		mark.Pad = strings.Repeat("x", missing)
		r.payload, err = json.Marshal(mark)
	}
	return r, err
}
