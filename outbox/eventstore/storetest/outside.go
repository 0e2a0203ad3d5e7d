package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/outbox/eventstore"
)

// Events and outbox rows are there if the caller's transaction commits, and
// neither is if it does not.
func testTransaction(t *testing.T, r Rig) {
	s := r.Open(t)
	joins, ok := s.(eventstore.TxAppender)
	if promised := s.Capabilities().CallerTransaction; ok != promised {
		t.Fatalf("the caller's transaction is promised: %v; there is a method for it: %v", promised, ok)
	}
	if !ok {
		return
	}
	ctx := within(t)
	for name, tc := range map[string]struct {
		commit bool
		want   int
	}{"rollback": {false, 0}, "commit": {true, 3}} {
		tx := r.Begin(t)
		defer tx.Rollback(ctx)
		if version, err := joins.AppendTx(ctx, tx, name, eventstore.NoStream, named("a", "b")...); err != nil || version != 2 {
			t.Fatalf("version %d, %v", version, err)
		}
		// A refusal is no failure of the transaction, which goes on.
		var conflict *eventstore.VersionConflict
		if _, err := joins.AppendTx(ctx, tx, name, eventstore.NoStream, named("x")...); !errors.As(err, &conflict) || conflict.Actual != 2 {
			t.Fatalf("a conflict inside the transaction: %v", err)
		}
		if version, err := joins.AppendTx(ctx, tx, name, eventstore.Exact(2), named("c")...); err != nil || version != 3 {
			t.Fatalf("version %d, %v", version, err)
		}
		if got := load(t, s, name, 0); len(got) != 0 {
			t.Errorf("%s: before its end the transaction shows %v", name, keys(got))
		}
		end := tx.Rollback
		if tc.commit {
			end = tx.Commit
		}
		if err := end(ctx); err != nil {
			t.Fatal(err)
		}
		if got := load(t, s, name, 0); len(got) != tc.want {
			t.Errorf("%s: the stream holds %v", name, keys(got))
		}
		if n := r.Rows(t, name); n != tc.want {
			t.Errorf("%s: %d outbox rows, want %d", name, n, tc.want)
		}
	}
}

// A store either takes no notice of a Kafka that is down, or says that it
// could not append, and goes on when Kafka is back.
func testWithoutKafka(t *testing.T, r Rig) {
	s := r.Open(t)
	mustAppend(t, s, "s", named("before")...)
	if r.KafkaDown != nil {
		r.KafkaDown(t)
	}
	ctx, cancel := context.WithTimeout(within(t), 2*time.Second)
	defer cancel()
	events := named("during")
	version, err := s.Append(ctx, "s", eventstore.Exact(1), events...)
	if needs := s.Capabilities().NeedsKafka; needs != (err != nil) {
		t.Errorf("Kafka is needed: %v; append without it: version %d, %v", needs, version, err)
	}
	if err == nil {
		if got := keys(load(t, s, "s", 0)); len(got) != 2 {
			t.Errorf("without Kafka the stream holds %v", got)
		}
	}
	if r.KafkaUp != nil {
		r.KafkaUp(t)
	}
	// The same events again: whatever became of them, they are there once.
	if version, err := s.Append(within(t), "s", eventstore.Exact(1), events...); err != nil || version != 2 {
		t.Errorf("with Kafka back: version %d, %v", version, err)
	}
	inOrder(t, follow(t, s, eventstore.Start, 2))
	if got := keys(load(t, r.Open(t), "s", 0)); len(got) != 2 {
		t.Errorf("in the end the stream holds %v", got)
	}
}
