package consumer

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// What held the retry topic still may go to another member: its other
// partitions go on here.
func TestRetryTopicGoesOn(t *testing.T) {
	for name, leave := range map[string]func(*Consumer, map[string][]int32){"revoked": (*Consumer).revoked, "lost": (*Consumer).lost} {
		t.Run(name, func(t *testing.T) {
			c, err := New(Config{
				Group: "g", Topics: []string{"events"}, RetryTopic: "g.retry", Client: []kgo.Opt{kgo.SeedBrokers("127.0.0.1:1")},
				Handler: func(context.Context, Event) error { return nil }, MaxInFlight: 2,
			})
			if err != nil {
				t.Fatal(err)
			}
			if c.client, err = kgo.NewClient(kgo.SeedBrokers("127.0.0.1:1"), kgo.ConsumeTopics("g.retry")); err != nil {
				t.Fatal(err)
			}
			defer c.client.Close()
			close(c.started)
			c.assigned(t.Context(), map[string][]int32{"g.retry": {0, 1}})
			p := c.part("g.retry", 0)
			recs := make([]*kgo.Record, 2)
			for i := range recs {
				recs[i] = &kgo.Record{Topic: "g.retry", Offset: int64(i), Headers: []kgo.RecordHeader{
					{Key: HeaderNotBefore, Value: []byte(time.Now().Add(time.Hour).UTC().Format(timeFormat))},
				}}
			}
			chunk := p.track(recs, false)
			c.sched.admit(2, sizeOf(recs[0])+sizeOf(recs[1]))
			c.hold(p, []item{{recs[0], chunk, 0}, {recs[1], chunk, 1}})
			if got := c.client.PauseFetchTopics(); len(got) != 1 {
				t.Fatalf("not held still: %v", got)
			}
			leave(c, map[string][]int32{"g.retry": {0}})
			if got := c.client.PauseFetchTopics(); len(got) != 0 {
				t.Errorf("held still: %v", got)
			}
		})
	}
}

// Whatever the client's rebalance time-out is, a member gives its partitions away
// within it.
func TestLimitsStayBelowTheRebalance(t *testing.T) {
	for _, rebalance := range []time.Duration{100 * time.Millisecond, time.Second, 10 * time.Second, time.Minute, 10 * time.Minute} {
		for _, drain := range []time.Duration{time.Millisecond, DefaultDrainTimeout, maxDrain} {
			l := limitsOf(rebalance, drain)
			if sum := l.drain + l.moment + 3*l.commit; sum > rebalance*97/100 || l.drain > drain || l.commit <= 0 {
				t.Errorf("%s of %s: %+v", sum, rebalance, l)
			}
		}
	}
	if l := limitsOf(time.Minute, maxDrain); l.drain != maxDrain {
		t.Errorf("the longest drain is cut to %s by the usual time-out", l.drain)
	}
}

// A queue that is kept for reuse keeps nothing else: its key is a view of the
// batch that it came in.
func TestSpareQueuesKeepNothing(t *testing.T) {
	s := newSched(true)
	p := newPart(t.Context(), "events", 0, 1)
	defer p.cancel()
	rec := &kgo.Record{Topic: "events", Key: []byte("k")}
	s.enqueue([]item{{rec, p.track([]*kgo.Record{rec}, false), 0}})
	s.admit(1, sizeOf(rec))
	w := &worker{}
	q, _, _ := s.take(w)
	s.finishKey(q, 1, false, 0, time.Now())
	if len(s.spare) != 1 || s.spare[0].key != "" || s.spare[0].part != nil {
		t.Errorf("kept: %+v", s.spare)
	}
}
