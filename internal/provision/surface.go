package provision

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
)

// undefinedObject is a SQLSTATE: GRANT to a role that does not exist.
const undefinedObject = "42704"

// surface installs what people see of the relay in psql, or what is missing of
// it in an older installation. A relay works without, so what cannot be made is
// told and no more: the table may be one that somebody else made, in a database
// where this role may create nothing.
func (p *Plan) surface(ctx context.Context, srv *replication.Server) error {
	made, err := p.installSurface(ctx, srv.Conn())
	if err == nil {
		err = p.grantSurface(ctx, srv.Conn())
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		f := fault.Wrap(err, fault.SQLSurfaceOff, "install views and functions in schema outbox").
			WithFix("have a role that may create in schema outbox run: outbox-relay init; outbox-relay init --dry-run prints the SQL")
		p.Log.Warn().Fields(f.Fields()).Err(f).Msg("no SQL surface")
	case made:
		p.Log.Info().Int("version", outbox.SurfaceVersion).Msg("SQL surface installed in schema outbox")
	}
	return nil
}

func (p *Plan) installSurface(ctx context.Context, conn *pgx.Conn) (made bool, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Two relays of one database may be initialised at the same time.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('outbox-relay/surface', 0))`); err != nil {
			return err
		}
		var there bool
		err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		    WHERE n.nspname = 'outbox' AND p.proname = 'relay_surface')`).Scan(&there)
		if err != nil || there {
			return err
		}
		// Plain CREATE: an object of somebody else's is not replaced.
		for _, sql := range outbox.Surface() {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		made = true
		return nil
	})
	return made, err
}

// grantSurface lets the relay's role fill it, if that is another role than the
// one that makes it.
func (p *Plan) grantSurface(ctx context.Context, conn *pgx.Conn) error {
	for _, sql := range p.surfaceGrants() {
		_, err := conn.Exec(ctx, sql)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == undefinedObject {
			p.Log.Warn().Str("role", p.Role).Str("hint", strings.Join(p.surfaceGrants(), "; ")).Msg("the relay's role does not exist yet, so it was granted nothing")
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) surfaceGrants() []string {
	if p.Role == "" || p.Source.Conn != nil && p.Role == p.Source.Conn.User {
		return nil
	}
	return outbox.SurfaceGrants(p.Role)
}

// canary adds the canary's table to the publication.
func (p *Plan) canary(ctx context.Context, srv *replication.Server) error {
	there, err := srv.CanaryPublished(ctx)
	if err != nil || there {
		return err
	}
	if err := srv.Exec(ctx, p.Source.AddCanarySQL()); err != nil {
		return err
	}
	p.Log.Info().Str("publication", p.Source.Publication).Msg("canary added to the publication")
	return nil
}
