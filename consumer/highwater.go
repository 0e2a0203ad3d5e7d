package consumer

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"
)

const (
	// maxSources bounds what one partition remembers while it is assigned.
	// Events of further sources are handled without a mark.
	maxSources = 256

	// keptSources and maxMetadata bound what survives a rebalance. Brokers
	// take offset.metadata.max.bytes, 4096 by default.
	keptSources = 16
	maxMetadata = 4000

	metadataV1 = "obx1"
)

// mark is a position reached, and the newest commit time on the way.
type mark struct {
	source string // "": the record has no part in it
	tli    int32
	lsn    pglogrepl.LSN
	ord    uint64
	commit int64 // Unix microseconds; 0: unknown
}

func (m *mark) compare(o *mark) int {
	return cmp.Or(cmp.Compare(m.tli, o.tli), cmp.Compare(m.lsn, o.lsn), cmp.Compare(m.ord, o.ord))
}

// verdict of highWater.see.
type verdict uint8

const (
	fresh   verdict = iota // above the mark, which is now there
	stale                  // at or below it
	rewound                // below it, but committed later than anything seen: another history
	unknown                // no position, or one source too many: no mark applies
)

// highWater is the marks of one partition, by source.
//
// Positions are compared by timeline first: after a failover that lost
// transactions, new rows have smaller LSNs than published ones, and must not be
// skipped. A position that goes back while commit times go on is a source whose
// history began anew under the old name (a slot on a restored or upgraded
// server). Skipping those would lose them, so its mark starts again there.
type highWater struct {
	marks []mark
	last  int // index of the source seen last
}

// see judges a position and moves the mark. The result is what to remember of
// the record.
func (h *highWater) see(ev *Event) (mark, verdict) {
	p := &ev.Position
	if p.Source == "" || p.LSN == 0 {
		return mark{}, unknown
	}
	m := mark{tli: p.Timeline, lsn: p.LSN, ord: p.Ordinal}
	if !ev.CommitTime.IsZero() {
		m.commit = ev.CommitTime.UnixMicro()
	}
	at := h.of(p.Source)
	if at == nil {
		if len(h.marks) >= maxSources {
			return mark{}, unknown
		}
		m.source = strings.Clone(p.Source) // a mark outlives the record, and must not keep its memory
		h.put(&m)
		return m, fresh
	}
	m.source = at.source
	if m.compare(at) > 0 {
		m.commit = max(m.commit, at.commit)
		*at = m
		return m, fresh
	}
	if m.commit > at.commit && at.commit != 0 {
		*at = m
		return m, rewound
	}
	return mark{}, stale
}

// of returns the mark of a source, or nil.
func (h *highWater) of(source string) *mark {
	if h.last < len(h.marks) && h.marks[h.last].source == source {
		return &h.marks[h.last]
	}
	for i := range h.marks {
		if h.marks[i].source == source {
			h.last = i
			return &h.marks[i]
		}
	}
	return nil
}

// put sets the mark of a record that see has judged.
func (h *highWater) put(m *mark) {
	if m.source == "" {
		return
	}
	if at := h.of(m.source); at != nil {
		*at = *m
		return
	}
	h.marks = append(h.marks, *m)
}

// encode writes the marks as the metadata of a committed offset: the newest
// sources first, as many as fit.
func (h *highWater) encode() string {
	order := slices.Clone(h.marks)
	slices.SortFunc(order, func(a, b mark) int { return cmp.Compare(b.commit, a.commit) })
	if len(order) > keptSources {
		order = order[:keptSources]
	}
	var b strings.Builder
	b.WriteString(metadataV1)
	for _, m := range order {
		s := fmt.Sprintf(";%s,%d,%x,%d,%d", base64.RawURLEncoding.EncodeToString([]byte(m.source)), m.tli, uint64(m.lsn), m.ord, m.commit)
		if b.Len()+len(s) <= maxMetadata {
			b.WriteString(s)
		}
	}
	return b.String()
}

// decodeMarks reads what encode wrote. Metadata of another kind is no marks:
// whoever committed there, the mode is only now switched on.
func decodeMarks(s string) (highWater, bool) {
	var h highWater
	fields := strings.Split(s, ";")
	if fields[0] != metadataV1 || len(fields)-1 > keptSources {
		return h, false
	}
	for _, f := range fields[1:] {
		v := strings.Split(f, ",")
		if len(v) != 5 {
			return highWater{}, false
		}
		source, err1 := base64.RawURLEncoding.DecodeString(v[0])
		tli, err2 := strconv.ParseInt(v[1], 10, 32)
		lsn, err3 := strconv.ParseUint(v[2], 16, 64)
		ord, err4 := strconv.ParseUint(v[3], 10, 64)
		commit, err5 := strconv.ParseInt(v[4], 10, 64)
		if err := cmp.Or(err1, err2, err3, err4, err5); err != nil || len(source) == 0 || h.of(string(source)) != nil {
			return highWater{}, false
		}
		h.marks = append(h.marks, mark{string(source), int32(tli), pglogrepl.LSN(lsn), ord, commit})
	}
	return h, true
}

func (h *highWater) clone() highWater { return highWater{slices.Clone(h.marks), h.last} }

// recent is a bounded memory of texts: replays and retry copies, which are told
// by identity because they come out of order.
type recent struct {
	max  int
	seen map[string]struct{}
	ring []string
	next int
}

// add tells whether the text is new, and remembers it in the place of the
// oldest.
func (r *recent) add(s string) bool {
	if _, known := r.seen[s]; known {
		return false
	}
	if r.seen == nil {
		r.seen = map[string]struct{}{}
	}
	s = strings.Clone(s)
	r.seen[s] = struct{}{}
	if len(r.ring) < r.max {
		r.ring = append(r.ring, s)
		return true
	}
	delete(r.seen, r.ring[r.next])
	r.ring[r.next] = s
	r.next = (r.next + 1) % r.max
	return true
}
