package verify

import (
	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/replication"
)

// Folded is how a live reader holds an id.
func Folded(id ID) uint64 { return id.short() }

// Origin names a position by the timeline that wrote it first.
func Origin(history []replication.Switch, timeline int32, at pglogrepl.LSN) int32 {
	return lineage(history).origin(timeline, at)
}
