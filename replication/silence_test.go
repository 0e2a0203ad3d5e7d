package replication_test

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

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
