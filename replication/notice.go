package replication

import (
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// waitTold is how often it is told that the server waits for a standby: it says
// so itself several times a minute.
const waitTold = time.Minute

// waitingForStandby is the function of the server that warns while the slots in
// synchronized_standby_slots are behind. Its warnings share SQLSTATEs with
// others; names of functions are not translated, texts are.
const waitingForStandby = "StandbySlotsHaveCaughtup"

// notice looks at a warning in the stream, and returns the error that it is.
func (s *Source) notice(msg *pgproto3.NoticeResponse) error {
	if msg.Routine == waitingForStandby {
		if now := time.Now(); now.Sub(s.waitTold) >= waitTold {
			s.waitTold = now
			f := fault.New(fault.StandbyWait, "%s", msg.Message)
			s.log.Warn().Fields(f.Fields()).Err(f).Str("host", s.server.describe()).Msg("Postgres waits for a standby")
		}
		return nil
	}
	s.log.Warn().Str("sqlstate", msg.Code).Msg("notice from Postgres: " + msg.Message)
	if skipsRows(msg.Code, msg.Routine) {
		return fault.Wrap(pgconn.ErrorResponseToPgError((*pgproto3.ErrorResponse)(msg)), fault.PublicationHole, "read the stream")
	}
	return nil
}

// skipsRows tells a warning with which Postgres 18 leaves out the rows of a
// missing publication, where older servers stop with an error 42704. The warning
// has another state: object_not_in_prerequisite_state (LoadPublications in
// pgoutput.c).
func skipsRows(state, routine string) bool {
	return routine != waitingForStandby && (state == "42704" || state == "55000")
}
