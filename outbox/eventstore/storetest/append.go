package storetest

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/outbox/eventstore"
)

func testRoundTrip(t *testing.T, r Rig) {
	s := r.Open(t)
	events := []eventstore.Event{
		{Type: "Placed", Payload: []byte(`{"b": 1,   "a":2}`), ContentType: "application/json"},
		{
			ID: "0198C0DE-0000-7000-8000-000000000001", Type: "Plačeno", Payload: []byte("\x00\\'\xff"),
			Headers:     []outbox.Header{{Key: "z", Value: []byte("ü\n\"")}, {Key: "a", Value: []byte{}}},
			TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", TraceState: "x=1",
		},
		{Type: "Empty"},
	}
	before := time.Now().Add(-time.Second)
	version, err := s.Append(within(t), "order-č 1", eventstore.NoStream, events...)
	if err != nil || version != 3 {
		t.Fatalf("version %d, %v", version, err)
	}
	if id, err := uuid.Parse(events[0].ID); err != nil || id.Version() != 7 {
		t.Errorf("the id made is %q", events[0].ID)
	}
	want := make([]eventstore.Recorded, len(events))
	for i, ev := range events {
		want[i] = eventstore.Recorded{Event: ev, Stream: "order-č 1", Version: int64(i) + 1}
	}
	want[1].ID = strings.ToLower(want[1].ID)
	want[1].ContentType, want[2].ContentType = outbox.ContentBytes, outbox.ContentBytes
	rest := cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreFields(eventstore.Recorded{}, "Position", "Time")}
	other := r.Open(t)
	for name, got := range map[string][]eventstore.Recorded{
		"Load": load(t, s, "order-č 1", 0), "Load elsewhere": load(t, other, "order-č 1", 0),
		"ReadAll": readAll(t, other, eventstore.Start, 3, 100), "Subscribe": follow(t, other, eventstore.Start, 3),
	} {
		if diff := cmp.Diff(want, got, rest); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		for _, ev := range got {
			if ev.Time.Before(before) || ev.Time.After(time.Now().Add(time.Second)) || ev.Time != ev.Time.Truncate(time.Millisecond) || ev.Time.Location() != time.UTC {
				t.Errorf("%s: time %v", name, ev.Time)
			}
		}
	}
	if got := keys(load(t, s, "order-č 1", 2)); !cmp.Equal(got, []string{"order-č 1@3"}) {
		t.Errorf("behind version 2: %v", got)
	}
	for _, stream := range []string{"order-č 1", "nobody"} {
		if got := load(t, s, stream, 3); len(got) != 0 {
			t.Errorf("%s behind version 3: %v", stream, keys(got))
		}
	}
	for range s.Load(within(t), "order-č 1", 0) {
		break // whoever stops early leaves nothing open: goleak looks
	}
}

func testExpected(t *testing.T, r Rig) {
	s := r.Open(t)
	other := r.Open(t)
	for _, tc := range []struct {
		head     int64
		expected eventstore.ExpectedVersion
		ok       bool
	}{
		{0, eventstore.Any, true},
		{0, eventstore.NoStream, true},
		{0, eventstore.Exact(0), true},
		{0, eventstore.Exact(1), false},
		{2, eventstore.Any, true},
		{2, eventstore.NoStream, false},
		{2, eventstore.Exact(1), false},
		{2, eventstore.Exact(2), true},
		{2, eventstore.Exact(3), false},
	} {
		stream := "s-" + uuid.NewString()
		if tc.head > 0 {
			mustAppend(t, other, stream, named("a", "b")...)
		}
		version, err := s.Append(within(t), stream, tc.expected, named("c", "d")...)
		if tc.ok {
			if err != nil || version != tc.head+2 {
				t.Errorf("%v on version %d: version %d, %v", tc.expected, tc.head, version, err)
			}
			continue
		}
		var conflict *eventstore.VersionConflict
		want := eventstore.VersionConflict{Stream: stream, Expected: tc.expected, Actual: tc.head}
		if !errors.As(err, &conflict) || *conflict != want {
			t.Errorf("%v on version %d: %v", tc.expected, tc.head, err)
		}
		if got := load(t, s, stream, 0); int64(len(got)) != tc.head {
			t.Errorf("%v on version %d: a conflict left %v", tc.expected, tc.head, keys(got))
		}
	}
}

// Appending the same events again is how a caller finds out about a lost
// answer: it changes nothing and says what it said.
func testAgain(t *testing.T, r Rig) {
	s, other := r.Open(t), r.Open(t)
	first := named("a", "b", "c")
	if _, err := s.Append(within(t), "s", eventstore.NoStream, first...); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, other, "s", named("d")...)
	for _, expected := range []eventstore.ExpectedVersion{eventstore.NoStream, eventstore.Any, eventstore.Exact(4), eventstore.Exact(9)} {
		for name, s := range map[string]eventstore.Store{"the same store": s, "another": other} {
			if version, err := s.Append(within(t), "s", expected, slices.Clone(first)...); err != nil || version != 3 {
				t.Errorf("again on %s with %v: version %d, %v", name, expected, version, err)
			}
		}
	}
	if version, err := s.Append(within(t), "s", eventstore.Any, first[1:2]...); err != nil || version != 2 {
		t.Errorf("a part again: version %d, %v", version, err)
	}
	more := named("e", "f")
	more[0].ID = uuid.NewString()
	for name, events := range map[string][]eventstore.Event{
		"old then new":   {first[2], more[0]},
		"new then old":   {more[0], first[0]},
		"another order":  {first[1], first[0]},
		"with a hole":    {first[0], first[2]},
		"new in between": {first[0], more[0], first[1]},
	} {
		var duplicate *eventstore.DuplicateEvent
		_, err := s.Append(within(t), "s", eventstore.Any, events...)
		if !errors.As(err, &duplicate) || duplicate.Stream != "s" || duplicate.Version < 1 || duplicate.Version > 3 {
			t.Errorf("%s: %v", name, err)
		}
	}
	var duplicate *eventstore.DuplicateEvent
	if _, err := s.Append(within(t), "s", eventstore.Any, more[0], more[0]); !errors.As(err, &duplicate) || duplicate.Version != 0 {
		t.Errorf("twice in one call: %v", err)
	}
	if got := keys(load(t, other, "s", 0)); len(got) != 4 {
		t.Errorf("the stream holds %v", got)
	}
}

