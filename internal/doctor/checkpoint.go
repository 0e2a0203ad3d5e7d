package doctor

import (
	"context"
	"errors"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/sink"
)

// checkpointFacts is what the checkpoint topic says. It was read without a
// barrier, so a commit that is under way may be missing.
type checkpointFacts struct {
	asked   bool
	err     error // it could not be read
	missing bool  // there is no such topic
	session sink.Session
}

// options are those of a client that looks. What its log says is in the errors.
func (w *world) options() ([]kgo.Opt, error) {
	c := w.Settings.Kafka.Client
	c.Once = true
	return c.Options("doctor", quiet(w.Log), nil)
}

// quiet drops the client's own lines, which say again what the checks say,
// unless somebody wants to see everything.
func quiet(log zerolog.Logger) zerolog.Logger {
	if log.GetLevel() > zerolog.DebugLevel {
		return zerolog.Nop()
	}
	return log
}

// readCheckpoint reads the relay's position. The reader of checkpoints follows
// the newest record, and so does not disturb whoever writes them.
func readCheckpoint(ctx context.Context, w *world) (f checkpointFacts) {
	k := w.Settings.Kafka
	if len(k.Client.Brokers) == 0 {
		return f
	}
	f.asked = true
	opts, err := w.options()
	if err != nil {
		f.err = err
		return f
	}
	connection, request := k.Client.Timeouts()
	ctx, cancel := context.WithTimeout(ctx, connection+min(request, catalogTime))
	defer cancel()
	if f.err = k.Client.Reach(ctx, "doctor", quiet(w.Log), nil); f.err != nil {
		return f
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		f.err = fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
		return f
	}
	defer cl.Close()
	meta, err := kadm.NewClient(cl).Metadata(kadm.WithAuthorizedOps(ctx), k.CheckpointTopic)
	if err == nil {
		err = meta.Topics[k.CheckpointTopic].Err
	}
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		f.missing = true
		return f
	case err != nil:
		f.err = kafka.Classify("look up topic "+k.CheckpointTopic, err)
		return f
	}
	f.session.ClusterID, f.session.TopicID = meta.Cluster, meta.Topics[k.CheckpointTopic].ID.String()
	log := checkpoint.Log{Topic: k.CheckpointTopic, Name: w.Settings.Outbox.Name, Opts: opts}
	f.session.State, err = log.Peek(ctx)
	f.err = kafka.Classify("read topic "+k.CheckpointTopic, err)
	return f
}
