package relay

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/sink"
)

// Letters says what is done about rows that can be no event.
type Letters struct {
	// Topic is that of the letters; the records of a group that go there are
	// letters.
	Topic string
	// Forbid halts at the first letter instead of writing it.
	Forbid bool
	// MaxPerMinute is how many letters may be written in a minute before the
	// relay halts: that many at once are not bad rows, but a bad release of
	// whoever writes them. Zero: any number.
	MaxPerMinute int
	// Park holds the later events of a key back behind its letter.
	Park bool
	// Write makes the letter of a record, for the reason that the error names.
	Write func(ctx context.Context, sess sink.Session, rec *kgo.Record, cause error) (*kgo.Record, error)
	// Look finds the letters of parked keys that may go on. It is needed for as
	// long as a key is parked, also when Park was switched off. What comes with
	// an error may go on all the same.
	Look func(context.Context, []dlq.Held) ([]dlq.Release, error)
}

// maxParked bounds the keys that are parked at once: they are written with
// every checkpoint.
const maxParked = 1000

// triage decides, in the order of the stream and just before a group is sent,
// which of its records become letters after all: those that a broker refused
// before, and those whose key is parked. It is the pump's, for one session.
type triage struct {
	*Letters
	sess    sink.Session
	refused map[dlq.Place]error // of the relay: it outlives the session
	undated map[dlq.Place]bool  // likewise
	rate    *letterRate         // likewise

	// Of the group under way; they count once it is committed, or each attempt
	// to send it would count.
	rows, faults int

	parked map[string]*parkedKey
	order  []*parkedKey // as they were parked
}

type parkedKey struct {
	checkpoint.ParkedKey
	first *kgo.Record // the first letter, until the broker has told where it is
}

func (r *Relay) newTriage(base checkpoint.Checkpoint, sess sink.Session) *triage {
	t := &triage{Letters: r.Letters, sess: sess, refused: r.refusedRows, undated: r.undated, rate: &r.rate, parked: map[string]*parkedKey{}}
	for _, k := range base.Parked {
		t.keep(&parkedKey{ParkedKey: k})
	}
	return t
}

func (t *triage) keep(k *parkedKey) {
	t.parked[k.Hash] = k
	t.order = append(t.order, k)
}

// sort turns records of a group into letters where that has to be. An error
// means that the group must not be sent.
func (t *triage) sort(ctx context.Context, g *group) error {
	if t.Letters == nil || len(g.records) == 0 {
		return nil
	}
	var faults int
	if g.letters > 0 || len(t.refused) > 0 || len(t.parked) > 0 {
		for i, rec := range g.records {
			letter, blocks, err := t.judge(ctx, rec)
			switch {
			case err != nil:
				return err
			case letter == nil:
				continue
			case letter != rec:
				g.records[i] = letter
				g.letters++
			}
			if !blocks {
				continue
			}
			faults++
			if t.Forbid {
				return forbidden(letter)
			}
		}
	}
	t.rows, t.faults = len(g.records), faults
	return t.rate.check(time.Now(), t.rows, t.faults, t.MaxPerMinute)
}

// judge returns the letter that a record is, or has to become, or nil. A letter
// blocks if something is wrong with its own row.
func (t *triage) judge(ctx context.Context, rec *kgo.Record) (letter *kgo.Record, blocks bool, err error) {
	switch {
	case rec.Topic == t.Topic:
		letter, blocks = rec, true
	case len(t.refused) > 0 && t.refusal(rec) != nil:
		letter, err = t.Write(ctx, t.sess, rec, t.refusal(rec))
		blocks = true
	case len(t.parked) > 0:
		hash, ok := dlq.KeyHash(rec)
		if !ok || t.parked[hash] == nil {
			return nil, false, nil
		}
		letter, err = t.Write(ctx, t.sess, rec, fault.New(fault.RowParked, "an earlier event of this key is a dead letter"))
	}
	if letter == nil || err != nil {
		return nil, false, err
	}
	t.undate(letter)
	return letter, blocks, t.park(letter)
}

