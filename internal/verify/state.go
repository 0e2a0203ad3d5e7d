package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
)

// State is the topic that says what became of letters.
type State struct {
	Topic string
	// Start, LSO and HW are its bounds when it was read.
	Start, LSO, HW int64
	// Compacted says that records are gone that a newer one of their key
	// stands for.
	Compacted bool
	Marks     []LetterMark // in offset order
}

// Action is what a mark says, in the words of the topic.
type Action string

// The actions. A deferred letter stays open.
const (
	Replayed Action = "replayed"
	Released Action = "released" // by the relay: it was parked
	Purged   Action = "purged"
	Deferred Action = "deferred"
)

// sends tells whether a record is owed for the mark.
func (a Action) sends() bool { return a == Replayed || a == Released }

// LetterMark is one record of the state topic.
type LetterMark struct {
	Offset    int64
	ID        ID
	Group     Name
	Action    Action
	Topic     Name // where a replay went
	Letter    Place
	Also      []Place
	Producer  Producer
	Fate      Fate
	Committed bool   // shown to a read_committed consumer
	Fault     string // why it could not be decoded
}

// Place is where a letter is.
type Place struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

func (p Place) String() string { return fmt.Sprintf("%s/%d@%d", p.Topic, p.Partition, p.Offset) }

// closes tells whether the mark says that the letter at a place is done with.
func (m *LetterMark) closes(topic string, partition int32, offset int64) bool {
	for _, p := range m.Also {
		if p.Topic == topic && p.Partition == partition && offset <= p.Offset {
			return true
		}
	}
	if m.Letter.Topic != topic || m.Letter.Partition != partition || offset > m.Letter.Offset {
		return false
	}
	return m.Action != Deferred || offset < m.Letter.Offset
}

// ReadState reads the whole state topic. The form of a mark is public; it is
// read here without the code that wrote it.
func ReadState(ctx context.Context, opts []kgo.Opt, topic string) (State, error) {
	all, err := readBounds(ctx, opts, topic)
	if err != nil || len(all) == 0 {
		return State{Topic: topic}, err
	}
	if len(all) > 1 {
		return State{}, fmt.Errorf("state topic %s has %d partitions", topic, len(all))
	}
	s := State{Topic: topic, Start: all[0].start, LSO: all[0].lso, HW: all[0].hw, Compacted: all[0].start > 0}
	var settle settler
	next := s.Start
	whole, err := drain(ctx, opts, kgo.ReadUncommitted(), all, func(b bounds) int64 { return b.hw - 1 }, func(rec *kgo.Record) {
		if rec.Offset >= s.HW {
			return // written since
		}
		s.Compacted = s.Compacted || rec.Offset != next
		next = rec.Offset + 1
		if fate, ok := marker(rec); ok {
			for _, i := range settle.settle(rec) {
				s.Marks[i].Fate = fate
			}
			return
		}
		if rec.Attrs.IsControl() {
			return
		}
		m := markOf(rec)
		m.Fate = settle.add(rec, len(s.Marks))
		s.Marks = append(s.Marks, m)
	})
	if err != nil {
		return State{}, err
	}
	if !whole {
		return State{}, fmt.Errorf("read %s: it ends before its high watermark", topic)
	}
	last := int64(-1)
	for i := range s.Marks {
		m := &s.Marks[i]
		if m.Offset >= s.LSO {
			m.Fate = Open
		}
		if m.Fate == Commit || m.Fate == NoTransaction {
			last = m.Offset
		}
	}
	_, err = drain(ctx, opts, kgo.ReadCommitted(), all, func(bounds) int64 { return last }, func(rec *kgo.Record) {
		i, ok := slices.BinarySearchFunc(s.Marks, rec.Offset, func(m LetterMark, offset int64) int { return int(m.Offset - offset) })
		if ok && rec.Offset < s.LSO {
			s.Marks[i].Committed = true
		}
	})
	return s, err
}

// wireMark is as much of a mark as is judged.
type wireMark struct {
	V      int     `json:"v"`
	ID     string  `json:"id"`
	Group  string  `json:"group"`
	Action Action  `json:"action"`
	Letter Place   `json:"letter"`
	Topic  string  `json:"topic"`
	Also   []Place `json:"also"`
}

func markOf(rec *kgo.Record) LetterMark {
	m := LetterMark{Offset: rec.Offset, Producer: Producer{rec.ProducerID, rec.ProducerEpoch}}
	var w wireMark
	err := json.Unmarshal(rec.Value, &w)
	key := w.ID
	if w.Group != "" {
		key += "@" + w.Group
	}
	switch {
	case err != nil:
	case w.V != 1:
		err = fmt.Errorf("format version %d", w.V)
	case w.ID != "" && key != string(rec.Key):
		// Compaction would keep it beside the mark that it replaces.
		err = errors.New("its key is not that of its letter")
	}
	if err != nil {
		m.Fault = err.Error()
		return m
	}
	m.ID, m.Group, m.Action, m.Topic, m.Letter, m.Also = IDOf(w.ID), NameOf(w.Group), w.Action, NameOf(w.Topic), w.Letter, w.Also
	return m
}
