package eventstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/outbox"
)

// append is one attempt inside a transaction: lock, look, write the log,
// write the outbox, wake the subscribers.
func (d *Database) append(ctx context.Context, s session, stream string, expected ExpectedVersion, events []Event) (int64, error) {
	// The lock makes appenders to one stream wait for one another here, where
	// nothing has failed yet, and not at the unique key, where a transaction
	// of the caller's would be lost. It saves errors; what guarantees that no
	// version is given twice is the key.
	err := s.each(ctx, "SELECT pg_advisory_xact_lock($1)", []any{d.lock(stream)}, func(func(...any) error) error { return nil })
	if err != nil {
		return 0, fmt.Errorf("lock stream %q: %w", stream, err)
	}
	head, previous, err := d.head(ctx, s, stream)
	if err != nil {
		return 0, fmt.Errorf("read the version of stream %q: %w", stream, err)
	}
	found, err := d.find(ctx, s, events)
	if err != nil {
		return 0, fmt.Errorf("look for the event ids: %w", err)
	}
	version, repeated, err := decide(stream, expected, events, head, found)
	if err != nil || repeated {
		return version, err
	}
	written, err := d.insert(ctx, s, stream, head, events)
	if state := sqlState(err); state == uniqueViolation {
		return 0, &VersionConflict{Stream: stream, Expected: expected, Actual: UnknownVersion}
	}
	if err != nil {
		return 0, fmt.Errorf("write %d events of stream %q: %w", len(events), stream, err)
	}
	if err := d.publish(ctx, s, written, previous); err != nil {
		return 0, err
	}
	if !d.cfg.NoNotify {
		err := s.each(ctx, "SELECT pg_notify($1, '')", []any{d.cfg.Channel}, func(func(...any) error) error { return nil })
		if err != nil {
			return 0, fmt.Errorf("notify: %w", err)
		}
	}
	return head + int64(len(events)), nil
}

const uniqueViolation = "23505"

// sqlState returns the code of Postgres' answer. The errors of pgx and of
// lib/pq both have the method.
func sqlState(err error) string {
	var said interface{ SQLState() string }
	if errors.As(err, &said) {
		return said.SQLState()
	}
	return ""
}

// lock is the number that stands for a stream. Two streams that share one wait
// for one another, and nothing worse.
func (d *Database) lock(stream string) int64 {
	h := fnv.New64a()
	h.Write([]byte(d.name))
	h.Write([]byte{0})
	h.Write([]byte(stream))
	return int64(h.Sum64())
}

func (d *Database) head(ctx context.Context, s session, stream string) (version int64, at place, err error) {
	var xid string
	err = s.each(ctx, "SELECT version, xid::text, seq FROM "+d.table+" WHERE stream = $1 ORDER BY version DESC LIMIT 1", []any{stream},
		func(scan func(...any) error) error { return scan(&version, &xid, &at.seq) })
	if err != nil || version == 0 {
		return 0, place{}, err
	}
	at.xid, err = strconv.ParseUint(xid, 10, 64)
	return version, at, err
}