// undate gives a letter that was refused as it is the time of its sending.
func (t *triage) undate(letter *kgo.Record) {
	if place, ok := dlq.PlaceOf(letter.Headers); ok && t.undated[place] {
		dlq.Undate(letter)
	}
}

// refusal is why a broker refused the row of a record, or nil.
func (t *triage) refusal(rec *kgo.Record) error {
	place, ok := dlq.PlaceOf(rec.Headers)
	if !ok {
		return nil
	}
	return t.refused[place]
}

// park counts a letter for its key, which is parked from now on.
func (t *triage) park(letter *kgo.Record) error {
	hash, ok := dlq.KeyHash(letter)
	if !ok {
		return nil
	}
	if k := t.parked[hash]; k != nil {
		k.Letters++
		return nil
	}
	if !t.Park {
		return nil
	}
	place, ok := dlq.PlaceOf(letter.Headers)
	if !ok {
		return nil
	}
	if len(t.parked) == maxParked {
		return fault.New(fault.ParkedFull, "%d keys are parked, and another has a dead letter at %s", maxParked, place.LSN)
	}
	t.keep(&parkedKey{
		ParkedKey: checkpoint.ParkedKey{
			Hash: hash, Timeline: place.Timeline, LSN: place.LSN, Ordinal: place.Ordinal, Letters: 1, Offset: -1,
		},
		first: letter,
	})
	return nil
}

// unpark forgets a key.
func (t *triage) unpark(hash string) {
	delete(t.parked, hash)
	kept := t.order[:0]
	for _, k := range t.order {
		if k.Hash != hash {
			kept = append(kept, k)
		}
	}
	t.order = kept
}

// keys is what the checkpoint says of them.
func (t *triage) keys() []checkpoint.ParkedKey {
	if len(t.order) == 0 {
		return nil
	}
	out := make([]checkpoint.ParkedKey, len(t.order))
	for i, k := range t.order {
		out[i] = k.ParkedKey
	}
	return out
}

// committed notes where letters are, which only the broker knew.
func (t *triage) committed() {
	t.rate.count(time.Now(), t.rows, t.faults)
	t.rows, t.faults = 0, 0
	for _, k := range t.order {
		if k.first != nil {
			k.Partition, k.Offset, k.first = k.first.Partition, k.first.Offset, nil
		}
	}
}

func forbidden(letter *kgo.Record) error {
	l, err := dlq.Parse(letter)
	if err != nil {
		return fault.Wrap(err, fault.Unclassified, "read back a letter")
	}
	place, _ := dlq.PlaceOf(letter.Headers)
	return fault.New(fault.LetterForbidden, "row %s of the transaction at %s, change %d: %s %s", l.ID(), place.LSN, place.Ordinal, l.Code, l.Message)
}

// letterRate counts letters of the last minute, by the second.
type letterRate struct {
	seconds [60]struct {
		at            int64
		rows, letters int
	}
}

// count counts a group that was committed.
func (r *letterRate) count(now time.Time, rows, letters int) {
	sec := now.Unix()
	slot := &r.seconds[sec%60]
	if slot.at != sec {
		slot.at, slot.rows, slot.letters = sec, 0, 0
	}
	slot.rows += rows
	slot.letters += letters
}

// check refuses a group that is about to be sent, if that would be too many
// letters in a minute.
func (r *letterRate) check(now time.Time, rows, letters, most int) error {
	if most <= 0 || letters == 0 {
		return nil
	}
	sec, allRows, allLetters := now.Unix(), rows, letters
	for _, s := range r.seconds {
		if sec-s.at < 60 {
			allRows += s.rows
			allLetters += s.letters
		}
	}
	if allLetters > most {
		return fault.New(fault.LetterFlood, "%d of the last minute's %d rows can be no event, and %d letters a minute are allowed", allLetters, allRows, most)
	}
	return nil
}
