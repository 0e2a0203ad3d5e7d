package replication_test

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/test/harness"
)

// TestSilentNetwork: a line that goes dead without a word is left when neither
// connection has shown a sign of life for as long as is borne. TCP alone would
// hold on for a quarter of an hour, and a single replica with it.
func TestSilentNetwork(t *testing.T) {
	t.Parallel()
	s := newSite(t, harness.Postgres(t))
	proxy := s.behind(t)
	src, err := open(t, s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	src.Watchful(100*time.Millisecond, 200*time.Millisecond, time.Second)
	src.Resume(replication.Resume{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx) }()
	s.events(t, "a")
	for {
		tx, err := src.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !tx.Idle {
			break
		}
	}
	proxy.Stall()
	if err := <-done; !fault.Has(err, fault.PostgresLost) {
		t.Errorf("ended with %v", err)
	}
}

// behind puts a proxy in front of the server.
func (s *site) behind(t *testing.T) *harness.Proxy {
	t.Helper()
	proxy := harness.NewProxy(t, net.JoinHostPort(s.cfg.Conn.Host, strconv.Itoa(int(s.cfg.Conn.Port))))
	host, port, err := net.SplitHostPort(proxy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.Conn.Host, s.cfg.Conn.Port, s.cfg.Conn.Fallbacks = host, uint16(n), nil
	return proxy
}

// TestSilentHolder: Postgres does not wait a minute for a holder that it does
// not hear of any more, also when its own setting says so, or says for ever. A
// setting that is shorter still counts.
func TestSilentHolder(t *testing.T) {
	t.Parallel()
	for server, want := range map[string]string{"60s": "1500", "0": "1500", "900ms": "900"} {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, harness.Postgres(t))
			s.Exec(t, `ALTER DATABASE `+s.Name+` SET wal_sender_timeout = '`+server+`'`)
			proxy := s.behind(t)
			s.cfg.SenderTimeout = 1500 * time.Millisecond
			src := run(t, s.cfg)
			if got := strconv.FormatInt(src.Agreed().Milliseconds(), 10); got != want {
				t.Errorf("agreed on %s ms, want %s", got, want)
			}
			if !s.slot(t).Active {
				t.Fatal("not held")
			}
			proxy.Stall()
			eventually(t, "the slot is free", func() bool { return !s.slot(t).Active })
		})
	}
}

// TestStandbyInADeadNetwork: a standby that gets no answers says so, instead of
// being counted on.
func TestStandbyInADeadNetwork(t *testing.T) {
	t.Parallel()
	s := newSite(t, harness.Postgres(t))
	run(t, s.cfg)
	proxy := s.behind(t)
	s.cfg.OnStandby = func(replication.Holder) { proxy.Stall() }
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := replication.Open(ctx, s.cfg, zerolog.Nop(), nil); !fault.Has(err, fault.PostgresLost) || ctx.Err() != nil {
		t.Errorf("got %v", err)
	}
}
