package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/term"
)

// openDisplay picks screen or lines, and draws until the returned function is
// called. The terminal is given back by then. A terminal that is read key by
// key makes no signals, so interrupt is called for Ctrl-C.
func (d *demo) openDisplay(stdout io.Writer, interrupt func()) (closeDisplay func()) {
	d.enter("starting")
	d.display = newLines(stdout, d.cfg.Started)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	running := 1
	if !d.cfg.CI {
		if s := newScreen(stdout, d.getenv, d.cfg.Version, d.cfg.Started); s != nil {
			d.display = s
			if in := d.cfg.Stdin; in != nil && term.IsTerminal(int(in.Fd())) {
				running++
				go func() {
					_ = readKeys(ctx, in, func(key byte) { // without keys Ctrl-C remains
						if key == ctrlC {
							interrupt()
						}
						select {
						case d.keys <- key:
						default: // typed faster than it can matter
						}
					})
					done <- struct{}{}
				}()
			}
		}
	}
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			d.display.show(d.view())
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		done <- struct{}{}
	}()
	return func() {
		cancel()
		for range running {
			<-done
		}
		d.display.close()
	}
}

// getenv looks at the environment the demo was given, not at the process's.
func (d *demo) getenv(name string) string {
	value := ""
	for _, kv := range d.cfg.Environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}

// dropTraces removes what the relay made in a database or a cluster that was
// given. What was made along with the demo goes with it.
func (d *demo) dropTraces(ctx context.Context) error {
	if d.cfg.Keep {
		return nil
	}
	var errs []error
	if d.cfg.DatabaseURL != "" {
		errs = append(errs, d.dropFromDatabase(ctx))
	}
	if !d.broker.inProcess() {
		errs = append(errs, d.dropFromCluster(ctx))
	}
	return errors.Join(errs...)
}

func (d *demo) dropFromDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.pg.url)
	if err != nil {
		return fmt.Errorf("remove the demo's slot %s: %w", d.names.slot, err)
	}
	defer conn.Close(ctx)
	var errs []error
	// The server may take a moment to see that the relay has gone.
	_, err = conn.Exec(ctx, "SELECT pg_terminate_backend(active_pid, 2000) FROM pg_replication_slots WHERE slot_name = $1 AND active", d.names.slot)
	errs = append(errs, err)
	_, err = conn.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", d.names.slot)
	errs = append(errs, err)
	_, err = conn.Exec(ctx, "DROP PUBLICATION IF EXISTS "+pgx.Identifier{d.names.publication}.Sanitize())
	errs = append(errs, err)
	_, err = conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{d.names.schema}.Sanitize()+" CASCADE")
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the demo's slot %s, publication and schema %s: %w", d.names.slot, d.names.schema, err)
	}
	return nil
}

func (d *demo) dropFromCluster(ctx context.Context) error {
	client, err := kgo.NewClient(d.kafkaOpts()...)
	if err != nil {
		return fmt.Errorf("remove the demo's topics: %w", err)
	}
	defer client.Close()
	topics := []string{d.names.events, d.names.dlq, d.names.dlq + ".state", d.names.checkpoint}
	answers, err := kadm.NewClient(client).DeleteTopics(ctx, topics...)
	if err != nil {
		return fmt.Errorf("remove the demo's topics: %w", err)
	}
	var errs []error
	for _, a := range answers {
		if a.Err != nil && !errors.Is(a.Err, kerr.UnknownTopicOrPartition) {
			errs = append(errs, fmt.Errorf("remove topic %s: %w", a.Topic, a.Err))
		}
	}
	return errors.Join(errs...)
}

// kept says what --keep left behind.
func (d *demo) kept() string {
	switch {
	case !d.cfg.Keep:
		return ""
	case d.pg.dir != "":
		return "folder " + d.pg.dir
	}
	return fmt.Sprintf("schema %s, slot %s (it holds WAL until it is dropped)", d.names.schema, d.names.slot)
}

func texts(ids []uuid.UUID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
	}
	return out
}
