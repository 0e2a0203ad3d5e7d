package dlq

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

// Headers of the envelope. The relay writes partition and offset empty: Connect
// sets them for sinks only, and readers of its letters expect them to be there.
// A consumer's letter has them.
const (
	headerErrTopic     = "__connect.errors.topic"
	headerErrPartition = "__connect.errors.partition"
	headerErrOffset    = "__connect.errors.offset"
	headerErrConnector = "__connect.errors.connector.name"
	headerErrTask      = "__connect.errors.task.id"
	headerErrStage     = "__connect.errors.stage"
	headerErrClass     = "__connect.errors.class.name"
	headerErrException = "__connect.errors.exception.class.name"
	headerErrMessage   = "__connect.errors.exception.message"

	headerReason         = "outbox.dlq.reason"
	headerAttempts       = outbox.HeaderAttempts
	headerGroup          = outbox.HeaderGroup
	headerFirstAt        = "outbox.dlq.first_at"
	headerAt             = "outbox.dlq.at"
	headerNextAt         = "outbox.dlq.next_at" // only if the scheduler is to replay it
	headerBackoff        = "outbox.dlq.backoff_seconds"
	headerVersion        = "outbox.dlq.relay_version"
	headerPartition      = "outbox.dlq.partition" // only if the row asked for one
	headerPayloadOmitted = "outbox.dlq.payload_omitted"
	headerPayloadSHA256  = "outbox.dlq.payload_sha256"
	headerPayloadBytes   = "outbox.dlq.payload_bytes"
	headerKeyOmitted     = "outbox.dlq.key_omitted"
	headerKeySHA256      = "outbox.dlq.key_sha256"
	headerUserOmitted    = "outbox.dlq.headers_omitted"
	headerHeadersCut     = "outbox.dlq.headers_cut"
)

// ofEnvelope tells whether a header is the envelope's or a replay's, and not
// the original's. Headers that the relay renamed are the original's.
func ofEnvelope(name string) bool {
	return strings.HasPrefix(name, envelopeOwn) && !strings.HasPrefix(name, outbox.RejectedPrefix) ||
		strings.HasPrefix(name, outbox.ReservedErrorsPrefix)
}

const (
	envelopeOwn = outbox.ReservedPrefix + "dlq."

	timeFormat = "2006-01-02T15:04:05.000000Z07:00"

	// maxText bounds the envelope's own texts, and what is left of an
	// original header when all else has been left out.
	maxText = 1024
)

// Record builds the Kafka record of a letter. Where the whole does not fit
// into limit, the max.message.bytes of the topic, parts are left out in this
// order until it does: the payload; or the user headers alone, if they are
// what is large; both; the key; the ends of long headers. A limit of 0 leaves
// out nothing. What the last step leaves is a few kilobytes, and no topic of
// letters may take less (see Topics).
func (l Letter) Record(topic string, limit int) *kgo.Record {
	whole := l
	for _, lighten := range [...]func(*Letter){
		func(*Letter) {},
		func(l *Letter) { l.omitPayload() },
		func(l *Letter) { l.omitUserHeaders() },
		func(l *Letter) { l.omitPayload(); l.omitUserHeaders() },
		func(l *Letter) { l.omitPayload(); l.omitUserHeaders(); l.omitKey() },
	} {
		l = whole
		lighten(&l)
		if r := l.build(topic); limit <= 0 || sizeAtMost(r) <= limit {
			return r
		}
	}
	l.cutHeaders()
	return l.build(topic)
}

func (l *Letter) omitPayload() {
	if l.Omitted.Payload || l.Value == nil {
		return
	}
	l.Omitted.Payload = true
	l.Omitted.PayloadSHA256, l.Omitted.PayloadBytes = hash(l.Value), len(l.Value)
	l.Value = nil
}

func (l *Letter) omitKey() {
	if l.Omitted.Key || l.Key == nil {
		return
	}
	l.Omitted.Key, l.Omitted.KeySHA256 = true, hash(l.Key)
	l.Key = nil
}

// omitUserHeaders leaves what the relay itself wrote. Headers that the relay
// renamed because it refused them are the user's.
func (l *Letter) omitUserHeaders() {
	kept := make([]kgo.RecordHeader, 0, len(l.Headers))
	for _, h := range l.Headers {
		if outbox.Reserved(h.Key) && !strings.HasPrefix(h.Key, outbox.RejectedPrefix) {
			kept = append(kept, h)
		}
	}
	l.Omitted.UserHeaders += len(l.Headers) - len(kept)
	l.Headers = kept
}

