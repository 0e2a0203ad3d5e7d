package outbox

import "strings"

// Names of the headers that every record carries, or may carry. They are
// public from the first release: their names and the forms of their values
// only ever gain members.
const (
	HeaderID            = "id"             // identity of the event, the text of the id column
	HeaderType          = "type"           // type of the event
	HeaderAggregateType = "aggregatetype"  // type of the aggregate
	HeaderAggregateID   = "aggregateid"    // identity of the aggregate
	HeaderContentType   = "content-type"   // media type of the value
	HeaderSchemaVersion = "schema_version" // decimal, if the row has one
	HeaderTraceParent   = "traceparent"    // W3C, if the row has one
	HeaderTraceState    = "tracestate"     // W3C, if the row has one

	HeaderLSN       = "outbox.lsn"           // LSN of the commit, as X/XXXXXXXX
	HeaderSeq       = "outbox.seq"           // 1-based index of the row among the outbox rows of its transaction
	HeaderXID       = "outbox.xid"           // transaction id, decimal
	HeaderCommitTS  = "outbox.commit_ts"     // time of the commit, RFC 3339 with microseconds, UTC
	HeaderSource    = "outbox.source"        // <database>/<slot>
	HeaderTimeline  = "outbox.tli"           // timeline of the server, decimal
	HeaderOrdinal   = "outbox.ord"           // 1-based count of the change messages sent for the transaction, this row included
	HeaderCreatedAt = "outbox.created_at"    // the row's created_at, only where the record's timestamp had to differ
	HeaderTraceRow  = "outbox.traceparent"   // the row's traceparent, only where the relay has put a span of its own between the row and the record
	HeaderReplayed  = "outbox.replayed_at"   // time of the replay, only on a record that was a dead letter once
	HeaderReplayOf  = "outbox.dlq.replay_of" // id of the letter that was replayed, only on such a record
	HeaderAttempts  = "outbox.dlq.attempts"  // how often the event has become a dead letter, decimal; on letters, and on replays so that counting goes on
	HeaderGroup     = "outbox.dlq.group"     // consumer group that failed; on its letters, and on replays that are meant for it alone
	HeaderRecovered = "outbox.recovered_at"  // time of the recovery, only on a record that `recover` made from the table: outbox.xid and outbox.commit_ts are not known then, and outbox.lsn is the recovery's own
	// HeaderCheckpoint is the sequence number of the checkpoint in the same
	// Kafka transaction, decimal. It is the last header of every record,
	// because it is the only one known after the rest of the record is built.
	HeaderCheckpoint = "outbox.ckpt"
)

// Prefixes of header names that belong to the relay and to the dead letter
// envelope.
const (
	ReservedPrefix       = "outbox."
	ReservedErrorsPrefix = "__connect."

	// RejectedPrefix is put before the name of a header that a row may not
	// set, so that its dead letter keeps the value where nobody mistakes it.
	RejectedPrefix = "outbox.dlq.header."
)

// Header is one user header of a record. A nil Value is the same as an empty
// one.
type Header struct {
	Key   string
	Value []byte
}

// Reserved tells whether a row may not set a header of this name: the names
// above, and everything that starts with one of the reserved prefixes.
func Reserved(name string) bool {
	switch name {
	case HeaderID, HeaderType, HeaderAggregateType, HeaderAggregateID,
		HeaderContentType, HeaderSchemaVersion, HeaderTraceParent, HeaderTraceState:
		return true
	}
	return strings.HasPrefix(name, ReservedPrefix) || strings.HasPrefix(name, ReservedErrorsPrefix)
}
