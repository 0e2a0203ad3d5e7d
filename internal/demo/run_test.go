package demo

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
)

func TestDemoOfAnHonestRelay(t *testing.T) {
	var out, errs bytes.Buffer
	err := Run(context.Background(), Config{Duration: 6 * time.Second, CI: true, Fast: true}, &out, &errs)
	t.Logf("%s%s", out.String(), errs.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0 lost, 0 duplicated, 0 reordered", "first event in Kafka", "in-process broker", "relay killed", "kill 1: SIGKILL"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q", want)
		}
	}
}

func TestDemoFindsABrokenWord(t *testing.T) {
	for _, test := range []struct{ fault, finding string }{
		{"lose", "did not arrive"},
		{"double", "seen twice"},
		{"swap", "out of the order"},
		{"ghost", "nobody wrote"},
	} {
		t.Run(test.fault, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			err := Run(context.Background(), Config{
				Duration: 2 * time.Second, CI: true, Fast: true, NoChaos: true, stall: time.Second,
				Environ: append(os.Environ(), standInFault+"="+test.fault),
			}, &out, &out)
			var findings *FindingsError
			if !errors.As(err, &findings) || !strings.Contains(err.Error(), test.finding) || findings.ExitCode() != 4 || !strings.Contains(out.String(), "FOUND") {
				t.Errorf("got %v, want a finding with %q\n%s", err, test.finding, out.String())
			}
		})
	}
}

func TestDemoReportsARelayThatEnds(t *testing.T) {
	var out bytes.Buffer
	err := Run(context.Background(), Config{CI: true, Environ: append(os.Environ(), standInFault+"=halt")}, &out, &out)
	if !fault.Has(err, fault.Runtime) || !strings.Contains(out.String(), "OBX-0000") {
		t.Errorf("got %v, want what the relay said last\n%s", err, out.String())
	}
}

func TestDemoStopsInOrder(t *testing.T) {
	for _, after := range []time.Duration{100 * time.Millisecond, 3 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), after)
			defer cancel()
			var out bytes.Buffer
			err := Run(ctx, Config{CI: true, Fast: true}, &out, &out)
			if err != nil {
				t.Errorf("%v\n%s", err, out.String())
			}
			deadline, _ := ctx.Deadline()
			if took := time.Since(deadline); took > 2*time.Second {
				t.Errorf("stopping took %s", took)
			}
		})
	}
}

// In a database and a cluster that belong to somebody, the demo uses names of
// its own and takes them away again.
func TestDemoLeavesGivenPartsAsTheyWere(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p, err := startPostgres(ctx, executable(t), supervisorSpec{Fast: true}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop() //nolint:errcheck // tested elsewhere
	b, err := openBroker(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	var out bytes.Buffer
	err = Run(ctx, Config{DatabaseURL: p.url, Brokers: b.addrs, Duration: 4 * time.Second, CI: true}, &out, &out)
	if err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	if strings.Contains(out.String(), "in-process") {
		t.Errorf("a cluster that was given is called in-process\n%s", out.String())
	}
	conn, err := pgx.Connect(ctx, p.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var slots, publications, schemas int
	err = conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_publication),
		(SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'outbox%')`).Scan(&slots, &publications, &schemas)
	if err != nil || slots+publications+schemas > 0 {
		t.Errorf("left %d slots, %d publications, %d schemas: %v", slots, publications, schemas, err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.addrs...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	topics, err := kadm.NewClient(client).ListTopics(ctx)
	if err != nil || len(topics) > 0 {
		t.Errorf("left topics %v: %v", topics.Names(), err)
	}
}
