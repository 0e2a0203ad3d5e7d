package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/internal/fault"
)

const (
	// maxReply bounds one line of a child. An answer is a few words; what is
	// longer is something else, such as the event itself.
	maxReply = 64 << 10
	// maxReason bounds what is kept of a child's explanation.
	maxReason = 500
)

// The words of an answer.
const (
	statusOK    = "ok"
	statusRetry = "retry"
	statusFail  = "fail"
)

// reply is one answer of a child. Seq or ID say to what.
type reply struct {
	Seq        *uint64  `json:"seq"`
	ID         *string  `json:"id"`
	Status     string   `json:"status"`
	Error      string   `json:"error"`
	RetryAfter *float64 `json:"retry_after_seconds"`
}

// parseReply reads an answer. Its errors quote nothing of the line: a child
// that writes rubbish writes the payload as likely as anything.
func parseReply(text []byte) (reply, error) {
	var r reply
	if err := json.Unmarshal(text, &r); err != nil {
		return r, errors.New("a line that is no JSON object of the right types")
	}
	switch {
	case r.Seq == nil && r.ID == nil:
		return r, errors.New("an answer without seq and without id")
	case r.Status == "":
		return r, errors.New("an answer without status")
	case r.Status != statusOK && r.Status != statusRetry && r.Status != statusFail:
		return r, errors.New("an answer whose status is none of ok, retry and fail")
	case r.RetryAfter != nil && *r.RetryAfter < 0:
		return r, errors.New("an answer whose retry_after_seconds is negative")
	}
	return r, nil
}

// verdict turns an answer into what the consumer does about the event.
func (r reply) verdict(longest time.Duration) error {
	reason := clean(r.Error)
	switch r.Status {
	case statusOK:
		return nil
	case statusFail:
		return consumer.Permanent(fault.New(fault.ChildFailed, "the child refused the event: %s", reason))
	}
	err := fault.New(fault.ChildRetry, "the child asked for another attempt: %s", reason)
	if r.RetryAfter == nil || *r.RetryAfter == 0 {
		return err
	}
	d := longest
	if *r.RetryAfter < longest.Seconds() { // compared as seconds: 1e300 of them are no Duration
		d = time.Duration(*r.RetryAfter * float64(time.Second))
	}
	return consumer.RetryAfter(err, d)
}

// clean makes a text of the child fit for a log and a header: one line, and
// not without end.
func clean(s string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD")))
	if len(s) > maxReason {
		cut := maxReason
		for !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "..."
	}
	if s == "" {
		return "no reason given"
	}
	return s
}

// orders keeps what is outstanding: events that were written and not answered.
type orders struct {
	bySeq map[uint64]*turn
	byID  map[string][]*turn // in the order of seq: one id may be outstanding twice
}

func newOrders() orders {
	return orders{bySeq: map[uint64]*turn{}, byID: map[string][]*turn{}}
}

func (o orders) add(t *turn) {
	o.bySeq[t.seq] = t
	o.byID[t.id] = append(o.byID[t.id], t)
}

func (o orders) remove(t *turn) {
	delete(o.bySeq, t.seq)
	rest := o.byID[t.id][:0]
	for _, other := range o.byID[t.id] {
		if other != t {
			rest = append(rest, other)
		}
	}
	if len(rest) == 0 {
		delete(o.byID, t.id)
		return
	}
	o.byID[t.id] = rest
}

// take finds the event of an answer, and removes it.
func (o orders) take(r reply) (*turn, error) {
	var t *turn
	if r.Seq != nil {
		t = o.bySeq[*r.Seq]
		if t != nil && r.ID != nil && *r.ID != t.id {
			return nil, fmt.Errorf("an answer whose seq %d and id belong to different events", *r.Seq)
		}
	} else if same := o.byID[*r.ID]; len(same) > 0 {
		t = same[0]
	}
	if t == nil || !t.taken {
		return nil, errors.New("an answer to an event that is not outstanding")
	}
	o.remove(t)
	return t, nil
}
