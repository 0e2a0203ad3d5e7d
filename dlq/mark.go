package dlq

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Action is what became of a letter.
type Action string

// The actions. Their texts are public.
const (
	Replayed Action = "replayed"
	Purged   Action = "purged"
	Released Action = "released" // a parked letter that the relay has sent on
	// Deferred closes no letter: a replay by the scheduler was refused, and the
	// mark says when it is tried again, or by no NextAt that it no longer is.
	Deferred Action = "deferred"
)

// Spot is where a letter is in Kafka.
type Spot struct {
	Topic     string
	Partition int32
	Offset    int64
}

// Mark is the record in the state topic that says what became of a letter. It
// is written in the transaction in which that happens. The newest mark of a
// key is the one that counts, which is what compaction keeps.
type Mark struct {
	ID       string // of the event; may be empty, see Key
	Group    string // of a consumer's letter
	Action   Action
	At       time.Time // in microseconds
	By       string    // who: a user and host, a relay, the scheduler
	Attempts int       // how often it has been tried, the letter's own count included
	Letter   Spot
	Topic    string // where a replay went
	Because  string // why a person purged it

	NextAt time.Time // of a deferred letter: when it is tried again
	Code   string    // of a deferred letter: what refused it

	// Also names the newest letters of the same key in other partitions that
	// are closed, so that this mark, which replaces theirs, opens none again.
	Also []Spot
}

const markVersion = 1

type wireSpot struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

type wireMark struct {
	V        int        `json:"v"`
	ID       string     `json:"id"`
	Group    string     `json:"group,omitempty"`
	Action   Action     `json:"action"`
	At       time.Time  `json:"at"`
	By       string     `json:"by,omitempty"`
	Attempts int        `json:"attempts,omitempty"`
	Letter   wireSpot   `json:"letter"`
	Topic    string     `json:"topic,omitempty"`
	Because  string     `json:"because,omitempty"`
	NextAt   *time.Time `json:"next_at,omitempty"`
	Code     string     `json:"code,omitempty"`
	Also     []wireSpot `json:"also,omitempty"`
}

// Key is the key of the mark: the event's id, for a consumer's letter with the
// group behind it, since groups fail and recover each on its own. A letter of
// a row without an id is named by its place.
func (m *Mark) Key() string { return markKey(m.ID, m.Group, m.Letter.Partition, m.Letter.Offset) }

func markKey(id, group string, partition int32, offset int64) string {
	if id = shortID(id); id == "" {
		id = "letter/" + strconv.Itoa(int(partition)) + "/" + strconv.FormatInt(offset, 10)
	}
	if group != "" {
		return id + "@" + group
	}
	return id
}

// maxID is how long an id may be to stand in a mark as it is. Nothing bounds the
// ids of a table but max.message.bytes of the events, and a mark, which has the
// id twice, has to fit too: a parked letter without one could never be sent on.
const maxID = 1024

// shortID is what stands for an id in a mark.
func shortID(id string) string {
	if len(id) <= maxID {
		return id
	}
	return "sha256/" + hash([]byte(id))
}

// Closes tells whether the mark, being the newest of a letter's key, says that
// nothing is left to be done with the letter at this place. A newer letter of
// the same event stands for the older ones too.
func (m *Mark) Closes(partition int32, offset int64) bool {
	for _, p := range m.Also {
		if p.Partition == partition && offset <= p.Offset {
			return true
		}
	}
	if m.Letter.Partition != partition || offset > m.Letter.Offset {
		return false
	}
	return m.Action != Deferred || offset < m.Letter.Offset
}

// Record returns the mark as the record to be produced to the state topic.
func (m *Mark) Record(topic string) (*kgo.Record, error) {
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("encode mark: %w", err)
	}
	w := wireMark{
		V: markVersion, ID: shortID(m.ID), Group: m.Group, Action: m.Action, At: m.At.UTC(), By: m.By, Attempts: m.Attempts,
		Letter: wireSpot(m.Letter), Topic: m.Topic, Because: m.Because, Code: m.Code,
	}
	if !m.NextAt.IsZero() {
		at := m.NextAt.UTC()
		w.NextAt = &at
	}
	for _, p := range m.Also {
		w.Also = append(w.Also, wireSpot(p))
	}
	b, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encode mark: %w", err)
	}
	return &kgo.Record{Topic: topic, Key: []byte(m.Key()), Value: b}, nil
}

// ParseMark reads a mark back from its record. It refuses a version that it
// does not know, and a value that contradicts the key it is kept under.
func ParseMark(r *kgo.Record) (Mark, error) {
	var w wireMark
	if err := json.Unmarshal(r.Value, &w); err != nil {
		return Mark{}, fmt.Errorf("read mark at offset %d: %w", r.Offset, err)
	}
	if w.V < 1 || w.V > markVersion {
		return Mark{}, fmt.Errorf("read mark at offset %d: format version %d, this program knows 1 to %d", r.Offset, w.V, markVersion)
	}
	m := Mark{
		ID: w.ID, Group: w.Group, Action: w.Action, At: w.At.UTC(), By: w.By, Attempts: w.Attempts,
		Letter: Spot(w.Letter), Topic: w.Topic, Because: w.Because, Code: w.Code,
	}
	if w.NextAt != nil {
		m.NextAt = w.NextAt.UTC()
	}
	for _, p := range w.Also {
		m.Also = append(m.Also, Spot(p))
	}
	if err := m.validate(); err != nil {
		return Mark{}, fmt.Errorf("read mark at offset %d: %w", r.Offset, err)
	}
	if string(r.Key) != m.Key() {
		return Mark{}, fmt.Errorf("read mark at offset %d: its key is not the one of its letter", r.Offset)
	}
	return m, nil
}

func (m *Mark) validate() error {
	switch m.Action {
	case Replayed, Purged, Released, Deferred:
	default:
		return fmt.Errorf("action %.20q is not known", m.Action)
	}
	for _, p := range append([]Spot{m.Letter}, m.Also...) {
		if p.Partition < 0 || p.Offset < 0 {
			return errors.New("the place of its letter is negative")
		}
	}
	return nil
}
