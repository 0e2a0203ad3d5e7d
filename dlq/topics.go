package dlq

import (
	"strconv"
	"time"
)

// DefaultTopic returns the topic of letters that belongs to an events topic.
func DefaultTopic(events string) string { return events + ".dlq" }

// StateTopic returns the topic that tells what became of the letters of a
// topic: keyed by event id, replayed, purged, released or deferred.
func StateTopic(topic string) string { return topic + ".state" }

// TopicSettings describe a topic for whoever creates or checks it.
type TopicSettings struct {
	Name       string
	Partitions int32
	Configs    map[string]string
}

const (
	// leastMaxBytes is the least max.message.bytes of a topic of letters.
	leastMaxBytes = 8 << 20
	// moreThanEvents is how many times the limit of the events topic a topic
	// of letters takes: what is too large to be an event should be small
	// enough to be a letter.
	moreThanEvents = 4
	// mostMaxBytes keeps the settings below what the client writes at once.
	mostMaxBytes = 64 << 20

	stateSegmentBytes = 16 << 20
)

// Topics returns the settings of a topic of letters and of its state topic,
// for an events topic with the given max.message.bytes. Letters are kept for
// good: only a person decides that one is no longer wanted.
func Topics(topic string, eventsMaxBytes int) []TopicSettings {
	limit := max(min(max(leastMaxBytes, moreThanEvents*eventsMaxBytes), mostMaxBytes), eventsMaxBytes)
	return []TopicSettings{
		{
			Name:       topic,
			Partitions: 1,
			Configs: map[string]string{
				"cleanup.policy":    "delete",
				"retention.ms":      "-1",
				"retention.bytes":   "-1",
				"max.message.bytes": strconv.Itoa(limit),
			},
		},
		{
			Name:       StateTopic(topic),
			Partitions: 1,
			Configs: map[string]string{
				"cleanup.policy": "compact",
				// The active segment is never compacted, and every replay reads
				// the topic: smaller segments, and closed at least once a day.
				"segment.bytes": strconv.Itoa(stateSegmentBytes),
				"segment.ms":    strconv.FormatInt((24 * time.Hour).Milliseconds(), 10),
				// Without this a log may stay half dirty for ever.
				"min.cleanable.dirty.ratio": "0.2",
			},
		},
	}
}
