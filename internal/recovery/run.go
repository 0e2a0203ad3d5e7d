package recovery

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/audit"
	"github.com/holdwall/outbox-relay/internal/crash"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/provision"
	"github.com/holdwall/outbox-relay/replication"
)

const (
	// slotTimeout bounds the creation of the slot, which waits for every open
	// transaction of the server.
	slotTimeout = 10 * time.Minute
	// skew is how far the clocks may be apart that times of creation come from.
	skew = time.Minute
	// longSnapshot is how often it is told that a snapshot is still held.
	longSnapshot = 10 * time.Minute
)

// Recovery is one recovery, from the survey to its last checkpoint. It is the
// Refill of a relay. It is for one goroutine at a time.
type Recovery struct {
	*Diagnosis
	// Found is what is missing; nil before it was looked for.
	Found *audit.Outcome
	// Resume is where a relay goes on; known with Found.
	Resume checkpoint.Position

	cfg     Config
	control *replication.Server // holds the lock
	id      string
	began   time.Time

	ready bool              // the slot is as planned
	made  *replication.Made // its snapshot, until that was taken over
	snap  *snapshot
	table audit.Config
	look  audit.Search
	rows  *reader

	taken, warned time.Time // of the snapshot

	first     uint64 // ordinal before the first row of Found
	handed    uint64 // highest ordinal that was handed over, by any session
	announced bool
	ending    bool
	newest    checkpoint.Checkpoint
}

// Open surveys and diagnoses. The caller closes the result. With exclusive, no
// other recovery or init of this relay can be at work until then.
func Open(ctx context.Context, cfg Config, exclusive bool) (*Recovery, error) {
	control, err := replication.Connect(ctx, cfg.Source)
	if err != nil {
		return nil, err
	}
	r := &Recovery{cfg: cfg, control: control, id: uuid.NewString(), began: time.Now()}
	for since := time.Now(); ; {
		err = r.open(ctx, exclusive)
		if err == nil {
			return r, nil
		}
		// What a recovery before held that was killed, the server lets go of soon.
		leaving := fault.Has(err, fault.RecoveryRunning) || fault.Has(err, fault.SlotHeld)
		if !exclusive || !leaving || time.Since(since) > leave {
			r.Close()
			return nil, err
		}
		select {
		case <-time.After(leave / 50):
		case <-ctx.Done():
		}
	}
}

// leave is how long the server may take to notice that a client has gone.
const leave = 5 * time.Second

func (r *Recovery) open(ctx context.Context, exclusive bool) error {
	if exclusive {
		got, err := r.control.TryLock(ctx, r.cfg.Name)
		if err != nil {
			return err
		}
		if !got {
			return fault.New(fault.RecoveryRunning, "relay %s on %s", r.cfg.Name, r.control.Describe())
		}
	}
	survey, err := LookAround(ctx, r.cfg, r.control)
	if err != nil {
		return err
	}
	if r.Diagnosis, err = Diagnose(r.cfg, survey); err != nil {
		return err
	}
	if u := r.UnderWay; u != nil {
		r.id, r.began = u.ID, u.Began
	}
	return nil
}

// Close gives up everything that is held but the slot itself.
func (r *Recovery) Close() {
	r.rows.close()
	r.snap.close()
	if r.made != nil {
		r.made.Close()
	}
	r.control.Close()
}

// Preview looks for what is missing, without changing or fencing anything: the
// answer is as of now, and a relay or writers at work make another of it.
func (r *Recovery) Preview(ctx context.Context) error { return r.find(ctx) }

// Source takes the slot, which is made before if that is the plan.
func (r *Recovery) Source(ctx context.Context, log zerolog.Logger, m *replication.Metrics) (*replication.Source, error) {
	if !r.ready {
		if err := r.makeReady(ctx); err != nil {
			return nil, err
		}
		r.ready = true
	}
	return replication.Open(ctx, r.cfg.Source, log, m)
}

func (r *Recovery) makeReady(ctx context.Context) error {
	if r.TopicMissing {
		if err := r.makeTopic(ctx); err != nil {
			return err
		}
	}
	if r.Slot == KeepSlot {
		return nil
	}
	if r.Slot == ReplaceSlot {
		if err := r.control.DropSlot(ctx); err != nil {
			return err
		}
		r.cfg.Log.Info().Str("slot", r.cfg.Source.Slot).Msg("slot dropped")
		crash.Point(crash.RecoverySlotDropped)
	}
	r.cfg.Log.Info().Str("slot", r.cfg.Source.Slot).Msg("creating the slot; this waits for every open transaction of the server")
	sctx, cancel := context.WithTimeout(ctx, slotTimeout)
	defer cancel()
	made, err := r.control.MakeSlot(sctx)
	if err != nil && sctx.Err() != nil && ctx.Err() == nil {
		return fault.Wrap(err, fault.PostgresUnreachable, "create slot %s within %s", r.cfg.Source.Slot, slotTimeout).
			WithWhy("creating a slot waits for every open transaction of the server").
			WithFix("SELECT pid, xact_start, query FROM pg_stat_activity WHERE xact_start < now() - interval '1 minute'; then run recover again")
	}
	if err != nil {
		return err
	}
	r.made = made
	r.cfg.Log.Info().Str("slot", r.cfg.Source.Slot).Str("lsn", made.At.String()).Msg("slot created")
	crash.Point(crash.RecoverySlotMade)
	return nil
}

func (r *Recovery) makeTopic(ctx context.Context) error {
	return r.admin(func(adm *kadm.Client) error { return provision.CheckpointTopic(r.cfg.Checkpoint).Create(ctx, adm) })
}

func (r *Recovery) admin(do func(*kadm.Client) error) error {
	opts, err := r.cfg.Kafka("recover")
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	defer cl.Close()
	return do(kadm.NewClient(cl))
}
