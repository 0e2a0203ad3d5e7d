package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/replication"
)

// withServer opens the database for a command.
func withServer(ctx context.Context, cfg config.Config, log zerolog.Logger, do func(*parts, *replication.Server) error) error {
	p := newParts(cfg, log)
	src, err := p.sourceConfig(false)
	if err != nil {
		return err
	}
	srv, err := replication.Connect(ctx, src)
	if err != nil {
		return err
	}
	defer srv.Close()
	return do(p, srv)
}

// checkpointView is a checkpoint as the command shows it; its keys are stable.
type checkpointView struct {
	Seq          uint64    `json:"seq"`
	Position     string    `json:"position"`
	Cut          bool      `json:"cut"`
	LastXID      uint32    `json:"last_xid"`
	LastCommit   string    `json:"last_commit_lsn"`
	RowsTotal    uint64    `json:"rows_total"`
	LettersTotal uint64    `json:"dlq_total"`
	SessionID    string    `json:"session_id"`
	SessionNo    uint64    `json:"session_no"`
	Host         string    `json:"host"`
	PID          int       `json:"pid"`
	Version      string    `json:"relay_version"`
	Time         time.Time `json:"time"`
	Topic        string    `json:"topic"`
	Offset       int64     `json:"offset"`
	Slot         string    `json:"slot"`
	Database     string    `json:"database"`
	SystemID     string    `json:"system_id"`
	Override     string    `json:"override,omitempty"`
	Recovery     string    `json:"recovery,omitempty"` // that is under way
}

// showCheckpoint reads the newest checkpoint, fencing nobody.
func showCheckpoint(ctx context.Context, cfg config.Config, out io.Writer, format string, log zerolog.Logger) error {
	p := newParts(cfg, log).once()
	cl, err := p.checkpointLog()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Kafka.Client.ConnectionTimeout+cfg.Kafka.Client.RequestTimeout)
	defer cancel()
	if err := p.reach(ctx, "inspect"); err != nil {
		return err
	}
	state, err := cl.Peek(ctx)
	if err != nil {
		err = p.trace.Explain(kafka.Classify("read checkpoint", err))
		if f := (*fault.Error)(nil); errors.As(err, &f) && f.Code == fault.KafkaTopicMissing {
			return f.WithFix("outbox-relay init creates it; if the relay has run before, check KAFKA_BROKERS, OUTBOX_NAME and KAFKA_CHECKPOINT_TOPIC")
		}
		return err
	}
	if state.Last == nil {
		return fault.New(fault.NotInitialised, "topic %s holds no checkpoint of relay %s", cl.Topic, cl.Name)
	}
	v := viewOfCheckpoint(state, cl.Topic)
	if format == formatJSON {
		return writeJSON(out, v)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "checkpoint\t%d, written %s by session %d (%s, PID %d, version %s)\n", v.Seq, v.Time.Format(time.RFC3339), v.SessionNo, v.Host, v.PID, v.Version)
	fmt.Fprintf(w, "position\t%s (timeline:LSN)\n", v.Position)
	fmt.Fprintf(w, "last transaction\txid %d at %s\n", v.LastXID, v.LastCommit)
	fmt.Fprintf(w, "rows\t%d, dead letters among them %d\n", v.RowsTotal, v.LettersTotal)
	fmt.Fprintf(w, "source\tslot %s of database %s, system %s\n", v.Slot, v.Database, v.SystemID)
	fmt.Fprintf(w, "record\t%s offset %d\n", v.Topic, v.Offset)
	if v.Override != "" {
		fmt.Fprintf(w, "override\t%s\n", v.Override)
	}
	if v.Recovery != "" {
		fmt.Fprintf(w, "recovery\t%s: outbox-relay recover --yes goes on with it\n", v.Recovery)
	}
	return w.Flush()
}

func viewOfCheckpoint(state checkpoint.State, topic string) checkpointView {
	c := state.Last
	v := checkpointView{
		Seq: c.Seq, Position: c.Pos.String(), Cut: c.Pos.Cut(), LastXID: c.LastTx.XID, LastCommit: c.LastTx.CommitLSN.String(),
		RowsTotal: c.RowsTotal, LettersTotal: c.LettersTotal, SessionID: c.SessionID, SessionNo: c.SessionNo,
		Host: c.Host, PID: c.PID, Version: c.Version, Time: c.Time, Topic: topic, Offset: state.LastOffset,
		Slot: c.Source.Slot, Database: c.Source.Database, SystemID: c.Source.SystemID, Override: c.Override,
	}
	if r := c.Recovery; r != nil {
		v.Recovery = fmt.Sprintf("%s for %s, begun %s", r.ID, r.Code, r.Began.Format(time.RFC3339))
	}
	return v
}

func orNobody(s string) string {
	if s == "" {
		return "nobody"
	}
	return s
}
