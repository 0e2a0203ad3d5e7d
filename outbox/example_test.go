package outbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/outbox"
)

// transaction stands for a pgx.Tx, which has the same method.
type transaction struct{}

func (transaction) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	fmt.Println(sql)
	fmt.Println(args...)
	return pgconn.CommandTag{}, nil
}

// An event is written with the same transaction as the change it tells of.
func ExampleAppend() {
	var tx transaction // in a service: tx, err := pool.Begin(ctx)
	err := outbox.Append(context.Background(), tx, outbox.Record{
		ID:            "0198c0de-0000-7000-8000-000000000001", // a UUIDv7 is made if it is empty
		AggregateType: "order",
		AggregateID:   "4711",
		Type:          "OrderPlaced",
		Payload:       []byte(`{"total":"12.50"}`),
		Headers:       []outbox.Header{{Key: "tenant", Value: []byte("acme")}},
	})
	if err != nil {
		fmt.Println(err) // roll back
		return
	}
	// Output:
	// INSERT INTO "outbox"."events" ("id", "aggregatetype", "aggregateid", "type", "payload", "headers") VALUES ($1, $2, $3, $4, $5, $6)
	// 0198c0de-0000-7000-8000-000000000001 order 4711 OrderPlaced {"total":"12.50"} {"tenant":"acme"}
}

// In a service the event commits with the change it tells of, or not at all.
// This is the example of the README.
func ExampleAppend_service() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE orders SET state = 'placed' WHERE id = 4711`); err != nil {
			return err
		}
		return outbox.Append(ctx, tx, outbox.Record{
			AggregateType: "order",
			AggregateID:   "4711", // the key of the Kafka record
			Type:          "OrderPlaced",
			Payload:       []byte(`{"total": "12.50"}`),
		})
	})
	if err != nil {
		fmt.Println(err) // neither the order nor the event is there
	}
}

// A table made for Debezium's outbox router, with one column named otherwise.
func ExampleNewWriter() {
	cols, err := outbox.ParseColumns("payload=data")
	if err != nil {
		fmt.Println(err)
		return
	}
	w, err := outbox.NewWriter("shop.outboxevent", cols)
	if err != nil {
		fmt.Println(err)
		return
	}
	err = w.Append(context.Background(), transaction{}, outbox.Record{
		ID: "1", AggregateType: "order", AggregateID: "4711", Type: "OrderPlaced", Payload: []byte(`{}`),
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// INSERT INTO "shop"."outboxevent" ("id", "aggregatetype", "aggregateid", "type", "data") VALUES ($1, $2, $3, $4, $5)
	// 1 order 4711 OrderPlaced {}
}

// sqlTransaction stands for a *sql.Tx, which has the same method.
type sqlTransaction struct{}

func (sqlTransaction) ExecContext(_ context.Context, statement string, args ...any) (sql.Result, error) {
	fmt.Println(statement)
	fmt.Println(args...)
	return nil, nil
}

// The same with database/sql, whatever the driver.
func ExampleAppendSQL() {
	var tx sqlTransaction // in a service: tx, err := db.BeginTx(ctx, nil)
	err := outbox.AppendSQL(context.Background(), tx, outbox.Record{
		ID:            "0198c0de-0000-7000-8000-000000000001",
		AggregateType: "order",
		AggregateID:   "4711",
		Type:          "OrderPlaced",
		Payload:       []byte(`{"total":"12.50"}`),
	})
	if err != nil {
		fmt.Println(err) // roll back
		return
	}
	// Output:
	// INSERT INTO "outbox"."events" ("id", "aggregatetype", "aggregateid", "type", "payload") VALUES ($1, $2, $3, $4, $5)
	// 0198c0de-0000-7000-8000-000000000001 order 4711 OrderPlaced {"total":"12.50"}
}
