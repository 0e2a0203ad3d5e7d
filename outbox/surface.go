package outbox

import (
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/migration"
)

// SurfaceVersion is what outbox.relay_surface() returns where the newest
// statements of [Surface] were run.
const SurfaceVersion = 1

// surfaceFile is the only place where the SQL surface is written down.
const surfaceFile = "migrations/0002_relay.sql"

// Surface returns the statements that install what people see of a relay in
// psql: the views outbox.relay_status and outbox.relay_slots, the functions
// outbox.pause, outbox.resume and outbox.lag, and the tables behind them. They
// are for a database where outbox.relay_surface() does not exist, and stand in
// one transaction. They are always in the schema outbox.
func Surface() []string {
	return migration.Up(migrations, surfaceFile, migration.Table{Default: DefaultTable, Schema: "outbox", SQL: DefaultTable})
}

// SurfaceGrants returns the rights that a relay of this role needs to fill the
// surface. Without them it relays all the same.
func SurfaceGrants(role string) []string {
	to := " TO " + pgx.Identifier{role}.Sanitize()
	return []string{
		"GRANT USAGE ON SCHEMA outbox" + to,
		"GRANT SELECT, INSERT, UPDATE ON outbox.relay_state" + to,
		"GRANT SELECT ON outbox.relay_pause, outbox.relay_status, outbox.relay_slots" + to,
		"GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.canary" + to,
		"GRANT EXECUTE ON FUNCTION outbox.pause(text, text, text), outbox.resume(text)" + to,
	}
}
