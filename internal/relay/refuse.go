package relay

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/sink"
)

// suspect looks into a failed session: if a broker refused records for what
// they are, the one at fault is searched for. A batch that is too large may be
// so because the limit of its topic has just changed, which the next session
// sees: that is looked into when one of its records is refused for the second
// time.
//
// A broker answers for a batch, so the record at fault is found by trying:
// halves of the suspects are produced in transactions that are aborted, down
// to the single record. Nothing is committed meanwhile, and what is learned is
// only a place in the history, so this is no repair: the slot sends the rows
// again, and the row at that place becomes a letter.
func (r *Relay) suspect(ctx context.Context, err error) (learned bool) {
	refused := (*sink.RefusedError)(nil)
	if r.Probe == nil || !errors.As(err, &refused) || len(refused.Suspects) == 0 {
		return false
	}
	if refused.Code == fault.RowTooLarge && !r.again(refused.Suspects) {
		return false
	}
	log := r.Log.With().Str("component", "bisect").Int("suspects", len(refused.Suspects)).Str("topic", refused.Suspects[0].Topic).Logger()
	log.Warn().Err(refused.Err).Msg("records refused, looking for the one at fault")
	tries := 0
	culprits, err := bisect(refused.Suspects, func(part []*kgo.Record) (bool, error) {
		tries++
		no, err := r.Probe(ctx, r.opened, part)
		return no != nil, err
	})
	if err != nil {
		log.Warn().Err(err).Msg("search given up")
		return false
	}
	if len(culprits) == 0 {
		log.Warn().Int("tries", tries).Msg("no record is refused by itself: a limit of the topic may be lower than the relay is allowed to see, which needs DescribeConfigs")
		return false
	}
	for _, rec := range culprits {
		place, ok := dlq.PlaceOf(rec.Headers)
		if !ok {
			continue
		}
		isLetter := r.Letters != nil && rec.Topic == r.Letters.Topic
		line := log.Warn().Str("lsn", place.LSN.String()).Uint64("ord", place.Ordinal).Int("tries", tries)
		switch {
		case isLetter && r.undated[place]:
			line.Msg("dead letter refused, and nothing else can be done with its row: look at the settings of its topic")
		case isLetter:
			// It has the time of its event, and its topic may be as particular
			// about that as the one that was meant.
			if r.undated == nil {
				r.undated = map[dlq.Place]bool{}
			}
			r.undated[place], learned = true, true
			line.Msg("dead letter refused, it is tried with the time of its sending")
		default:
			if r.refusedRows == nil {
				r.refusedRows = map[dlq.Place]error{}
			}
			r.refusedRows[place], learned = fault.New(refused.Code, "a broker refused it: %v", refused.Err), true
			line.Msg("record refused, it becomes a dead letter")
		}
	}
	return learned
}

// again tells whether one of the records was refused before, and notes them.
func (r *Relay) again(suspects []*kgo.Record) bool {
	if r.suspected == nil || len(r.suspected) > mostSuspected {
		r.suspected = map[dlq.Place]bool{}
	}
	before := false
	for _, rec := range suspects {
		if place, ok := dlq.PlaceOf(rec.Headers); ok {
			before = before || r.suspected[place]
			r.suspected[place] = true
		}
	}
	return before
}

const mostSuspected = 100_000

// mostCulprits bounds one search: there may be as many as there are records,
// and the next session finds the rest.
const mostCulprits = 32

// bisect finds the records that are refused by themselves.
func bisect(suspects []*kgo.Record, refused func([]*kgo.Record) (bool, error)) ([]*kgo.Record, error) {
	var culprits []*kgo.Record
	var search func(part []*kgo.Record) error
	search = func(part []*kgo.Record) error {
		if len(part) == 0 || len(culprits) == mostCulprits {
			return nil
		}
		no, err := refused(part)
		switch {
		case err != nil:
			return fmt.Errorf("try %d records: %w", len(part), err)
		case !no:
			return nil
		case len(part) == 1:
			culprits = append(culprits, part[0])
			return nil
		}
		if err := search(part[:len(part)/2]); err != nil {
			return err
		}
		return search(part[len(part)/2:])
	}
	return culprits, search(suspects)
}
