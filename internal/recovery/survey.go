package recovery

import (
	"context"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/audit"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// Config says what is to be recovered.
type Config struct {
	Source  replication.Config // with credentials that may create slots and read the table
	Table   outbox.Table
	Columns outbox.Columns

	Name, Version string            // of relay and program
	Router        sink.RouterConfig // the relay's
	Letters       string            // topic of dead letters
	Checkpoint    string            // topic
	// Kafka makes the options of a client; each client has its own.
	Kafka func(role string) ([]kgo.Opt, error)

	// Topics are read for ids besides those that rows belong to.
	Topics []string
	// Since leaves out rows that were created before; zero leaves out none.
	Since time.Time
	// Accept are the decisions that a person has repeated.
	Accept []string
	// NewSlot makes the slot anew even where it could be streamed from.
	NewSlot bool
	// Missing publishes missing rows of a relay with which nothing is wrong.
	Missing bool
	// Lost is told of each event that was published and that the database no
	// longer knows. May be nil.
	Lost func(audit.Lost) error
	// Stall is how long a topic may give nothing before that is an error.
	Stall time.Duration
	// TempDir is where temporary files go; "" is the system's place.
	TempDir string
	// Progress is called often, by one goroutine at a time. May be nil.
	Progress func(audit.Progress)
	Log      zerolog.Logger
}

// Survey is what is there.
type Survey struct {
	Server replication.State // the slot's Name is empty if there is none
	Shape  []outbox.Column   // of the table
	// CommitTimes: the server keeps the time of every commit.
	CommitTimes bool

	State        checkpoint.State
	Fork         *fault.Error // what contradicts the history of checkpoints; nil: nothing
	TopicMissing bool         // the checkpoint topic
	ClusterID    string
	TopicID      string // of the checkpoint topic
}

// LookAround surveys both ends, and changes nothing. Kafka is read without a
// barrier: what decides is read again by the session that has fenced everybody.
func LookAround(ctx context.Context, cfg Config, srv *replication.Server) (*Survey, error) {
	if err := srv.Check(ctx); err != nil {
		return nil, err
	}
	s := &Survey{}
	var err error
	if s.Server, err = srv.Look(ctx); err != nil {
		return nil, err
	}
	columns, err := srv.Columns(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range columns {
		s.Shape = append(s.Shape, outbox.Column{Name: c.Name, TypeOID: c.TypeOID})
	}
	if err := srv.Conn().QueryRow(ctx, `SELECT current_setting('track_commit_timestamp')::bool`).Scan(&s.CommitTimes); err != nil {
		return nil, fault.Wrap(err, fault.PostgresLost, "read settings")
	}
	return s, s.lookAtKafka(ctx, cfg)
}

func (s *Survey) lookAtKafka(ctx context.Context, cfg Config) error {
	opts, err := cfg.Kafka("recover")
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	defer cl.Close()
	meta, err := kadm.NewClient(cl).Metadata(kadm.WithAuthorizedOps(ctx), cfg.Checkpoint)
	if err != nil {
		return kafka.Classify("reach Kafka", err)
	}
	s.ClusterID = meta.Cluster
	topic := meta.Topics[cfg.Checkpoint]
	switch err := kafka.Classify("look up checkpoint topic "+cfg.Checkpoint, topic.Err); {
	case fault.Has(err, fault.KafkaTopicMissing):
		s.TopicMissing = true
		return nil
	case err != nil:
		return err
	}
	s.TopicID = topic.ID.String()
	log := checkpoint.Log{Topic: cfg.Checkpoint, Name: cfg.Name, Opts: opts}
	if s.State, err = log.PeekAll(ctx); fault.Has(err, fault.CheckpointForked) {
		s.Fork = fault.As(err)
		log.Tolerant = true
		s.State, err = log.PeekAll(ctx)
	}
	return kafka.Classify("read checkpoint", err)
}
