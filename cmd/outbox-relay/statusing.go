package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/slots"
	"github.com/holdwall/outbox-relay/internal/status"
	"github.com/holdwall/outbox-relay/replication"
)

const (
	statusEach    = time.Second
	kafkaEach     = 5 * time.Second // a question to Kafka costs connections
	processWait   = 2 * time.Second
	postgresWait  = 5 * time.Second
	statusWatches = 500 * time.Millisecond // how long the WAL is watched for its rate
	mostStatus    = 1 << 20
)

// show prints the status once, or goes on.
func (c *statusCmd) show(a *app, p *parts) error {
	pg := &postgresView{parts: p}
	defer pg.close()
	look := &status.Look{
		Relay: p.cfg.Outbox.Name, Slot: p.cfg.Outbox.Slot, Every: statusEach, KafkaEvery: kafkaEach,
		Sources: status.Sources{Process: c.process(p.cfg.Health.Addr), Postgres: pg.look, Kafka: p.kafkaView()},
	}
	if !c.Watch {
		return writePicture(a, look.Once(a.ctx))
	}
	ctx, stop := context.WithCancel(a.ctx)
	defer stop()
	out, isFile := a.stdout.(*os.File)
	if a.format == formatJSON || !isFile || !terminal(a.stdout) || has(a.environ, "NO_COLOR") || !has(a.environ, "TERM") {
		return look.Watch(ctx, func(pic status.Picture) error {
			if a.format == formatJSON {
				return json.NewEncoder(a.stdout).Encode(pic) // one line each
			}
			_, err := fmt.Fprintln(a.stdout, pic.Line())
			return err
		})
	}
	screen := &status.Screen{Out: out, Colour: true, Size: func() (int, int) {
		w, h, err := term.GetSize(int(out.Fd()))
		if err != nil {
			return status.Width, 24
		}
		return w, h
	}}
	screen.Open()
	defer screen.Close()
	keys := make(chan struct{})
	defer func() { stop(); <-keys }()
	go func() {
		defer close(keys)
		quitOnKey(ctx, a.stdin, stop)
	}()
	return look.Watch(ctx, screen.Show)
}

// writePicture prints one picture. Findings are an exit status too.
func writePicture(a *app, p status.Picture) error {
	if err := a.ctx.Err(); err != nil {
		return err // it was told to stop while it asked
	}
	if a.format == formatJSON {
		if err := writeJSON(a.stdout, p); err != nil {
			return err
		}
		return found(p)
	}
	colour := terminal(a.stdout) && !has(a.environ, "NO_COLOR")
	for _, line := range p.Lines() {
		fmt.Fprintln(a.stdout, status.Paint(line, colour))
	}
	return found(p)
}

// found is the status of a check that has found something.
func found(p status.Picture) error {
	if len(p.Findings) > 0 {
		return exitStatus(fault.Finding.ExitCode())
	}
	return nil
}

// quitOnKey calls stop at q, Q or Ctrl-C. Raw mode delivers the latter as a
// byte. It polls, because a blocked read of a terminal cannot be called off.
func quitOnKey(ctx context.Context, in io.Reader, stop func()) {
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return
	}
	before, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return // there are signals as well
	}
	defer func() { _ = term.Restore(int(f.Fd()), before) }()
	for ctx.Err() == nil {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}, 100)
		if ready <= 0 || err != nil {
			continue
		}
		var b [1]byte
		if n, err := f.Read(b[:]); n == 0 || err != nil {
			return
		}
		if b[0] == 'q' || b[0] == 'Q' || b[0] == 3 {
			stop()
			return
		}
	}
}

// process asks a running relay.
func (c *statusCmd) process(addr string) func(context.Context) (*status.Process, error) {
	base := strings.TrimSuffix(c.URL, "/")
	if base == "" {
		host, port, err := net.SplitHostPort(addr)
		if err == nil && (host == "" || host == "0.0.0.0" || host == "::") {
			host = "127.0.0.1" // it listens on every interface of this host
		}
		base = "http://" + net.JoinHostPort(host, port)
	}
	shown := strings.TrimPrefix(base, "http://")
	client := &http.Client{Timeout: processWait}
	return func(ctx context.Context) (*status.Process, error) {
		silent := func(err error) error {
			return fault.Wrap(err, fault.RelaySilent, "%s", shown)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/status", nil)
		if err != nil {
			return nil, fault.Wrap(err, fault.CommandLine, "--url").WithFix("--url http://<host>:8080")
		}
		resp, err := client.Do(req)
		if err != nil {
			var dial *net.OpError
			if errors.As(err, &dial) {
				err = dial // without the address a second time
			}
			return nil, silent(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, silent(fmt.Errorf("status %d", resp.StatusCode))
		}
		proc := &status.Process{Addr: shown}
		if err := json.NewDecoder(io.LimitReader(resp.Body, mostStatus)).Decode(proc); err != nil {
			return nil, silent(err)
		}
		return proc, nil
	}
}

// postgresView looks at the slot over a connection that it keeps. One goroutine
// uses it.
type postgresView struct {
	parts *parts
	srv   *replication.Server
}

func (v *postgresView) close() {
	if v.srv != nil {
		v.srv.Close()
		v.srv = nil
	}
}

func (v *postgresView) look(ctx context.Context) (*status.Postgres, error) {
	ctx, cancel := context.WithTimeout(ctx, postgresWait)
	defer cancel()
	if v.srv == nil {
		src, err := v.parts.sourceConfig(false)
		if err != nil {
			return nil, err
		}
		if v.srv, err = replication.Connect(ctx, src); err != nil {
			v.srv = nil
			return nil, err
		}
	}
	pg, err := v.ask(ctx)
	if err != nil {
		v.close()
	}
	return pg, err
}

func (v *postgresView) ask(ctx context.Context) (*status.Postgres, error) {
	id, err := v.srv.Identify(ctx)
	if err != nil {
		return nil, err
	}
	pg := &status.Postgres{Server: v.srv.Describe(), Identity: id, Version: pgVersion(v.srv.Version())}
	name := v.parts.cfg.Outbox.Slot
	desk := &slots.Desk{Conn: v.srv.Conn(), Slot: name, Publication: v.parts.cfg.Outbox.Publication, Identity: id}
	view, err := desk.Inspect(ctx, name, statusWatches)
	if fault.Has(err, fault.SlotMissing) {
		return pg, nil
	}
	if err != nil {
		return nil, err
	}
	view.CheckpointError = "" // Kafka is asked elsewhere
	pg.Slot = &view
	if pg.Position, err = replication.Inspect(ctx, v.srv.Conn(), name); err != nil {
		return nil, fault.Wrap(err, fault.PostgresLost, "inspect slot %s", name)
	}
	return pg, nil
}

// pgVersion writes server_version_num as people do.
func pgVersion(n int) string { return fmt.Sprintf("%d.%d", n/10000, n%10000) }

// kafkaView asks for the checkpoint. It is nil if no Kafka is configured.
func (p *parts) kafkaView() func(context.Context) (*status.Kafka, error) {
	ask := p.askCheckpoint()
	if ask == nil {
		return nil
	}
	return func(ctx context.Context) (*status.Kafka, error) {
		state, err := ask(ctx)
		if err != nil {
			return nil, err
		}
		k := &status.Kafka{Last: state.Last}
		if c := state.Last; c != nil {
			k.Checkpoint = &status.Checkpoint{
				Seq: c.Seq, Position: c.Pos.String(), Time: c.Time, Rows: c.RowsTotal, DeadLetters: c.LettersTotal, ParkedKeys: len(c.Parked), Host: c.Host,
			}
		}
		return k, nil
	}
}