// find looks the ids up in all streams. They travel as one JSON text, because
// arrays are each driver's own matter.
func (d *Database) find(ctx context.Context, s session, events []Event) (map[string]entry, error) {
	ids := make([]string, len(events))
	for i := range events {
		ids[i] = events[i].ID
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	found := map[string]entry{}
	err = s.each(ctx, "SELECT id::text, stream, version FROM "+d.table+
		" WHERE id = ANY (ARRAY(SELECT v::uuid FROM json_array_elements_text($1::text::json) v))", []any{string(list)},
		func(scan func(...any) error) error {
			var id string
			var e entry
			err := scan(&id, &e.stream, &e.version)
			found[id] = e
			return err
		})
	return found, err
}

// insert writes the events in one statement and fills in what the table gave
// them.
func (d *Database) insert(ctx context.Context, s session, stream string, head int64, events []Event) ([]writtenEvent, error) {
	const columns = 9
	var q strings.Builder
	q.WriteString("INSERT INTO " + d.table + " (stream, version, id, type, payload, content_type, headers, traceparent, tracestate) VALUES ")
	args := make([]any, 0, columns*len(events))
	written := make([]writtenEvent, len(events))
	for i := range events {
		ev := Recorded{Event: events[i], Stream: stream, Version: head + 1 + int64(i)}
		ev.ContentType = ev.contentType()
		if ev.Payload == nil {
			ev.Payload = []byte{}
		}
		headers, err := headersJSON(ev.Headers)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			q.WriteString(", ")
		}
		for c := range columns {
			q.WriteByte("(,,,,,,,,"[c])
			q.WriteString("$" + strconv.Itoa(len(args)+c+1))
		}
		q.WriteByte(')')
		args = append(args, ev.Stream, ev.Version, ev.ID, ev.Type, ev.Payload, ev.ContentType, headers, ev.TraceParent, ev.TraceState)
		written[i].Recorded = ev
	}
	q.WriteString(" RETURNING version, xid::text, seq, created_at")
	err := s.each(ctx, q.String(), args, func(scan func(...any) error) error {
		var version int64
		var xid string
		var at place
		var created time.Time
		if err := scan(&version, &xid, &at.seq, &created); err != nil {
			return err
		}
		var err error
		if at.xid, err = strconv.ParseUint(xid, 10, 64); err != nil {
			return err
		}
		i := version - head - 1
		written[i].at, written[i].Time, written[i].Position = at, created.UTC(), at.position()
		return nil
	})
	return written, err
}

type writtenEvent struct {
	Recorded
	at place
}

// publish writes the outbox rows. Each carries where its event is in the log,
// and where the one before it in its stream is: a reader of Kafka can tell by
// that alone whether it has missed one.
func (d *Database) publish(ctx context.Context, s session, written []writtenEvent, previous place) error {
	rows := make([]outbox.Record, 0, len(written))
	for _, ev := range written {
		row := outbox.Record{
			ID: ev.ID, AggregateType: category(ev.Stream), AggregateID: ev.Stream, Type: ev.Type,
			Payload: ev.Payload, Binary: true, ContentType: ev.ContentType,
			TraceParent: ev.TraceParent, TraceState: ev.TraceState, CreatedAt: ev.Time,
			Headers: append(append([]outbox.Header(nil), ev.Headers...),
				outbox.Header{Key: HeaderVersion, Value: []byte(strconv.FormatInt(ev.Version, 10))},
				outbox.Header{Key: HeaderPosition, Value: []byte(ev.at.String())}),
		}
		if ev.Version > 1 {
			row.Headers = append(row.Headers, outbox.Header{Key: HeaderPrevious, Value: []byte(previous.String())})
		}
		previous = ev.at
		if d.cfg.Publish == nil || d.cfg.Publish(ev.Recorded, &row) {
			rows = append(rows, row)
		}
	}
	return s.publish(ctx, rows)
}

// headersJSON writes the object by hand to keep the order of the headers.
func headersJSON(headers []outbox.Header) (string, error) {
	var b strings.Builder
	b.WriteByte('{')
	for i, h := range headers {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, text := range [...]string{h.Key, string(h.Value)} {
			v, err := json.Marshal(text)
			if err != nil {
				return "", fmt.Errorf("write a header as JSON: %w", err)
			}
			if j > 0 {
				b.WriteByte(':')
			}
			b.Write(v)
		}
	}
	b.WriteByte('}')
	return b.String(), nil
}

// parseHeaders reads the object back in its order.
func parseHeaders(text string) ([]outbox.Header, error) {
	dec := json.NewDecoder(strings.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("the headers are no JSON object")
	}
	var headers []outbox.Header
	for {
		key, err := dec.Token()
		if key == json.Delim('}') {
			return headers, nil
		}
		name, ok := key.(string)
		if err != nil || !ok {
			return nil, errors.New("the headers are no JSON object")
		}
		value, err := dec.Token()
		word, ok := value.(string)
		if err != nil || !ok {
			return nil, errors.New("a header is no text")
		}
		headers = append(headers, outbox.Header{Key: name, Value: []byte(word)})
	}
}
