package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox/eventstore"
)

// An order is appended to, with the version insisted on that it was read at.
// The store is the one in Kafka here, on an in-process broker.
func Example() {
	ctx := context.Background()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cluster.Close()
	brokers := kgo.SeedBrokers(cluster.ListenAddrs()...)
	cl, err := kgo.NewClient(brokers)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cl.Close()
	if err := eventstore.CreateTopic(ctx, cl, "orders", 3, 1); err != nil {
		fmt.Println(err)
		return
	}
	store, err := eventstore.OpenKafka(ctx, eventstore.KafkaConfig{Topic: "orders", Partitions: 3, Opts: []kgo.Opt{brokers}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()

	version, err := store.Append(ctx, "order-4711", eventstore.NoStream,
		eventstore.Event{Type: "OrderPlaced", Payload: []byte(`{"total":"12.50"}`), ContentType: "application/json"},
		eventstore.Event{Type: "OrderPaid"})
	fmt.Println(version, err)

	_, err = store.Append(ctx, "order-4711", eventstore.Exact(1), eventstore.Event{Type: "OrderCancelled"})
	var conflict *eventstore.VersionConflict
	fmt.Println(errors.As(err, &conflict), err)

	for ev, err := range store.Load(ctx, "order-4711", 0) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(ev.Version, ev.Type)
	}
	// Output:
	// 2 <nil>
	// true append to stream "order-4711": expected version 1, but it is at version 2
	// 1 OrderPlaced
	// 2 OrderPaid
}

// An event commits with the change it tells of, or not at all, and so does its
// outbox row.
func ExampleDatabase_AppendTx() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	store, err := eventstore.NewDatabase(pool, eventstore.DatabaseConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE orders SET state = 'paid' WHERE id = 4711`); err != nil {
			return err
		}
		_, err := store.AppendTx(ctx, tx, "order-4711", eventstore.Exact(1), eventstore.Event{Type: "OrderPaid"})
		return err
	})
	if err != nil {
		fmt.Println(err) // neither the order nor the event is there
	}
}

// A projection keeps its position with its rows, so that it goes on where it
// was, whatever happens in between.
func ExampleHybrid_Subscribe() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	db, err := eventstore.NewDatabase(pool, eventstore.DatabaseConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	store, err := eventstore.NewHybrid(db, eventstore.HybridConfig{
		Topics: []string{"outbox.events"}, Opts: []kgo.Opt{kgo.SeedBrokers("localhost:9092")},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	var from eventstore.Position
	if err := pool.QueryRow(ctx, `SELECT position FROM projection`).Scan(&from); err != nil {
		fmt.Println(err)
		return
	}
	err = store.Subscribe(ctx, from, func(ctx context.Context, ev eventstore.Recorded) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			// version makes a repetition harmless
			_, err := tx.Exec(ctx, `INSERT INTO order_state (id, state, version) VALUES ($1, $2, $3)
				ON CONFLICT (id) DO UPDATE SET state = $2, version = $3 WHERE order_state.version < $3`, ev.Stream, ev.Type, ev.Version)
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, `UPDATE projection SET position = $1`, ev.Position)
			return err
		})
	})
	fmt.Println(err)
}
