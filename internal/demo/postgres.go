package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// postgres is the database of the demo: a supervised child, or one that was
// given.
type postgres struct {
	url   string
	dir   string // empty for a database that was given
	about string // for the screen
	stdin io.Closer
	child *child
	keep  bool
}

// startPostgres starts the supervisor and waits until its server accepts
// connections. Notes of slow steps go to say.
func startPostgres(ctx context.Context, exe string, spec supervisorSpec, say func(string)) (*postgres, error) {
	cmd := exec.Command(exe, PostgresCommand)
	errs := &tail{limit: 20}
	cmd.Stderr = errs
	cmd.WaitDelay = time.Second
	bind(cmd, nil, 0) // must outlive a killed demo, to clean up after it
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	reports, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer reports.Close()
	cmd.Stdout = out
	c, err := spawn(cmd)
	out.Close()
	if err != nil {
		return nil, fmt.Errorf("start the supervisor of Postgres: %w", errors.Join(err, stdin.Close()))
	}
	p := &postgres{stdin: stdin, child: c, keep: spec.Keep}
	line, err := json.Marshal(spec)
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	if _, err := stdin.Write(append(line, '\n')); err != nil {
		return nil, errors.Join(fmt.Errorf("tell the supervisor of Postgres: %w", err), p.stop())
	}
	// Reading ends at the first report that decides, or when the supervisor is
	// told to stop because the caller gave up.
	stopReading := context.AfterFunc(ctx, func() { _ = stdin.Close() })
	defer stopReading()
	in := bufio.NewScanner(reports)
	for in.Scan() {
		var r supervisorReport
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			return nil, errors.Join(fmt.Errorf("read the supervisor of Postgres: %w", err), p.stop())
		}
		switch {
		case r.Note != "":
			say(r.Note)
		case r.Error != "":
			return nil, errors.Join(fault.New(fault.Runtime, "no temporary Postgres: %s", r.Error).
				WithFix("install PostgreSQL %d or newer, or set DATABASE_URL", oldestPostgres), p.stop())
		case r.Ready:
			p.url, p.dir = socketURL(r.Socket), r.Dir
			p.about = fmt.Sprintf("%s, temporary, socket in %s", r.Version, r.Socket)
			return p, nil
		}
	}
	err = errors.Join(ctx.Err(), p.stop())
	return nil, fmt.Errorf("supervisor of Postgres ended early: %w: %s", err, errs.last())
}

// stop ends the supervisor, its server and its folder. It may be called again.
func (p *postgres) stop() error {
	if p.stdin == nil {
		return nil
	}
	_ = p.stdin.Close() // may have been closed by a context that ended
	p.stdin = nil
	select {
	case <-p.child.gone:
		return p.child.err
	case <-time.After(8 * time.Second):
		_ = p.child.Kill() // it may be gone by now
		<-p.child.gone
		if p.dir != "" && !p.keep {
			return errors.Join(errors.New("supervisor of Postgres did not end in time"), os.RemoveAll(p.dir))
		}
		return errors.New("supervisor of Postgres did not end in time")
	}
}
