package verify

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Sources say where all evidence of a run that has come to rest is read.
type Sources struct {
	Oracle     OracleSource
	Kafka      []kgo.Opt
	Topics     Topics
	Checkpoint string // topic
	Name       string // of the relay
	Rules      Rules
}

// Collect reads the oracle, the logs and the checkpoints. Samples and
// Sightings come from those who looked while the run went on.
func Collect(ctx context.Context, conn *pgx.Conn, src Sources) (Evidence, error) {
	ev := Evidence{Rules: src.Rules}
	var err error
	if ev.Oracle, err = ReadOracle(ctx, conn, src.Oracle); err != nil {
		return Evidence{}, err
	}
	if ev.Logs, err = ReadLogs(ctx, src.Kafka, src.Topics); err != nil {
		return Evidence{}, err
	}
	if ev.Checkpoints, err = ReadCheckpoints(ctx, src.Kafka, src.Checkpoint, src.Name); err != nil {
		return Evidence{}, err
	}
	if src.Topics.State != "" {
		if ev.State, err = ReadState(ctx, src.Kafka, src.Topics.State); err != nil {
			return Evidence{}, err
		}
	}
	line, err := readLineage(ctx, conn)
	if err != nil {
		return Evidence{}, err
	}
	line.settle(&ev)
	return ev, nil
}
