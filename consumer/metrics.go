package consumer

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/holdwall/outbox-relay/dlq"
)

// maxLagLabels bounds the partitions that have a lag of their own; the rest is
// summed up under "other".
const maxLagLabels = 200

// Why an event was skipped.
const (
	skipHighWater = iota // at or below the mark
	skipReplay           // a replay or retry copy that was seen before
	skipInbox            // the handler said so
	skipGroup            // a replay for another group
	skips
)

var skipNames = [skips]string{"high_water", "replay", "inbox", "other_group"}

const (
	retryInPlace = "in_place"
	retryTopic   = "topic"
)

const (
	assigned = "assigned"
	taken    = "revoked"
	lostName = "lost"
)

type metrics struct {
	handled     prometheus.Counter
	skipped     [skips]prometheus.Counter
	retries     *prometheus.CounterVec
	letters     *prometheus.CounterVec
	unpublished prometheus.Counter
	rewound     prometheus.Counter
	unmarked    prometheus.Counter
	duration    *histogram
	lag         *prometheus.GaugeVec
	rebalances  *prometheus.CounterVec
	commits     *prometheus.CounterVec
	transacts   *prometheus.CounterVec
}

// newMetrics registers the consumer's metrics with its group as a label, so
// that several consumers can share a registry.
func newMetrics(reg prometheus.Registerer, group string, s *sched) *metrics {
	if reg != nil {
		reg = prometheus.WrapRegistererWith(prometheus.Labels{"group": group}, reg)
	}
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "outbox_consumer_" + name, Help: help})
	}
	counters := func(name, help, label string, values ...string) *prometheus.CounterVec {
		v := f.NewCounterVec(prometheus.CounterOpts{Name: "outbox_consumer_" + name, Help: help}, []string{label})
		for _, value := range values {
			v.WithLabelValues(value)
		}
		return v
	}
	m := &metrics{
		handled:     counter("handled_total", "Events whose handler returned without an error."),
		retries:     counters("retries_total", "Failed attempts that are followed by another, by where.", "where", retryInPlace, retryTopic),
		letters:     counters("dead_letters_total", "Events that became dead letters.", "reason", string(dlq.Handler), string(dlq.Decode)),
		unpublished: counter("unpublished_total", "Dead letters and retry copies that Kafka did not take; each is tried again."),
		rewound:     counter("source_rewinds_total", "Times that a source's positions began anew, with HighWater; its mark was reset."),
		unmarked:    counter("unmarked_total", "Events handled without a high-water mark, because they carry no position or come from too many sources."),
		duration:    newHistogram("outbox_consumer_handler_duration_seconds", "Duration of handler calls."),
		lag: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "outbox_consumer_lag_records", Help: "Offsets between what is done and the end of the partition.",
		}, []string{"topic", "partition"}),
		rebalances: counters("rebalances_total", "Assignments and losses of partitions.", "kind", assigned, taken, lostName),
		commits:    counters("commits_total", "Offset commits.", "result", "ok", "error"),
		transacts:  counters("transactions_total", "Transactions of the transform mode.", "result", "committed", "aborted", "unknown"),
	}
	if reg != nil {
		reg.MustRegister(m.duration)
	}
	skipped := counters("skipped_total", "Events that were not handed to the handler, or that it said were done before.", "why", skipNames[:]...)
	for i, name := range skipNames {
		m.skipped[i] = skipped.WithLabelValues(name)
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "outbox_consumer_in_flight_records", Help: "Records taken from the client and not done.",
	}, func() float64 { return float64(s.records.Load()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "outbox_consumer_held_records", Help: "Records of the retry topic that wait for their time.",
	}, func() float64 { return float64(s.held.Load()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "outbox_consumer_in_flight_bytes", Help: "About what they occupy.",
	}, func() float64 { return float64(s.bytes.Load()) })
	return m
}

// tally counts for one worker what would cost a shared counter for each event.
type tally struct {
	ok       uint64
	skipped  [skips]uint64
	rewound  uint64
	unmarked uint64
	calls    sample
}

func (t *tally) handled(d time.Duration, ok bool) {
	if ok {
		t.ok++
	}
	t.calls.add(d)
}

func (t *tally) flush(m *metrics) {
	if t.ok > 0 {
		m.handled.Add(float64(t.ok))
	}
	for i, n := range t.skipped {
		if n > 0 {
			m.skipped[i].Add(float64(n))
		}
	}
	if t.rewound > 0 {
		m.rewound.Add(float64(t.rewound))
	}
	if t.unmarked > 0 {
		m.unmarked.Add(float64(t.unmarked))
	}
	if t.calls.n > 0 {
		m.duration.merge(&t.calls)
	}
	*t = tally{}
}

// lags sets the gauges of all partitions that are assigned.
func (m *metrics) lags(parts []*part) {
	m.lag.Reset()
	var other float64
	for i, p := range parts {
		behind := p.behind()
		if i < maxLagLabels {
			m.lag.WithLabelValues(p.topic, strconv.Itoa(int(p.num))).Set(behind)
		} else {
			other += behind
		}
	}
	if len(parts) > maxLagLabels {
		m.lag.WithLabelValues("other", "other").Set(other)
	}
}

func (p *part) behind() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next < 0 {
		return 0
	}
	return float64(max(p.end.Load()-p.next, 0))
}
