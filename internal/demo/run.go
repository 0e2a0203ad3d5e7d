package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// relayStop is for a relay that nobody waits for any more.
const relayStop = 700 * time.Millisecond

// Run shows the relay at work and judges it. It returns nil if everything that
// was committed arrived once and in order, a *FindingsError if not, and
// another error if the demo could not be held. A context that ends stops the
// demo in order; that alone is no error.
func Run(ctx context.Context, cfg Config, stdout, stderr io.Writer) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return fmt.Errorf("find the running binary: %w", err)
	}
	ctx, interrupt := context.WithCancel(ctx)
	defer interrupt()
	d := &demo{cfg: cfg, ledger: newLedger(), keys: make(chan byte, 8)}
	closeDisplay := d.openDisplay(stdout, interrupt)
	res, err := d.run(ctx)
	err = errors.Join(err, d.cleanUp(ctx))
	closeDisplay()
	if res != nil {
		// A reader that left is no reason to change the verdict.
		_ = res.write(stdout)
		err = errors.Join(res.verdict(), err)
	}
	if err != nil && d.relay != nil {
		fmt.Fprintf(stderr, "last lines of the relay:\n%s\n", d.relay.log)
	}
	return err
}

// demo is one run. Its fields are set in the order in which the parts come up;
// what is read by the display is guarded or atomic.
type demo struct {
	cfg     Config
	names   names
	ledger  *ledger
	display display
	keys    chan byte

	broker  *broker
	pg      *postgres
	db      *pgx.Conn
	relay   *relay
	witness atomic.Pointer[witness]
	kills   atomic.Int32
	phase   atomic.Pointer[string]
	began   atomic.Pointer[time.Time] // of the generator

	undo []func(context.Context) error // newest last
}

func (d *demo) deferred(f func(context.Context) error) { d.undo = append(d.undo, f) }

// cleanUp takes everything down in the reverse order of its coming up. It has
// a clock of its own: it matters most when the caller's context has ended.
func (d *demo) cleanUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var errs []error
	for i := len(d.undo) - 1; i >= 0; i-- {
		errs = append(errs, d.undo[i](ctx))
	}
	return errors.Join(errs...)
}

// background runs f until cleaning up, which waits for it. An error of f goes
// to broken.
func (d *demo) background(ctx context.Context, broken chan<- error, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil {
			select {
			case broken <- err:
			default: // one reason to stop is enough
			}
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	d.deferred(func(context.Context) error { stop(); return nil })
	return stop
}

// run goes through the demo's acts: raise the parts, load, drain, judge. The
// result is nil if the load never began.
func (d *demo) run(ctx context.Context) (*result, error) {
	broken := make(chan error, 4)
	if err := d.raise(ctx, broken); err != nil {
		if ctx.Err() != nil {
			return nil, nil // interrupted before there was anything to judge
		}
		return nil, err
	}
	gen, err := newGenerator(d.pg.url, d.names.table, d.cfg.Rate, d.ledger)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	d.began.Store(&now)
	d.enter("")
	stopGenerator := d.background(ctx, broken, gen.run)
	early, loadErr := d.load(ctx, gen, broken)
	stopGenerator()
	if loadErr != nil && ctx.Err() == nil {
		return nil, loadErr
	}
	res, err := d.judge(ctx)
	if res != nil {
		res.early = early
	}
	return res, err
}

// raise starts what the load needs. Broker and Postgres come up side by side,
// because Postgres takes most of the time to the first event.
func (d *demo) raise(ctx context.Context, broken chan<- error) error {
	d.enter("starting")
	began := time.Now()
	var pgErr error
	up := make(chan struct{})
	go func() {
		defer close(up)
		d.pg, pgErr = d.openPostgres(ctx)
	}()
	var err error
	d.broker, err = openBroker(d.cfg.Brokers)
	if err == nil {
		d.display.step("kafka", d.broker.about, time.Since(began))
		d.deferred(func(context.Context) error { d.broker.close(); return nil })
	}
	<-up
	if d.pg != nil {
		d.deferred(func(context.Context) error { return d.pg.stop() })
	}
	if err := errors.Join(err, pgErr); err != nil {
		return err
	}
	d.display.step("postgres", d.pg.about, time.Since(began))

	began = time.Now()
	d.names = newNames(d.cfg.DatabaseURL != "" || len(d.cfg.Brokers) > 0)
	port, err := freePort()
	if err != nil {
		return err
	}
	health := fmt.Sprintf("127.0.0.1:%d", port)
	d.relay = newRelay(d.cfg.Executable, d.cfg.relayEnv(d.names, d.pg.url, d.broker.addrs, health))
	d.deferred(d.dropTraces)
	if err := d.relay.start(); err != nil {
		return err
	}
	d.deferred(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, relayStop)
		defer cancel()
		return d.relay.stop(ctx)
	})
	if d.db, err = pgx.Connect(ctx, d.pg.url); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	d.deferred(func(ctx context.Context) error { return d.db.Close(ctx) })
	if err := d.relay.awaitStreaming(ctx, d.db, d.names.slot); err != nil {
		return err
	}
	d.display.step("relay", fmt.Sprintf("slot %s, http://%s/metrics", d.names.slot, health), time.Since(began))
	d.display.step("page", "http://"+health+"/", time.Since(began))

	w, err := openWitness(d.kafkaOpts(), d.names, d.ledger)
	if err != nil {
		return err
	}
	d.deferred(func(context.Context) error { w.close(); return nil })
	d.background(ctx, broken, w.visible.run)
	d.background(ctx, broken, w.physical.run)
	d.witness.Store(w)
	return nil
}

