package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// letterDesk is where people, and the scheduler, deal with dead letters.
type letterDesk struct {
	*parts
	replayer *dlq.Replayer
}

func newLetterDesk(p *parts, by string) (*letterDesk, error) {
	options := func() ([]kgo.Opt, error) { return p.client("dlq") }
	if _, err := options(); err != nil {
		return nil, err
	}
	topic := p.cfg.Kafka.DLQTopic
	d := &letterDesk{parts: p}
	d.replayer = &dlq.Replayer{
		Name: p.cfg.Outbox.Name, By: by, View: &dlq.View{Topic: topic, Options: options},
		TransactionTimeout: p.cfg.Kafka.TransactionTimeout,
		Partitioner:        sink.Partitioner(), Place: sink.SetPartition,
		Denied: []string{topic, dlq.StateTopic(topic), p.cfg.Kafka.CheckpointTopic},
		Log:    p.log.With().Str("component", "dlq").Logger(), Metrics: p.dlq, Turn: p.turn,
	}
	if p.cfg.Database.URL.Set() {
		d.replayer.Table = &dlq.Table{Columns: p.cfg.Outbox.Columns, Tombstones: p.cfg.Outbox.Tombstones, Rows: d.rows}
	}
	return d, nil
}

// schedule is when letters that may heal are tried again.
func (p *parts) schedule() dlq.Schedule { return scheduleOf(p.cfg.Outbox) }

func scheduleOf(o config.Outbox) dlq.Schedule {
	return dlq.Schedule{Base: o.DLQRetryBase, Max: o.DLQRetryMax, Attempts: o.DLQRetryAttempts}
}

// rows fetches rows of the outbox table, in the text form that the stream has.
// A connection for each: few letters are too large for their topic.
func (d *letterDesk) rows(ctx context.Context, id string) ([]outbox.Column, [][][]byte, error) {
	src, err := d.sourceConfig(false)
	if err != nil {
		return nil, nil, err
	}
	srv, err := replication.Connect(ctx, src)
	if err != nil {
		return nil, nil, err
	}
	defer srv.Close()
	conn := srv.Conn().PgConn()
	// The forms that the stream has, whatever the database's defaults are.
	if err := conn.Exec(ctx, "SET bytea_output = hex; SET datestyle = ISO; SET extra_float_digits = 1").Close(); err != nil {
		return nil, nil, fault.Wrap(err, fault.PostgresLost, "prepare to read from %s", d.table)
	}
	sql := fmt.Sprintf("SELECT * FROM %s WHERE %s = $1", d.table.SQL(), pgx.Identifier{d.cfg.Outbox.Columns.ID}.Sanitize())
	res := conn.ExecParams(ctx, sql, [][]byte{[]byte(id)}, nil, nil, nil).Read()
	if bad := (*pgconn.PgError)(nil); errors.As(res.Err, &bad) && len(bad.Code) == 5 && bad.Code[:2] == "22" {
		return nil, nil, nil // the id is no value of the column's type, so no row has it
	}
	if res.Err != nil {
		return nil, nil, fault.Wrap(res.Err, fault.PostgresLost, "read row from %s", d.table)
	}
	columns := make([]outbox.Column, len(res.FieldDescriptions))
	for i, f := range res.FieldDescriptions {
		columns[i] = outbox.Column{Name: f.Name, TypeOID: f.DataTypeOID}
	}
	return columns, res.Rows, nil
}

// change is a replay or a purge as it was asked for.
type change struct {
	selection
	job           dlq.Job
	filter        dlq.Filter
	includeParked bool
	sure          int // up to so many without --yes
}