func testUniqueIDs(t *testing.T, r Rig) {
	s := r.Open(t)
	events := named("a")
	mustAppend(t, s, "one", events...)
	version, err := s.Append(within(t), "two", eventstore.NoStream, events...)
	if !s.Capabilities().UniqueIDs {
		if err != nil || version != 1 {
			t.Errorf("ids are each stream's own, but: version %d, %v", version, err)
		}
		return
	}
	var duplicate *eventstore.DuplicateEvent
	if !errors.As(err, &duplicate) || duplicate.Stream != "one" || duplicate.Version != 1 {
		t.Errorf("an id that another stream has: version %d, %v", version, err)
	}
}

func testDuplicateWindow(t *testing.T, r Rig) {
	s := r.Open(t)
	window := s.Capabilities().DuplicateWindow
	if window > 100 {
		t.Fatalf("the rig has a window of %d; the suite would be slow", window)
	}
	old := named("old")
	mustAppend(t, s, "s", old...)
	fill := named(slices.Repeat([]string{"x"}, max(window, 100))...)
	if window > 1 {
		mustAppend(t, s, "s", fill[:window-1]...)
	}
	if version, err := s.Append(within(t), "s", eventstore.Any, slices.Clone(old)...); err != nil || version != 1 {
		t.Fatalf("within the window: version %d, %v", version, err)
	}
	mustAppend(t, s, "s", fill[max(window-1, 0):]...) // which pushes it out
	n := int64(1 + len(fill))
	version, err := s.Append(within(t), "s", eventstore.Any, old...)
	if window == 0 && (err != nil || version != 1) {
		t.Errorf("long ago: version %d, %v", version, err)
	}
	if window > 0 && (err != nil || version != n+1) {
		t.Errorf("outside the window: version %d, %v; want it as a new event", version, err)
	}
}

func testInvalid(t *testing.T, r Rig) {
	s := r.Open(t)
	good := eventstore.Event{Type: "a"}
	with := func(change func(*eventstore.Event)) []eventstore.Event {
		bad := good
		change(&bad)
		return []eventstore.Event{good, bad}
	}
	header := func(key, value string) func(*eventstore.Event) {
		return func(e *eventstore.Event) {
			e.Headers = []outbox.Header{{Key: "h", Value: nil}, {Key: key, Value: []byte(value)}}
		}
	}
	long := strings.Repeat("x", 256)
	for name, tc := range map[string]struct {
		stream   string
		expected eventstore.ExpectedVersion
		events   []eventstore.Event
		field    string
	}{
		"no stream":           {"", eventstore.Any, []eventstore.Event{good}, "Stream"},
		"a long stream":       {long, eventstore.Any, []eventstore.Event{good}, "Stream"},
		"a stream not UTF-8":  {"\xff", eventstore.Any, []eventstore.Event{good}, "Stream"},
		"a zero byte":         {"a\x00", eventstore.Any, []eventstore.Event{good}, "Stream"},
		"an odd expectation":  {"s", -2, []eventstore.Event{good}, "Expected"},
		"no events":           {"s", eventstore.Any, nil, "Events"},
		"too many events":     {"s", eventstore.Any, make([]eventstore.Event, eventstore.MaxAppend+1), "Events"},
		"no type":             {"s", eventstore.Any, with(func(e *eventstore.Event) { e.Type = "" }), "Type"},
		"a long type":         {"s", eventstore.Any, with(func(e *eventstore.Event) { e.Type = long }), "Type"},
		"no UUID":             {"s", eventstore.Any, with(func(e *eventstore.Event) { e.ID = "4711" }), "ID"},
		"a bad traceparent":   {"s", eventstore.Any, with(func(e *eventstore.Event) { e.TraceParent = "00-1" }), "TraceParent"},
		"a long tracestate":   {"s", eventstore.Any, with(func(e *eventstore.Event) { e.TraceState = strings.Repeat("x", 513) }), "TraceState"},
		"no header name":      {"s", eventstore.Any, with(header("", "v")), "Headers"},
		"the relay's header":  {"s", eventstore.Any, with(header("outbox.lsn", "v")), "Headers"},
		"the store's header":  {"s", eventstore.Any, with(header("eventstore.version", "9")), "Headers"},
		"a header twice":      {"s", eventstore.Any, with(header("h", "v")), "Headers"},
		"a header, not UTF-8": {"s", eventstore.Any, with(header("k", "\xff")), "Headers"},
	} {
		var invalid *eventstore.InvalidEvent
		if _, err := s.Append(within(t), tc.stream, tc.expected, tc.events...); !errors.As(err, &invalid) || invalid.Field != tc.field {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := load(t, s, "s", 0); len(got) != 0 {
		t.Errorf("something was written: %v", keys(got))
	}
}