func (d *demo) openPostgres(ctx context.Context) (*postgres, error) {
	if d.cfg.DatabaseURL != "" {
		return &postgres{url: d.cfg.DatabaseURL, about: "given by DATABASE_URL"}, nil
	}
	return startPostgres(ctx, d.cfg.Executable, supervisorSpec{Fast: d.cfg.Fast, Keep: d.cfg.Keep}, d.display.say)
}

func (d *demo) kafkaOpts() []kgo.Opt {
	opts := []kgo.Opt{kgo.SeedBrokers(d.broker.addrs...)}
	if !d.broker.inProcess() {
		opts = append(opts, d.cfg.KafkaOpts...)
	}
	return opts
}

// load lets the generator write and kills the relay at its times, until the
// run is over, somebody ends it early, or something breaks.
func (d *demo) load(ctx context.Context, gen *generator, broken <-chan error) (early bool, err error) {
	c := &chaos{
		relay: d.relay, generator: gen, witness: d.witness.Load(), ledger: d.ledger, db: d.db,
		slot: d.names.slot, say: d.display.say, killed: func() { d.kills.Add(1) },
	}
	end := time.NewTimer(d.cfg.Duration)
	defer end.Stop()
	var times []time.Duration
	if !d.cfg.NoChaos {
		times = killTimes(d.cfg.Duration)
	}
	began := *d.began.Load()
	next := time.NewTimer(d.cfg.Duration + time.Hour)
	defer next.Stop()
	aim := func() {
		if len(times) > 0 {
			next.Reset(time.Until(began.Add(times[0])))
			times = times[1:]
		}
	}
	aim()
	for {
		select {
		case <-ctx.Done():
			return true, nil
		case <-end.C:
			return false, nil
		case <-next.C:
			if err := c.round(ctx); err != nil {
				return true, err
			}
			aim()
		case key := <-d.keys:
			switch key {
			case 'q':
				return true, nil
			case 'k':
				if err := c.killInside(ctx); err != nil {
					return true, err
				}
			}
		case <-d.relay.child.gone:
			return true, d.relay.died()
		case err := <-broken:
			return true, err
		}
	}
}

func (d *demo) sinceStart(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return t.Sub(d.cfg.Started)
}

func (d *demo) enter(phase string) { d.phase.Store(&phase) }

func (d *demo) view() view {
	v := view{state: d.ledger.state(), Total: d.cfg.Duration, Kills: int(d.kills.Load()), Phase: *d.phase.Load()}
	v.First = d.sinceStart(v.state.First)
	if began := d.began.Load(); began != nil { // from here on the parts do not change
		v.Elapsed = time.Since(*began)
		if d.broker.inProcess() {
			v.Label = " (in-process broker)"
		}
		if d.pg.dir != "" {
			v.Hint = " look inside: psql -h " + d.pg.dir + " -U outbox postgres"
		}
	}
	if w := d.witness.Load(); w != nil {
		if c := w.checkpoint(); c.Seq != 0 {
			v.Checkpoint = c.Pos.String()
		}
	}
	return v
}
