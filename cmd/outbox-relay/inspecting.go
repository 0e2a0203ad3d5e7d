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

// slotView is a slot as the commands show it; its keys are stable.
type slotView struct {
	Name          string `json:"name"`
	Database      string `json:"database"`
	Plugin        string `json:"plugin"`
	Active        bool   `json:"active"`
	Holder        string `json:"holder,omitempty"`
	WALStatus     string `json:"wal_status"`
	Invalidation  string `json:"invalidation_reason,omitempty"`
	RestartLSN    string `json:"restart_lsn"`
	ConfirmedLSN  string `json:"confirmed_flush_lsn"`
	CurrentLSN    string `json:"current_lsn"`
	RetainedBytes int64  `json:"retained_bytes"`
	LagBytes      int64  `json:"lag_bytes"`
	SafeBytes     *int64 `json:"safe_wal_bytes,omitempty"`
}

func viewOf(s replication.Slot) slotView {
	v := slotView{
		Name: s.Name, Database: s.Database, Plugin: s.Plugin, Active: s.Active,
		WALStatus: s.WALStatus, Invalidation: s.Invalidation,
		RestartLSN: s.RestartLSN.String(), ConfirmedLSN: s.ConfirmedLSN.String(), CurrentLSN: s.CurrentLSN.String(),
		RetainedBytes: s.RetainedBytes(), LagBytes: s.LagBytes(),
	}
	if s.SafeBytes >= 0 {
		v.SafeBytes = &s.SafeBytes
	}
	return v
}

// slotSQL is what a person types to see the same.
const slotSQL = "SELECT *, pg_current_wal_lsn() FROM pg_replication_slots WHERE slot_name = '%s'"

// inspectSlot shows the relay's slot.
func inspectSlot(ctx context.Context, cfg config.Config, out io.Writer, format string, log zerolog.Logger) error {
	return withServer(ctx, cfg, log, func(p *parts, srv *replication.Server) error {
		slot, err := replication.Inspect(ctx, srv.Conn(), cfg.Outbox.Slot)
		if errors.Is(err, replication.ErrNoSlot) {
			return fault.New(fault.SlotMissing, "slot %s on %s", cfg.Outbox.Slot, srv.Describe()).
				WithWhy("there is no slot of this name").
				WithFix("outbox-relay slot list; outbox-relay init, if this relay is new")
		}
		if err != nil {
			return fault.Wrap(err, fault.PostgresLost, "inspect slot")
		}
		v := viewOf(slot)
		if slot.Active {
			v.Holder = replication.WhoHolds(ctx, srv.Conn(), slot.ActivePID).String()
		}
		if format == formatJSON {
			return writeJSON(out, v)
		}
		w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
		fmt.Fprintf(w, "slot\t%s (%s, database %s)\n", v.Name, v.Plugin, v.Database)
		fmt.Fprintf(w, "held by\t%s\n", orNobody(v.Holder))
		fmt.Fprintf(w, "WAL status\t%s\n", v.WALStatus)
		fmt.Fprintf(w, "retained WAL\t%s (from %s to %s)\n", size(v.RetainedBytes), v.RestartLSN, v.CurrentLSN)
		fmt.Fprintf(w, "not confirmed\t%s (from %s)\n", size(v.LagBytes), v.ConfirmedLSN)
		if v.SafeBytes != nil {
			fmt.Fprintf(w, "until lost\t%s of further WAL\n", size(*v.SafeBytes))
		} else {
			fmt.Fprintf(w, "until lost\tno limit: the disk is the limit (max_slot_wal_keep_size = -1)\n")
		}
		fmt.Fprintf(w, "SQL\t"+slotSQL+"\n", v.Name)
		return w.Flush()
	})
}

// listSlots shows every logical slot of the server.
func listSlots(ctx context.Context, cfg config.Config, out io.Writer, format string, log zerolog.Logger) error {
	return withServer(ctx, cfg, log, func(p *parts, srv *replication.Server) error {
		slots, err := replication.Slots(ctx, srv.Conn())
		if err != nil {
			return fault.Wrap(err, fault.PostgresLost, "list slots")
		}
		views := make([]slotView, len(slots))
		for i, s := range slots {
			views[i] = viewOf(s)
		}
		if format == formatJSON {
			return writeJSON(out, views)
		}
		w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "SLOT\tDATABASE\tPLUGIN\tACTIVE\tWAL STATUS\tRETAINED\tNOT CONFIRMED\tCONFIRMED")
		for _, v := range views {
			fmt.Fprintf(w, "%s\t%s\t%s\t%t\t%s\t%s\t%s\t%s\n", v.Name, v.Database, v.Plugin, v.Active, v.WALStatus,
				size(v.RetainedBytes), size(v.LagBytes), v.ConfirmedLSN)
		}
		return w.Flush()
	})
}

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
	return w.Flush()
}

func viewOfCheckpoint(state checkpoint.State, topic string) checkpointView {
	c := state.Last
	return checkpointView{
		Seq: c.Seq, Position: c.Pos.String(), Cut: c.Pos.Cut(), LastXID: c.LastTx.XID, LastCommit: c.LastTx.CommitLSN.String(),
		RowsTotal: c.RowsTotal, LettersTotal: c.LettersTotal, SessionID: c.SessionID, SessionNo: c.SessionNo,
		Host: c.Host, PID: c.PID, Version: c.Version, Time: c.Time, Topic: topic, Offset: state.LastOffset,
		Slot: c.Source.Slot, Database: c.Source.Database, SystemID: c.Source.SystemID, Override: c.Override,
	}
}

func orNobody(s string) string {
	if s == "" {
		return "nobody"
	}
	return s
}

// size prints bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, suffix := float64(n)/unit, 0
	for v >= unit && suffix < 3 {
		v, suffix = v/unit, suffix+1
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGT"[suffix])
}
