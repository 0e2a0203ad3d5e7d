package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/outbox"
)

// A consumer handles events in order per key, tries one again that fails, and
// stops when its context ends. The broker here is one in the process.
func Example() {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "outbox.events", "outbox.events.dlq"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cluster.Close()
	publish(cluster.ListenAddrs(), "order-1", "Created", "Paid", "Shipped")

	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	c, err := consumer.New(consumer.Config{
		Group:           "billing",
		Topics:          []string{"outbox.events"},
		Client:          []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)},
		DeadLetterTopic: "outbox.events.dlq",
		Backoff:         func(int) time.Duration { return 10 * time.Millisecond },
		Handler: func(_ context.Context, ev consumer.Event) error {
			fmt.Println(ev.AggregateID, ev.Type, "attempt", ev.Attempt)
			switch {
			case ev.Type == "Paid" && ev.Attempt == 1:
				return errors.New("the bank does not answer")
			case ev.Type == "Shipped":
				stop()
			}
			return nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("ended:", c.Run(ctx))
	// Output:
	// order-1 Created attempt 1
	// order-1 Paid attempt 1
	// order-1 Paid attempt 2
	// order-1 Shipped attempt 1
	// ended: <nil>
}

// publish stands in for the relay.
func publish(brokers []string, key string, types ...string) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		panic(err)
	}
	defer cl.Close()
	for i, typ := range types {
		rec := &kgo.Record{Topic: "outbox.events", Key: []byte(key), Value: []byte(`{}`), Headers: []kgo.RecordHeader{
			{Key: outbox.HeaderID, Value: []byte(fmt.Sprintf("%s-%d", key, i))},
			{Key: outbox.HeaderType, Value: []byte(typ)},
			{Key: outbox.HeaderAggregateID, Value: []byte(key)},
		}}
		if err := cl.ProduceSync(context.Background(), rec).FirstErr(); err != nil {
			panic(err)
		}
	}
}

// With the inbox an event changes the database exactly once, however often
// Kafka delivers it.
func ExampleInbox() {
	pool, err := pgxpool.New(context.Background(), os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	if err := consumer.CreateInbox(context.Background(), pool); err != nil {
		fmt.Println(err)
		return
	}
	_ = consumer.Config{
		Handler: consumer.Inbox(pool, "billing", func(ctx context.Context, tx pgx.Tx, ev consumer.Event) error {
			_, err := tx.Exec(ctx, `UPDATE accounts SET paid = true WHERE id = $1`, ev.AggregateID)
			return err
		}),
		// further fields as in the other example
	}
}
