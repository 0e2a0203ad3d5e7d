// Package outbox is both halves of the contract between a service and the
// relay: what a row of the outbox table means, and what a reader of Kafka may
// count on.
//
// # Writing
//
// [Append] inserts records with the caller's own pgx transaction, [AppendSQL]
// with one of database/sql. The event is published if and only if that
// transaction commits; there is no second call to make and nothing to clean
// up. Any other program may insert the rows itself: the table is the interface,
// this package is a convenience.
//
// # The table
//
// Five columns are needed, under the names Debezium's outbox router uses, and
// a table that has only these works:
//
//	id             identity of the event; any type; not NULL, not empty
//	aggregatetype  text; not NULL
//	aggregateid    any type; not NULL; the key of the Kafka record
//	type           text; not NULL
//	payload        jsonb, json, text, varchar, bytea or any other type
//
// The payload goes out byte for byte: the text form Postgres holds, or the
// bytes of a bytea. (jsonb is stored parsed, so what comes out has Postgres'
// spacing and order of members. Use json or text where the very bytes matter.)
// A NULL payload is a tombstone where the relay is told so, else the JSON text
// null.
//
// The further columns are optional. NULL and the empty string both mean that
// the row leaves the matter to the relay:
//
//	payload_bytes    bytea; the payload if the payload column is NULL
//	headers          json or jsonb object, or text holding one; user headers in
//	                 document order. A string goes out as its text, anything
//	                 else as its JSON text; a member that is null is left out
//	topic            topic of this row; else the template or the events topic
//	message_key      key of this row; else aggregateid
//	kafka_partition  integer; else the partition follows from the key (murmur2,
//	                 as the Java client computes it)
//	content_type     media type; else application/json for json and jsonb,
//	                 text/plain for other text, application/octet-stream for
//	                 bytea
//	schema_version   integer or text
//	traceparent      W3C trace context
//	tracestate       W3C trace context
//	created_at       timestamptz, or timestamp in UTC; the record's timestamp;
//	                 else the time of the commit
//
// [ParseColumns] maps other names. [Schema] is the DDL. Only inserts are
// events: updates and deletes of the table never reach Kafka.
//
// A row that can be no record (a NULL where none may be, headers that are no
// object, a time of infinity) is a [RowError], and becomes a dead letter in
// its place among the others. A table that cannot hold events at all is a
// [MissingColumnError] or a [ColumnTypeError], and stops the relay.
//
// # The Kafka record
//
// Every record carries these headers, in this order; those in brackets only
// where the row has a value:
//
//	id type aggregatetype aggregateid content-type [schema_version]
//	[traceparent] [tracestate] [user headers] outbox.lsn outbox.seq outbox.xid
//	outbox.commit_ts outbox.source outbox.tli outbox.ord [outbox.created_at]
//	outbox.ckpt
//
// The names above and everything that begins with "outbox." or "__connect."
// are reserved: see [Reserved]. Header names and value forms do not change;
// further ones may be added.
//
// # What is promised
//
// A read_committed consumer sees every committed row exactly once, as an
// event or as a dead letter, and the rows of one key in the order of their
// commits and, inside a transaction, of their inserts. outbox.source,
// outbox.tli, outbox.lsn and outbox.ord name a row for ever: a consumer that
// keeps the highest (tli, lsn, ord) it has seen per source and partition may
// drop what is not above it. id is the identity to dedupe on where records can
// be replayed from the dead letters.
//
// # What is left to others
//
// The package checks that a row can be a record, not that its payload is valid
// JSON (Postgres did, for json columns) or fits a schema. Topics, partitions
// and sizes are the relay's matter, retention of the table is its owner's.
package outbox
