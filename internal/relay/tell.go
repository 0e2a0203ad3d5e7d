package relay

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
)

// tellEvery is how often rows that became letters are told at most: the first
// at once, since it is news, and the others of a bad release in one line each
// ten seconds.
const tellEvery = 10 * time.Second

// letterNews are letters that are committed and not yet told of.
type letterNews struct {
	first  *kgo.Record
	n      int
	parked int // among them
	next   time.Time
}

// tellLetters logs what became of rows of a group that was committed. Whoever
// reads only the log would not learn otherwise that events are missing from
// their topic. A heartbeat brings what was held back.
func (s *session) tellLetters(g *group, now time.Time) {
	if s.Letters == nil {
		return
	}
	news := &s.news
	if g.letters > 0 {
		for _, rec := range g.records {
			if rec.Topic != s.Letters.Topic {
				continue
			}
			if news.n++; news.first == nil {
				news.first = rec
			}
			if dlq.ReasonOf(rec) == dlq.Parked {
				news.parked++
			}
		}
	}
	if news.n == 0 || now.Before(news.next) {
		return
	}
	line := s.log.Warn().Int("letters", news.n).Int("parked", news.parked).Int("parked_keys", len(s.triage.order))
	if l, err := dlq.Parse(news.first); err == nil {
		line = line.Str("code", l.Code).Str("reason", string(l.Reason)).Str("event_id", l.ID()).Str("topic", l.Topic).Str("error", l.Message)
	}
	line.Str("hint", "outbox-relay dlq list").Msg("rows became dead letters; this is the first of them")
	*news = letterNews{next: now.Add(tellEvery)}
}
