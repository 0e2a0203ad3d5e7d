package sink

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

const (
	maxTopicName = 249

	// internalPrefix is where Kafka keeps topics of its own.
	internalPrefix = "__"

	// maxTopicsKnown bounds the memory that rows can take by naming topics.
	maxTopicsKnown = 10_000
)

// topics decides the topic of a row. Names are interned: a topic's name must
// not keep the memory of the row it was first seen in, because the client
// holds on to it for good.
type topics struct {
	events   string
	template []segment
	byType   bool // the template has {type}
	denied   []string
	known    map[string]string    // asked for by a row
	expanded map[[2]string]string // aggregate type and type, to the template's result
}

// segment is a piece of a template: fixed text, or a field of the row.
type segment struct {
	text  string
	field templateField
}

type templateField uint8

const (
	fixedText templateField = iota
	aggregateTypeField
	typeField
)

// placeholders of a template. The last is Debezium's word for the first.
func placeholder(name string) (templateField, bool) {
	switch name {
	case "{aggregatetype}", "${routedByValue}":
		return aggregateTypeField, true
	case "{type}":
		return typeField, true
	}
	return 0, false
}

func newTopics(events, template string, denied []string) (*topics, error) {
	t := &topics{
		events:   events,
		denied:   denied,
		known:    make(map[string]string),
		expanded: make(map[[2]string]string),
	}
	if template == "" {
		if err := t.check(events); err != nil {
			return nil, fault.Wrap(err, fault.ConfigInvalid, "events topic")
		}
		return t, nil
	}
	for rest := template; rest != ""; {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			t.template = append(t.template, segment{text: rest})
			break
		}
		if open > 0 && rest[open-1] == '$' {
			open--
		}
		end := strings.IndexByte(rest[open:], '}')
		if end < 0 {
			return nil, fault.New(fault.ConfigInvalid, "topic template %q has a brace that is not closed", template)
		}
		name := rest[open : open+end+1]
		field, ok := placeholder(name)
		if !ok {
			return nil, fault.New(fault.ConfigInvalid, "topic template %q has the unknown placeholder %s; there are {aggregatetype} and {type}", template, name)
		}
		if open > 0 {
			t.template = append(t.template, segment{text: rest[:open]})
		}
		t.template = append(t.template, segment{field: field})
		t.byType = t.byType || field == typeField
		rest = rest[open+end+1:]
	}
	// A template that is wrong for the plainest of rows is wrong for all.
	if err := t.check(t.expand("a", "a")); err != nil {
		return nil, fault.Wrap(err, fault.ConfigInvalid, "topic template %q", template)
	}
	return t, nil
}

// of returns the topic of a row. The name is returned even if it is refused,
// for the letter to tell.
func (t *topics) of(rec *outbox.Record) (string, error) {
	switch {
	case rec.Topic != "":
		if name, ok := t.known[rec.Topic]; ok {
			return name, nil
		}
		name := strings.Clone(rec.Topic)
		if err := t.check(name); err != nil {
			return name, err
		}
		if len(t.known) >= maxTopicsKnown {
			clear(t.known)
		}
		t.known[name] = name
		return name, nil
	case t.template == nil:
		return t.events, nil
	}
	key := [2]string{rec.AggregateType, rec.Type}
	if !t.byType {
		key[1] = ""
	}
	if name, ok := t.expanded[key]; ok {
		return name, nil
	}
	name := t.expand(rec.AggregateType, rec.Type)
	if err := t.check(name); err != nil {
		return name, err
	}
	if len(t.expanded) >= maxTopicsKnown {
		clear(t.expanded)
	}
	t.expanded[[2]string{strings.Clone(key[0]), strings.Clone(key[1])}] = name
	return name, nil
}

func (t *topics) expand(aggregateType, typ string) string {
	var b strings.Builder
	for _, s := range t.template {
		switch s.field {
		case aggregateTypeField:
			b.WriteString(aggregateType)
		case typeField:
			b.WriteString(typ)
		default:
			b.WriteString(s.text)
		}
	}
	return b.String()
}

// check refuses names that Kafka does not take, and topics that are not for
// events.
func (t *topics) check(name string) error {
	if why := illegalTopic(name); why != "" {
		return fault.New(fault.RowTopic, "topic %.300q %s", name, why)
	}
	if strings.HasPrefix(name, internalPrefix) || slices.Contains(t.denied, name) {
		return fault.New(fault.RowTopicDenied, "topic %q is not for events", name)
	}
	return nil
}

// illegalTopic says what is wrong with a topic's name by Kafka's rules.
func illegalTopic(name string) string {
	switch {
	case name == "":
		return "is empty"
	case name == "." || name == "..":
		return "is a name that Kafka forbids"
	case len(name) > maxTopicName:
		return fmt.Sprintf("is longer than %d bytes", maxTopicName)
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return "has a character outside of [A-Za-z0-9._-]"
		}
	}
	return ""
}