// change chooses letters and does the job on them.
func (d *letterDesk) change(ctx context.Context, c change, out, notes io.Writer, format string) error {
	if c.job.FromTable && d.replayer.Table == nil {
		return fault.New(fault.ConfigMissing, "--from-table needs DATABASE_URL").WithFix("DATABASE_URL=postgres://user@host:5432/database")
	}
	if c.job.To != "" {
		if err := d.replayer.CheckTo(c.job.To); err != nil {
			return err
		}
	}
	if err := d.reach(ctx, "dlq"); err != nil {
		return err
	}
	held, err := d.heldBack(ctx, c.includeParked)
	if err != nil {
		return err
	}
	var refs []dlq.Ref
	order := dlq.Order{All: d.cfg.Outbox.ParkKeys}
	sum := changed{Action: string(c.job.Action), DryRun: c.DryRun}
	unmet := map[string]bool{} // ids that were asked for
	for _, id := range c.filter.IDs {
		unmet[id] = true
	}
	err = d.replayer.View.Letters(ctx, func(i *dlq.Item) error {
		chosen := c.filter.Match(i)
		if chosen && len(unmet) > 0 {
			delete(unmet, i.ID())
			delete(unmet, (&dlq.Mark{Letter: i.Where}).Key())
		}
		if chosen && i.Reason == dlq.Parked && held(i) {
			sum.Parked++
			chosen = false
		}
		if i.Status.Open {
			order.Add(i, chosen)
		}
		if !chosen {
			return nil
		}
		refs = append(refs, dlq.RefOf(i))
		return nil
	}, d.malformed(notes))
	if err != nil {
		return err
	}
	if len(refs) == 0 && sum.Parked == 0 && len(c.filter.IDs) > 0 {
		return fault.New(fault.LetterUnknown, "no open letter has one of these ids")
	}
	for _, id := range slices.Sorted(maps.Keys(unmet)) {
		fmt.Fprintf(notes, "%s no open letter of event %s\n", fault.LetterUnknown.ID, cell(id, 64))
	}
	if c.job.Action == dlq.Replayed {
		overtaking := order.Overtaking()
		n := len(refs)
		refs = slices.DeleteFunc(refs, func(r dlq.Ref) bool { return overtaking[r.Where(d.replayer.View.Topic)] })
		sum.Waiting = n - len(refs)
	}
	dlq.SortRefs(refs)
	sum.Matching = len(refs)
	if c.Max > 0 && len(refs) > c.Max {
		refs = refs[:c.Max]
	}
	switch {
	case c.DryRun:
		if err := d.preview(ctx, c.job, refs, &sum); err != nil {
			return err
		}
		return sum.print(out, notes, format)
	case len(refs) > c.sure && !c.Yes:
		return fault.New(fault.NeedsYes, "%d letters would be %s", len(refs), c.job.Action)
	}
	c.job.Report = sum.add
	err = d.replayer.Run(ctx, c.job, refs)
	if perr := sum.print(out, notes, format); err == nil {
		err = perr
	}
	if err == nil && sum.Refused > 0 {
		return exitStatus(fault.Finding.ExitCode())
	}
	return err
}

// heldBack tells which parked letters are the relay's to send on: all, unless
// its checkpoint was asked for the keys that it still holds.
func (d *letterDesk) heldBack(ctx context.Context, ask bool) (func(*dlq.Item) bool, error) {
	if !ask {
		return func(*dlq.Item) bool { return true }, nil
	}
	log, err := d.checkpointLog()
	if err != nil {
		return nil, err
	}
	state, err := log.Peek(ctx)
	if err != nil {
		return nil, kafka.Classify("read checkpoint", err)
	}
	if state.Last == nil {
		return nil, fault.New(fault.CheckpointMissing, "topic %s does not say which keys are parked", log.Topic)
	}
	keys := map[string]bool{}
	for _, k := range state.Last.Parked {
		keys[k.Hash] = true
	}
	return func(i *dlq.Item) bool {
		hash, ok := dlq.KeyHash(i.Record("", 0))
		return !ok || keys[hash]
	}, nil
}

// malformed tells about records in the topic that are no letters.
func (d *letterDesk) malformed(notes io.Writer) func(dlq.Spot, error) {
	return func(at dlq.Spot, err error) {
		fmt.Fprintln(notes, fault.Wrap(err, fault.LetterMalformed, "partition %d, offset %d", at.Partition, at.Offset))
	}
}
