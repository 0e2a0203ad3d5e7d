package dlq_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/outbox"
)

// rows is a table of one payload column of type text.
type rows map[string][][]string // by id: aggregateid, payload, headers, topic

func (r rows) table() *dlq.Table {
	names := []string{"id", "aggregatetype", "aggregateid", "type", "payload", "headers", "topic"}
	var columns []outbox.Column
	for _, n := range names {
		columns = append(columns, outbox.Column{Name: n, TypeOID: 25})
	}
	return &dlq.Table{Columns: outbox.DefaultColumns(), Rows: func(_ context.Context, id string) ([]outbox.Column, [][][]byte, error) {
		var out [][][]byte
		for _, row := range r[id] {
			out = append(out, [][]byte{[]byte(id), []byte("order"), []byte(row[0]), []byte("created"), []byte(row[1]), []byte(row[2]), []byte(row[3])})
		}
		return columns, out, nil
	}}
}

func TestReplayFromTheTable(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 300_000)
	for name, tc := range map[string]struct {
		rows  rows
		asIs  bool
		table bool
		want  string // outcome, or the value sent
	}{
		"the row is there":          {rows{"1": {{"a", large, `{"tenant":"acme"}`, ""}}}, false, true, large},
		"it is one of two":          {rows{"1": {{"a", "y", "{}", ""}, {"a", large, `{}`, ""}}}, false, true, large},
		"there is no table":         {nil, false, false, "1 letter_omitted"},
		"the row is gone":           {rows{}, false, true, "1 letter_row_gone"},
		"the row was changed":       {rows{"1": {{"a", "y", "{}", ""}}}, false, true, "1 letter_row_changed"},
		"the key was changed":       {rows{"1": {{"b", large, "{}", ""}}}, false, true, "1 letter_row_changed"},
		"the row as it is":          {rows{"1": {{"a", "y", "{}", events}}}, true, true, "y"},
		"the row is wrong as it is": {rows{"1": {{"a", "y", "[]", ""}}}, true, true, "1 decode"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			l := r.letter("1", "a", func(l *dlq.Letter) {
				l.Value = []byte(large)
				if tc.asIs {
					l.Topic = "a b" // corrected in the row
				}
			})
			r.produce(t, l.Record(letters, 100_000))
			tool := r.tool()
			if tc.table {
				tool.Table = tc.rows.table()
			}
			got, err := r.replay(t, tool, dlq.Job{FromTable: tc.asIs})
			if err != nil {
				t.Fatal(err)
			}
			sent := r.committed(t, events)
			if len(sent) == 0 {
				if refused := got[dlq.OutcomeRefused]; !cmp.Equal(refused, []string{tc.want}) {
					t.Errorf("got %v", got)
				}
				return
			}
			if string(sent[0].Value) != tc.want || string(sent[0].Key) != "a" || header(sent[0], "id") != "1" || header(sent[0], outbox.HeaderLSN) == "" {
				t.Errorf("%d bytes, key %s, %v", len(sent[0].Value), sent[0].Key, sent[0].Headers)
			}
		})
	}
}

// A letter without anything of its own gets all of it back, in the order in
// which the relay writes it.
func TestReplayOfTheLeastLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	value := strings.Repeat("v", 30_000)
	// A key of 30 kB: the letter has room for neither.
	key := strings.Repeat("k", 30_000)
	l := r.letter("1", key, func(l *dlq.Letter) {
		l.Value = []byte(value)
		l.Headers[3].Value = []byte(key) // aggregateid
	})
	want, err := l.Replay(written)
	if err != nil {
		t.Fatal(err)
	}
	small := l.Record(letters, 4_000)
	parsed, err := dlq.Parse(small)
	if err != nil || !parsed.Omitted.Key || !parsed.Omitted.Payload || parsed.Omitted.UserHeaders == 0 || parsed.Omitted.CutHeaders == 0 {
		t.Fatalf("%+v, %v", parsed.Omitted, err)
	}
	r.produce(t, small)
	tool := r.tool()
	tool.Table = rows{"1": {{key, value, `{"tenant":"acme"}`, ""}}}.table()
	if got, err := r.replay(t, tool, dlq.Job{}); err != nil || len(got[dlq.OutcomeDone]) != 1 {
		t.Fatalf("got %v, %v", got, err)
	}
	got := r.committed(t, events)[0]
	names := func(r *kgo.Record) (all []string) {
		for _, h := range r.Headers {
			value := string(h.Value)
			if h.Key == outbox.HeaderReplayed || h.Key == outbox.HeaderContentType {
				value = ""
			}
			all = append(all, h.Key+"="+value)
		}
		return all
	}
	if diff := cmp.Diff(names(want), names(got)); diff != "" || string(got.Key) != key || string(got.Value) != value {
		t.Error(diff)
	}
}
