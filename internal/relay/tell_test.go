package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// The first letter is told at once, those of the next ten seconds in one line,
// and none with what is in it.
func TestLettersAreTold(t *testing.T) {
	var out bytes.Buffer
	s := &session{Relay: &Relay{Letters: &Letters{Topic: "dlq"}}, triage: &triage{}, log: zerolog.New(&out)}
	letters := func(reason dlq.Reason, n int) *group {
		g := &group{records: []*kgo.Record{{Topic: "events", Value: []byte("secret")}}, letters: uint64(n)}
		for i := range n {
			rec := &kgo.Record{Topic: "events", Key: []byte("secret"), Value: []byte("secret"), Headers: []kgo.RecordHeader{{Key: "id", Value: fmt.Appendf(nil, "e%d", i)}}}
			l := dlq.New(rec, fault.Wrap(errors.New("too long"), fault.RowTooLarge, "record"), time.Unix(0, 0))
			l.Reason = reason
			g.records = append(g.records, l.Record("dlq", 1<<20))
		}
		return g
	}
	start := time.Unix(1_800_000_000, 0)
	s.tellLetters(&group{}, start)
	s.tellLetters(letters(dlq.TooLarge, 1), start)
	s.tellLetters(letters(dlq.TooLarge, 2), start.Add(time.Second))
	s.tellLetters(letters(dlq.Parked, 3), start.Add(2*time.Second))
	s.tellLetters(&group{}, start.Add(tellEvery)) // a heartbeat
	s.tellLetters(&group{}, start.Add(3*tellEvery))

	if bytes.Contains(out.Bytes(), []byte("secret")) {
		t.Error("a line holds what is in a row")
	}
	var got []string
	for dec := json.NewDecoder(&out); dec.More(); {
		var line map[string]any
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%v %v %v %v %t", line["letters"], line["parked"], line["event_id"], line["code"], line["hint"] != nil))
	}
	if diff := cmp.Diff([]string{"1 0 e0 OBX-2002 true", "5 3 e0 OBX-2002 true"}, got); diff != "" {
		t.Error(diff)
	}
}
