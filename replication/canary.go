package replication

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// The canary is a row in a small table of the same publication. Postgres can
// skip what a publication should publish without an error: from version 18 on it
// decodes WAL that was written while the publication did not exist with a
// warning only. A message of pg_logical_emit_message would prove nothing: it does
// not go through the publication.
//
// The row is a transaction of its own, so it shifts no ordinal of others, and no
// event, because it is not in the outbox table. That it was not seen counts only
// once the stream has passed its commit: a stream that is slow or held up is not
// silent. The row stays in the table until it was seen, so a session that begins
// anew waits for it too.
const (
	canarySchema, canaryTable = "outbox", "canary"
	canaryID                  = "id" // its column
)

// AddCanarySQL adds the canary's table to the publication.
func (c Config) AddCanarySQL() string {
	return "ALTER PUBLICATION " + pgx.Identifier{c.Publication}.Sanitize() + " ADD TABLE " + pgx.Identifier{canarySchema, canaryTable}.Sanitize()
}

// CanaryPublished tells whether the publication has the canary's table.
func (s *Server) CanaryPublished(ctx context.Context) (bool, error) {
	var ok bool
	err := s.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = $1 AND schemaname = $2 AND tablename = $3)`,
		s.cfg.Publication, canarySchema, canaryTable).Scan(&ok)
	return ok, classify(err, fault.Unclassified, "read publication %s", s.cfg.Publication)
}

// canary is what is waited for. It is written by watch and seen by the reader;
// nil waits for nothing.
type canary struct {
	mu     sync.Mutex
	id     string        // "": nothing is waited for
	behind pglogrepl.LSN // a position behind its commit; 0: it may not be committed yet
	seen   bool
}

// expect waits for a row from before its commit on.
func (c *canary) expect(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.id, c.behind, c.seen = id, 0, false
}

// committed says where the row is certainly passed.
func (c *canary) committed(behind pglogrepl.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.behind = behind
}

// waiting returns what is waited for, and whether it has come.
func (c *canary) waiting() (id string, seen bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id, c.seen
}

// saw takes a row of the canary's table.
func (c *canary) saw(m *Message, rel *Relation) {
	if c == nil || rel.Name != canaryTable || rel.Schema != canarySchema {
		return
	}
	for i, col := range rel.Columns {
		if col.Name == canaryID && i < len(m.Values) {
			c.mu.Lock()
			c.seen = c.seen || c.id != "" && string(m.Values[i]) == c.id
			c.mu.Unlock()
		}
	}
}

// passed says that all that committed below end was in the stream.
func (c *canary) passed(end pglogrepl.LSN) error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id == "" || c.seen || c.behind == 0 || end < c.behind {
		return nil
	}
	return fault.New(fault.PublicationSilent, "row %s of outbox.canary was committed below %s, and the stream is at %s without it", c.id, c.behind, end)
}

// tendCanary writes the next canary, if it is time and the last one has come.
// What keeps it from that is told once, and the session goes on without.
func (s *Source) tendCanary(ctx context.Context) {
	if s.canary == nil || s.canaryOff || time.Since(s.canaryAt) < s.cfg.Canary {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.answerTimeout)
	defer cancel()
	s.canaryAt = time.Now()
	s.withoutCanary(s.nextCanary(ctx))
}

// withoutCanary goes on after an error, nil included.
func (s *Source) withoutCanary(err error) {
	if err == nil || fault.CodeOf(err).Class == fault.Retry {
		return // the connection itself is in trouble: watch will say so
	}
	s.canaryOff = true
	f := fault.As(err)
	if f.Code != fault.CanaryOff {
		f = fault.Wrap(err, fault.CanaryOff, "tend outbox.canary")
	}
	s.log.Warn().Fields(f.Fields()).Err(f).Msg("no canary")
}

func (s *Source) nextCanary(ctx context.Context) error {
	conn := s.server.conn
	published, err := s.server.CanaryPublished(ctx)
	if err != nil {
		return err
	}
	if !published {
		return fault.New(fault.CanaryOff, "publication %s has no table outbox.canary", s.cfg.Publication)
	}
	id, seen := s.canary.waiting()
	if id != "" && !seen {
		return nil // it is on its way
	}
	if id != "" {
		if _, err := conn.Exec(ctx, `DELETE FROM outbox.canary WHERE id = $1`, id); err != nil {
			return classify(err, fault.CanaryOff, "delete from outbox.canary")
		}
	}
	id = rand.Text()
	s.canary.expect(id)
	if _, err := conn.Exec(ctx, `INSERT INTO outbox.canary (id, slot) VALUES ($1, $2)`, id, s.cfg.Slot); err != nil {
		s.canary.expect("")
		return classify(err, fault.CanaryOff, "insert into outbox.canary")
	}
	// Not the write position: with synchronous_commit off that is before the commit.
	var text string
	err = conn.QueryRow(ctx, `UPDATE outbox.canary SET lsn = pg_current_wal_insert_lsn() WHERE id = $1 RETURNING lsn::text`, id).Scan(&text)
	if err != nil {
		s.canary.expect("")
		return classify(err, fault.CanaryOff, "update outbox.canary")
	}
	behind, err := pglogrepl.ParseLSN(text)
	if err != nil {
		return fault.Wrap(err, fault.CanaryOff, "update outbox.canary")
	}
	s.canary.committed(behind)
	return nil
}

// recallCanary takes up the canary of the session before: what that one has not
// seen is still to come, unless the slot was past it. It has to be known before
// anything is read.
func (s *Source) recallCanary(ctx context.Context) error {
	conn := s.server.conn
	_, err := conn.Exec(ctx, `DELETE FROM outbox.canary WHERE slot = $1 AND (lsn IS NULL OR lsn <= $2::text::pg_lsn)`,
		s.cfg.Slot, s.state.Slot.ConfirmedLSN.String())
	if err != nil {
		return classify(err, fault.CanaryOff, "delete from outbox.canary")
	}
	var id, text string
	err = conn.QueryRow(ctx, `SELECT id, lsn::text FROM outbox.canary WHERE slot = $1 ORDER BY at LIMIT 1`, s.cfg.Slot).Scan(&id, &text)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return classify(err, fault.CanaryOff, "read outbox.canary")
	}
	behind, err := pglogrepl.ParseLSN(text)
	if err != nil {
		return fault.Wrap(err, fault.CanaryOff, "read outbox.canary")
	}
	s.canary.expect(id)
	s.canary.committed(behind)
	return nil
}

// silent looks again before a person is called: a publication that was altered
// meanwhile has a new hash, and a new session takes that up knowingly.
func (s *Source) silent(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.answerTimeout)
	defer cancel()
	ask := Server{cfg: s.cfg, host: s.server.host}
	if derr := ask.dial(ctx); derr != nil {
		return err
	}
	defer ask.Close()
	if hash, perr := ask.probePublication(ctx); perr == nil && hash != s.state.OptionsHash {
		return fault.Wrap(err, fault.PostgresLost, "publication %s was altered, starting anew", s.cfg.Publication)
	}
	return err
}
