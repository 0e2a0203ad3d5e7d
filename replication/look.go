package replication

import (
	"context"
	"crypto/tls"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Hosts returns the configuration once for each host of it, in their order.
func (c Config) Hosts() []*pgconn.Config { return hosts(c.Conn) }

// Look returns what a session would find that took the slot now, and takes
// nothing: the replication connection asks who the server is and is closed
// again, so a relay that streams is not disturbed. It needs a free walsender for
// that moment. The slot is not judged, and is zero if there is none.
func (s *Server) Look(ctx context.Context) (State, error) {
	conn, err := s.dialReplication(ctx)
	if err != nil {
		return State{}, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	st := State{Version: s.version, Host: s.describe()}
	if err := identify(ctx, conn, &st); err != nil {
		return State{}, err
	}
	if st.Slot, err = Inspect(ctx, s.conn, s.cfg.Slot); err != nil && !errors.Is(err, ErrNoSlot) {
		return State{}, classify(err, fault.Unclassified, "inspect slot")
	}
	return st, nil
}

// OptionsHash is what a checkpoint inside a cut transaction is compared with: it
// changes with everything that decides how changes are counted. It probes as
// Check does, and fails as that does.
func (s *Server) OptionsHash(ctx context.Context) (string, error) { return s.probe(ctx) }

// Fit tells whether the slot is one that can be streamed from: see the codes
// SlotShape and SlotLost.
func (s *Server) Fit(slot Slot) error { return s.fit(slot) }

// TLS tells whether the plain connection is encrypted.
func (s *Server) TLS() (version string, on bool) {
	if c, ok := s.conn.PgConn().Conn().(*tls.Conn); ok {
		return tls.VersionName(c.ConnectionState().Version), true
	}
	return "", false
}
