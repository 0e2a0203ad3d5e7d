package relay

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

func TestLetterRefused(t *testing.T) {
	old := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		name    string
		rows    []int
		refuses func(*kgo.Record) error
		letters []string
	}{
		{"with the time of its event", []int{1, 2}, func(r *kgo.Record) error {
			if !r.Timestamp.IsZero() {
				return errors.New("INVALID_TIMESTAMP")
			}
			return nil
		}, []string{"700/1"}},
		{"always", []int{1, 2}, func(*kgo.Record) error { return errors.New("INVALID_RECORD") }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, tc.rows, func(t *testing.T, w *world, r *Relay) {
				r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) {
					return keyed{poison: func(id string) bool { return false }}, nil
				}
				r.Letters, r.Probe = letters(false, w), w.probe
				r.Letters.Write = func(_ context.Context, _ sink.Session, rec *kgo.Record, cause error) (*kgo.Record, error) {
					rec.Timestamp = old
					return letterOf(rec, cause), nil
				}
				r.Pause = func(int) time.Duration { return time.Second }
				w.refuses = func(r *kgo.Record) error {
					if r.Topic == lettersTopic {
						return tc.refuses(r)
					}
					return refusing("700/1")(r)
				}
				stop := w.start(t, r)
				settle(time.Minute)
				same(t, "letters", tc.letters, w.lettersOf(dlq.Refused))
				for _, rec := range w.post().letters {
					l, _ := dlq.Parse(rec)
					same(t, "time", "2020-01-02T03:04:05.000000Z", l.Header(outbox.HeaderCreatedAt))
				}
				if n := len(w.called()); n > 2000 {
					t.Errorf("%d calls in a minute", n)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// What is sent again counts once.
func TestFloodCountsCommits(t *testing.T) {
	bubble(t, []int{3}, func(t *testing.T, w *world, r *Relay) {
		r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) {
			return keyed{poison: func(string) bool { return true }}, nil
		}
		r.Letters = letters(false, w)
		r.Letters.MaxPerMinute = 5
		w.errs["Begin"] = []error{fault.New(fault.KafkaUnreachable, "x"), fault.New(fault.KafkaUnreachable, "x")}
		stop := w.start(t, r)
		settle(10 * time.Second)
		if err := stop(); err != nil {
			t.Errorf("halted: %v", err)
		}
	})
}

// A key whose rows never rest gets free all the same.
func TestReleaseOfBusyKey(t *testing.T) {
	bubble(t, []int{4}, func(t *testing.T, w *world, r *Relay) {
		r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) {
			return keyed{poison: func(id string) bool { return id == "700/1" }}, nil
		}
		r.Letters = letters(true, w)
		stop := w.start(t, r)
		settle(2 * time.Second)
		w.most = 1000
		w.replayFirst()
		end := w.end()
		want := []string{"700/1"}
		for i := range 500 {
			commit := end + pglogrepl.LSN(i*0x40) + 0x10
			w.grow(tx{xid: uint32(1001 + i*4), commit: commit, end: commit + 0x10, rows: []uint64{4}})
			want = append(want, fmt.Sprintf("%d/4", 1001+i*4))
			time.Sleep(20 * time.Millisecond)
		}
		if got := w.newest().Parked; len(got) != 0 {
			t.Errorf("parked after 10 s: %+v", got)
		}
		settle(time.Second)
		same(t, "events of the key", want, w.perKey()["b"])
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A relay that was halted because it holds as many keys as it can goes on once
// their letters were dealt with.
func TestRoomAfterParkedFull(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) {
			return keyed{poison: func(string) bool { return true }}, nil
		}
		r.Letters = letters(true, w)
		for n := range maxParked {
			w.log[0].ck.Parked = append(w.log[0].ck.Parked, checkpoint.ParkedKey{Hash: strconv.Itoa(n), Timeline: 1, LSN: 1, Ordinal: 1, Offset: -1})
		}
		stop := w.start(t, r)
		settle(10 * time.Second)
		if got := w.newest().Parked; len(got) != 1 {
			t.Errorf("%d keys are parked", len(got))
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}
