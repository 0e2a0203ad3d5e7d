package dlq

import (
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

// ReasonOf returns the reason that a letter's record gives, without looking at
// the rest of it.
func ReasonOf(r *kgo.Record) Reason {
	for _, h := range r.Headers {
		if h.Key == headerReason {
			return Reason(h.Value)
		}
	}
	return ""
}

// Parse reads a letter back from its record. Headers that are not of the
// envelope are the original's, in their order, whoever wrote them.
func Parse(r *kgo.Record) (Letter, error) {
	l := Letter{Key: r.Key, Value: r.Value, Timestamp: r.Timestamp}
	p := parser{}
	reason := false
	for _, h := range r.Headers {
		v := string(h.Value)
		switch h.Key {
		case headerErrTopic:
			l.Topic = v
		case headerErrPartition:
			if v != "" {
				l.HasSource, l.SourcePartition = true, int32(p.number(h.Key, v))
			}
		case headerErrOffset:
			if v != "" {
				l.SourceOffset = p.long(h.Key, v)
			}
		case headerErrConnector:
			l.Relay = v
		case headerErrTask:
			l.Lane = p.number(h.Key, v)
		case headerErrStage:
			l.Stage = Stage(v)
		case headerErrClass:
			l.Component = v
		case headerErrException:
			l.Code = v
		case headerErrMessage:
			l.Message = v
		case headerReason:
			l.Reason, reason = Reason(v), true
		case headerAttempts:
			l.Attempts = p.number(h.Key, v)
		case headerFirstAt:
			l.FirstAt = p.time(h.Key, v)
		case headerAt:
			l.At = p.time(h.Key, v)
		case headerNextAt:
			l.NextAt = p.time(h.Key, v)
		case headerBackoff:
			l.Backoff = time.Duration(p.number(h.Key, v)) * time.Second
		case headerGroup:
			l.Group = v
		case headerVersion:
			l.RelayVersion = v
		case headerPartition:
			l.Partition = outbox.PartitionOf(int32(p.number(h.Key, v)))
		case headerPayloadOmitted:
			l.Omitted.Payload = v == "true"
		case headerPayloadSHA256:
			l.Omitted.PayloadSHA256 = v
		case headerPayloadBytes:
			l.Omitted.PayloadBytes = p.number(h.Key, v)
		case headerKeyOmitted:
			l.Omitted.Key = v == "true"
		case headerKeySHA256:
			l.Omitted.KeySHA256 = v
		case headerUserOmitted:
			l.Omitted.UserHeaders = p.number(h.Key, v)
		case headerHeadersCut:
			l.Omitted.CutHeaders = p.number(h.Key, v)
		case outbox.HeaderCheckpoint:
			l.Checkpoint = h.Value
		default:
			l.Headers = append(l.Headers, h)
		}
	}
	if p.err != nil {
		return Letter{}, p.err
	}
	if !reason {
		return Letter{}, fmt.Errorf("read a dead letter: no header %s", headerReason)
	}
	return l, nil
}

// parser keeps the first error of many small readings.
type parser struct{ err error }

// number reads a decimal from 0 to the largest int32, which every count of the
// envelope fits.
func (p *parser) number(name, v string) int {
	n, err := strconv.ParseInt(v, 10, 32)
	if err == nil && n < 0 {
		err = strconv.ErrRange
	}
	p.fail(name, err)
	return int(n)
}

// long reads an offset.
func (p *parser) long(name, v string) int64 {
	n, err := strconv.ParseInt(v, 10, 64)
	if err == nil && n < 0 {
		err = strconv.ErrRange
	}
	p.fail(name, err)
	return n
}

func (p *parser) time(name, v string) time.Time {
	t, err := time.Parse(timeFormat, v)
	p.fail(name, err)
	return t.UTC()
}

// fail does not quote the value: a letter from elsewhere may hold anything.
func (p *parser) fail(name string, err error) {
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("read a dead letter: header %s is malformed", name)
	}
}
