package relay

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// desk is a translator with a real catalog behind it.
type desk struct {
	*Translator
	reg  *prometheus.Registry
	rel  *replication.Relation
	next uint64
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "events", "letters"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for name, configs := range map[string]map[string]string{
		"ckpt": {"cleanup.policy": "compact"}, "small": {"max.message.bytes": "2048"},
	} {
		if err := c.CreateTopic(name, 1, configs); err != nil {
			t.Fatal(err)
		}
	}
	p, sess, err := sink.Open(t.Context(), sink.Config{
		Name: "orders", CheckpointTopic: "ckpt", TransactionTimeout: 10 * time.Second, ReadBackTimeout: 5 * time.Second, MaxRecords: 10,
	}, []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	d := &desk{reg: prometheus.NewRegistry(), rel: relation("id", "aggregatetype", "aggregateid", "type", "payload", "topic", "kafka_partition")}
	d.Translator, err = NewTranslator(TranslatorConfig{
		Name: "orders", Version: "v1", Columns: outbox.DefaultColumns(), LetterTopic: "letters",
		Router: sink.RouterConfig{EventsTopic: "events", DeniedTopics: []string{"ckpt"}},
	}, replication.State{Database: "db", Timeline: 3, Slot: replication.Slot{Name: "slot"}}, sess, NewMetrics(d.reg, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const (
	uuidOID = 2950
	textOID = 25
	intOID  = 23
	jsonOID = 3802
)

func relation(columns ...string) *replication.Relation {
	r := &replication.Relation{ID: 1, Schema: "outbox", Name: "events"}
	for _, c := range columns {
		oid := uint32(textOID)
		switch c {
		case "id":
			oid = uuidOID
		case "payload":
			oid = jsonOID
		case "kafka_partition":
			oid = intOID
		}
		r.Columns = append(r.Columns, replication.Column{Name: c, TypeOID: oid})
	}
	return r
}

// row is the text form of a row; "" is NULL in the last two.
func (d *desk) row(payload, topic, partition string) replication.Row {
	d.next++
	null := func(s string) []byte {
		if s == "" {
			return nil
		}
		return []byte(s)
	}
	return replication.Row{Ord: 2 * d.next, Seq: d.next, Values: [][]byte{
		[]byte(fmt.Sprintf("00000000-0000-0000-0000-%012d", d.next)), []byte("order"), []byte("o-1"), []byte("Created"),
		[]byte(payload), null(topic), null(partition),
	}}
}

func (d *desk) translate(t *testing.T, commit pglogrepl.LSN, rows ...replication.Row) ([]*kgo.Record, uint64, error) {
	t.Helper()
	return d.Translate(t.Context(), &replication.Tx{CommitLSN: commit, XID: 700, CommitTime: time.Now(), Relation: d.rel, Rows: rows}, nil)
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return "(none)"
}

// Rows become records in order, with the headers of their own transaction.
func TestTranslate(t *testing.T) {
	d := newDesk(t)
	for commit := pglogrepl.LSN(0x10); commit <= 0x20; commit += 0x10 {
		records, letters, err := d.translate(t, commit, d.row(`{"n": 1}`, "", ""), d.row(`{"n": 2}`, "", "1"))
		if err != nil || letters != 0 || len(records) != 2 {
			t.Fatalf("%d records, %d letters, %v", len(records), letters, err)
		}
		for i, r := range records {
			n := d.next - 1 + uint64(i)
			for key, want := range map[string]string{
				outbox.HeaderLSN: fmt.Sprintf("0/%08X", uint64(commit)), outbox.HeaderTimeline: "3", outbox.HeaderSource: "db/slot",
				outbox.HeaderOrdinal: strconv.FormatUint(2*n, 10), outbox.HeaderSeq: strconv.FormatUint(n, 10),
			} {
				if got := header(r, key); got != want {
					t.Errorf("%s of record %d is %s, want %s", key, i, got, want)
				}
			}
			if r.Topic != "events" || string(r.Key) != "o-1" || !strings.Contains(string(r.Value), strconv.Itoa(i+1)) {
				t.Errorf("record %d: topic %s, key %s, value %s", i, r.Topic, r.Key, r.Value)
			}
			if last := r.Headers[len(r.Headers)-1].Key; last != outbox.HeaderCheckpoint {
				t.Errorf("the last header is %s", last)
			}
		}
	}
}

// A row that can be no event is a letter in its place, and what is around it
// goes on. That holds for the first row of a topic, whose limits nobody knew.
func TestTranslateLetters(t *testing.T) {
	large := `{"x": "` + strings.Repeat("x", 4096) + `"}`
	for name, tc := range map[string]struct {
		topic, partition, payload string
		reason                    dlq.Reason
		code                      *fault.Code
		unread                    float64 // rows that could not be read, not only not sent
	}{
		"too large for a topic not seen before": {"small", "", large, dlq.TooLarge, fault.RowTooLarge, 0},
		"an illegal topic":                      {"no spaces", "", "{}", dlq.InvalidTopic, fault.RowTopic, 0},
		"a topic of the relay":                  {"ckpt", "", "{}", dlq.UnauthorizedTopic, fault.RowTopicDenied, 0},
		"no such partition":                     {"events", "7", "{}", dlq.PartitionRange, fault.RowPartition, 0},
		"a partition that is no number":         {"events", "x", "{}", dlq.PartitionRange, fault.RowPartition, 1},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			records, letters, err := d.translate(t, 0x10, d.row(`1`, "", ""), d.row(tc.payload, tc.topic, tc.partition), d.row(`3`, "", ""))
			if err != nil || letters != 1 || len(records) != 3 {
				t.Fatalf("%d records, %d letters, %v", len(records), letters, err)
			}
			if records[0].Topic != "events" || records[1].Topic != "letters" || records[2].Topic != "events" {
				t.Fatalf("topics %s, %s, %s", records[0].Topic, records[1].Topic, records[2].Topic)
			}
			l, err := dlq.Parse(records[1])
			if err != nil {
				t.Fatal(err)
			}
			if l.Reason != tc.reason || l.Code != tc.code.ID || l.Relay != "orders" || l.RelayVersion != "v1" || l.Topic != tc.topic {
				t.Errorf("letter %+v", l)
			}
			if got := gather(t, d.reg)["outbox_decode_errors_total/row"]; got != tc.unread {
				t.Errorf("counted %v rows that could not be read", got)
			}
			if _, known := d.catalog.Get("no spaces"); known {
				t.Error("an illegal topic is known")
			}
		})
	}
}

// What concerns more than the row is no letter: it would be one for every row.
func TestTranslateFailures(t *testing.T) {
	d := newDesk(t)
	if _, _, err := d.translate(t, 0x10, d.row("{}", "absent", "")); !fault.Has(err, fault.KafkaTopicMissing) {
		t.Errorf("a topic that does not exist: %v", err)
	}
	d.rel = relation("id", "aggregatetype", "aggregateid", "type", "data")
	_, _, err := d.translate(t, 0x20, d.row("{}", "", ""))
	if !fault.Has(err, fault.ColumnMissing) || !strings.Contains(err.Error(), "outbox.events") || !strings.Contains(err.Error(), "payload") {
		t.Errorf("a column that does not exist: %v", err)
	}
}

// The shape of the table may change from part to part, and an end without rows
// has none.
func TestTranslateFollowsTheTable(t *testing.T) {
	d := newDesk(t)
	if _, _, err := d.translate(t, 0x10, d.row("1", "", "")); err != nil {
		t.Fatal(err)
	}
	d.rel = relation("topic", "id", "aggregatetype", "aggregateid", "type", "payload")
	r := d.row("2", "small", "")
	r.Values = append([][]byte{r.Values[5]}, r.Values[:5]...)
	records, _, err := d.translate(t, 0x10, r)
	if err != nil || records[0].Topic != "small" || string(records[0].Value) != "2" {
		t.Errorf("%v, %v", records, err)
	}
	d.rel = nil
	if records, letters, err := d.translate(t, 0x10); err != nil || letters != 0 || len(records) != 0 {
		t.Errorf("%v, %v", records, err)
	}
}

// The size that counts against the limits is at least what the record holds.
func TestRecordSize(t *testing.T) {
	r := &kgo.Record{Key: make([]byte, 10), Value: make([]byte, 1000), Headers: []kgo.RecordHeader{{Key: "k", Value: make([]byte, 100)}}}
	if n := size(r); n < 1110 || n > 1110+2*recordOverhead {
		t.Errorf("size %d", n)
	}
}
