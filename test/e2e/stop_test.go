package e2e

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// stopBudget is what a command may take to end that has nothing to finish.
const stopBudget = 5 * time.Second

// SIGTERM ends each command while it waits for a server that took the
// connection and says nothing, which is the worst moment: no error has come,
// and none will for a while.
func TestEveryCommandStops(t *testing.T) {
	rig.Real(t)
	bin := harness.BuildRelay(t)
	for _, args := range []string{
		"init", "serve", "status", "status --watch", "wait", "drain", "explain x", "schema install", "cleanup", "cleanup --watch", "slot list", "slot inspect", "slot create", "slot advance", "slot drop", "pause", "resume", "checkpoint show", "verify", "verify --data",
		"dlq list", "dlq show x", "dlq replay --yes", "dlq export", "dlq purge x --yes --because test", "dlq retry", "dlq retry --watch",
		"pipeline --group g --webhook-url http://127.0.0.1:1/",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			postgres, kafka := newMute(t), newMute(t)
			relay := harness.StartCommand(t, bin, map[string]string{
				"DATABASE_URL": "postgres://u:p@" + postgres.addr + "/d?sslmode=disable", "KAFKA_BROKERS": kafka.addr, "LOG_FORMAT": "json",
				"KAFKA_CONNECTION_TIMEOUT": "60000", "HEALTH_ADDR": "127.0.0.1:0",
			}, strings.Fields(args)...)
			select {
			case <-postgres.called:
			case <-kafka.called:
			case <-relay.Done():
				t.Fatalf("it ended before it was told to:\n%s", relay.Output(50))
			}
			if err := relay.Term(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), stopBudget)
			defer cancel()
			code, err := relay.Wait(ctx)
			if err != nil {
				t.Fatalf("%v\n%s", err, relay.Output(50))
			}
			want := 143
			if strings.HasPrefix(args, "serve") || strings.HasPrefix(args, "pipeline") || strings.HasSuffix(args, "--watch") {
				want = 0 // it is what they are ended with
			}
			if code != want {
				t.Errorf("exit status %d, want %d:\n%s", code, want, relay.Output(50))
			}
		})
	}
}

// mute is a server that takes connections and does nothing else.
type mute struct {
	addr   string
	called chan struct{}
}

func newMute(t *testing.T) mute {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := mute{addr: ln.Addr().String(), called: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var held []net.Conn
		for {
			conn, err := ln.Accept()
			if err != nil {
				break
			}
			held = append(held, conn)
			select {
			case m.called <- struct{}{}:
			default:
			}
		}
		for _, conn := range held {
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
	return m
}