func (l *Letter) cutHeaders() {
	l.Headers = slices.Clone(l.Headers)
	for i, h := range l.Headers {
		if len(h.Value) > maxText {
			l.Headers[i].Value = []byte(cut(string(h.Value)))
			l.Omitted.CutHeaders++
		}
	}
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// cut shortens a text to maxText bytes at a character's edge.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for end > maxText-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

func (l *Letter) build(topic string) *kgo.Record {
	h := make([]kgo.RecordHeader, 0, len(l.Headers)+28)
	h = append(h, l.Headers...)
	add := func(name, value string) {
		h = append(h, kgo.RecordHeader{Key: name, Value: []byte(cut(value))})
	}
	add(headerErrTopic, l.Topic)
	partition, offset := "", ""
	if l.HasSource {
		partition, offset = strconv.Itoa(int(l.SourcePartition)), strconv.FormatInt(l.SourceOffset, 10)
	}
	add(headerErrPartition, partition)
	add(headerErrOffset, offset)
	add(headerErrConnector, l.Relay)
	add(headerErrTask, strconv.Itoa(l.Lane))
	add(headerErrStage, string(l.Stage))
	add(headerErrClass, l.Component)
	add(headerErrException, l.Code)
	add(headerErrMessage, l.Message)
	add(headerReason, string(l.Reason))
	add(headerAttempts, strconv.Itoa(l.Attempts))
	add(headerFirstAt, formatTime(l.FirstAt))
	add(headerAt, formatTime(l.At))
	if !l.NextAt.IsZero() {
		add(headerNextAt, formatTime(l.NextAt))
		add(headerBackoff, strconv.FormatInt(int64(l.Backoff/time.Second), 10))
	}
	if l.Group != "" {
		add(headerGroup, l.Group)
	}
	add(headerVersion, l.RelayVersion)
	if n, ok := l.Partition.Get(); ok {
		add(headerPartition, strconv.Itoa(int(n)))
	}
	if o := l.Omitted; o.Payload {
		add(headerPayloadOmitted, "true")
		add(headerPayloadSHA256, o.PayloadSHA256)
		add(headerPayloadBytes, strconv.Itoa(o.PayloadBytes))
	}
	if l.Omitted.Key {
		add(headerKeyOmitted, "true")
		add(headerKeySHA256, l.Omitted.KeySHA256)
	}
	if n := l.Omitted.UserHeaders; n > 0 {
		add(headerUserOmitted, strconv.Itoa(n))
	}
	if n := l.Omitted.CutHeaders; n > 0 {
		add(headerHeadersCut, strconv.Itoa(n))
	}
	h = append(h, kgo.RecordHeader{Key: outbox.HeaderCheckpoint, Value: l.Checkpoint})
	return &kgo.Record{Topic: topic, Key: l.Key, Value: l.Value, Headers: h, Timestamp: l.Timestamp}
}

// Undate takes the time of its event from the record of a letter, for a topic
// that refuses it: the record is then of the time of its sending, and so is a
// replay of it. The time is kept in outbox.created_at, unless it is that of the
// commit, which has a header of its own.
func Undate(r *kgo.Record) {
	at, last := r.Timestamp, len(r.Headers)-1
	if at.IsZero() || last < 0 {
		return
	}
	r.Timestamp = time.Time{}
	for _, h := range r.Headers {
		if h.Key == outbox.HeaderCreatedAt {
			return
		}
		if commit, err := time.Parse(timeFormat, string(h.Value)); h.Key == outbox.HeaderCommitTS && err == nil && commit.UnixMilli() == at.UnixMilli() {
			return
		}
	}
	// The checkpoint stays last.
	r.Headers = slices.Insert(slices.Clip(r.Headers), last, kgo.RecordHeader{Key: outbox.HeaderCreatedAt, Value: []byte(formatTime(at))})
}

func formatTime(t time.Time) string { return t.UTC().Format(timeFormat) }

// sizeAtMost is an upper bound of the record's batch: each length prefix at
// its longest, and room for the stamp. It may be some bytes too many, which
// costs a letter nothing but its payload at the very edge of the limit.
func sizeAtMost(r *kgo.Record) int {
	const batch, prefix, stamp = 65 + 8, 5, 20
	n := batch + stamp + 4*prefix + len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += 2*prefix + len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}
