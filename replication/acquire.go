package replication

import (
	"bufio"
	"context"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdwall/outbox-relay/internal/fault"
)

func (s *Source) acquire(ctx context.Context) error {
	if others := s.server.passedOver; len(others) > 0 {
		s.log.Warn().Str("host", s.server.describe()).Strs("left_alone", others).
			Str("hint", "after a failover the old primary has to be stopped, or made a standby with pg_rewind").Msg("more than one host is a primary; using the newest timeline")
	}
	hash, err := s.server.probe(ctx)
	if err != nil {
		return err
	}
	timeout, err := s.server.agree(ctx)
	if err != nil {
		return err
	}
	s.tick = 10 * time.Second
	if timeout > 0 {
		s.tick = min(s.tick, timeout/3)
	}
	s.patience = max(minPatience, timeout)
	for {
		if s.state.Freed, err = s.server.awaitFree(ctx, s.answerTimeout); err != nil {
			return err
		}
		err := s.start(ctx)
		if err == nil {
			break
		}
		if !fault.Has(err, fault.SlotHeld) {
			return err
		}
		// Another standby was quicker, or the old walsender is still leaving.
	}
	// Read only now: the predecessor may have moved the slot until the moment
	// it let go.
	slot, err := s.server.slot(ctx)
	if err != nil {
		return err
	}
	s.state.Slot, s.state.OptionsHash = slot, hash
	s.state.Version, s.state.Host = s.server.version, s.server.describe()
	s.confirmed.Store(uint64(slot.ConfirmedLSN))
	s.heard.Store(time.Now().UnixNano())
	if s.cfg.Canary > 0 {
		s.canary = &canary{}
		s.withoutCanary(s.recallCanary(ctx))
	}
	return nil
}

// start opens the replication connection and takes the slot.
func (s *Source) start(ctx context.Context) error {
	conn, err := s.server.dialReplication(ctx)
	if err != nil {
		return err
	}
	if err := identify(ctx, conn, &s.state); err != nil {
		_ = conn.Close(ctx)
		return err
	}
	err = pglogrepl.StartReplication(ctx, conn, s.cfg.Slot, 0, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication, PluginArgs: s.server.pluginArgs(),
	})
	if err != nil {
		_ = conn.Close(ctx)
		return classify(err, fault.SlotMissing, "start replication from slot %s", s.cfg.Slot)
	}
	s.conn, s.pid = conn, conn.PID()
	host := s.server.host
	s.metrics.certificates(net.JoinHostPort(host.Host, strconv.Itoa(int(host.Port))), conn.Conn(), host.TLSConfig)
	return nil
}

func (s *Server) dialReplication(ctx context.Context) (*pgconn.PgConn, error) {
	c := s.host.Copy()
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	setParams(c, "outbox-relay "+s.cfg.Slot)
	c.RuntimeParams["replication"] = "database"
	if s.sender > 0 {
		c.RuntimeParams["wal_sender_timeout"] = strconv.FormatInt(s.sender.Milliseconds(), 10)
	}
	c.MaxProtocolMessageBodyLen = s.cfg.MaxRowBytes
	c.DialFunc = gulping(c.DialFunc)
	c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(r, readBuffer), w)
	}
	conn, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		return nil, classifyConnect(err, "connect for replication to %s", s.describe())
	}
	return conn, nil
}
