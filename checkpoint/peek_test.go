package checkpoint_test

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestPeek(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		write func(d *desk)
		want  uint64
	}{
		{"empty topic", func(*desk) {}, 0},
		{"a checkpoint", func(d *desk) { d.commit(d.record(at("a", 1, 3))) }, 3},
		{"behind the first window", func(d *desk) {
			d.commit(d.record(at("a", 1, 3)))
			for range 300 {
				d.commit(d.barrier("b"))
			}
		}, 3},
		{"the last one was aborted", func(d *desk) { d.commit(d.record(at("a", 1, 3))); d.abort(d.record(at("a", 1, 4))) }, 3},
		{"one is under way", func(d *desk) { d.commit(d.record(at("a", 1, 3))); d.begin(d.writer, d.record(at("a", 1, 4))) }, 3},
		{"one is under way and nothing else", func(d *desk) { d.begin(d.writer, d.record(at("a", 1, 1))) }, 0},
		{"another relay wrote last", func(d *desk) {
			d.commit(d.record(at("a", 1, 3)))
			d.commit(d.recordOf("invoices", at("b", 1, 9)))
		}, 3},
		{"somebody wrote last, without a transaction", func(d *desk) {
			d.commit(d.record(at("a", 1, 3)))
			d.plain(&kgo.Record{Topic: topic, Key: []byte("somebody"), Value: []byte("else")})
		}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			c.write(d)
			st, err := d.log.Peek(within(t, 10*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			var got uint64
			if st.Last != nil {
				got = st.Last.Seq
			}
			if got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestPeekWithoutTopic(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.log.Topic = "nothing"
	_, err := d.log.Peek(within(t, 10*time.Second))
	if err == nil || !strings.Contains(err.Error(), "UNKNOWN_TOPIC") {
		t.Errorf("got %v", err)
	}
}
