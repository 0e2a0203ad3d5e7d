package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
)

// standIn is the least thing that could be called a relay: one Kafka
// transaction per source transaction, with the checkpoint in it. It lets the
// demo be tested against relays that break their word, which the real one
// cannot be asked to do. The fault is chosen by an argument.
type standIn struct {
	fault   string // "", "lose", "double", "swap", "ghost", "halt"
	env     func(string) string
	client  *kgo.Client
	point   checkpoint.Checkpoint
	session string
	done    int // transactions
}

const standInFault = "STANDIN_FAULT"

func runStandIn() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s := &standIn{fault: os.Getenv(standInFault), env: os.Getenv, session: uuid.NewString()}
	if s.fault == "halt" {
		return errors.New("OBX-0000 told to halt")
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.client.Close()
	err := s.stream(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *standIn) prepare(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.env("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	statements, err := outbox.Schema(s.env("OUTBOX_TABLE"))
	if err != nil {
		return err
	}
	var there bool
	if err := conn.QueryRow(ctx, "SELECT count(*) > 0 FROM pg_replication_slots WHERE slot_name = $1", s.env("OUTBOX_SLOT")).Scan(&there); err != nil {
		return err
	}
	if !there {
		statements = append(statements,
			fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s WITH (publish = 'insert')", s.env("OUTBOX_PUBLICATION"), s.env("OUTBOX_TABLE")),
			fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')", s.env("OUTBOX_SLOT")))
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
	}
	s.client, err = kgo.NewClient(
		kgo.SeedBrokers(strings.Split(s.env("KAFKA_BROKERS"), ",")...),
		kgo.TransactionalID("standin"), kgo.TransactionTimeout(time.Minute), kgo.ProducerLinger(0),
	)
	if err != nil {
		return err
	}
	admin := kadm.NewClient(s.client)
	for topic, partitions := range map[string]int32{
		s.env("KAFKA_EVENTS_TOPIC"): 3, s.env("KAFKA_DLQ_TOPIC"): 1, s.env("KAFKA_CHECKPOINT_TOPIC"): 1,
	} {
		if _, err := admin.CreateTopic(ctx, partitions, 1, nil, topic); err != nil && !strings.Contains(err.Error(), "TOPIC_ALREADY_EXISTS") {
			return err
		}
	}
	// Beginning and aborting fences the predecessor and ends its transaction.
	if err := errors.Join(s.client.BeginTransaction(), s.client.EndTransaction(ctx, kgo.TryAbort)); err != nil {
		return err
	}
	if _, _, err := s.client.ProducerID(ctx); err != nil {
		return err
	}
	log := checkpoint.Log{Topic: s.env("KAFKA_CHECKPOINT_TOPIC"), Name: s.env("OUTBOX_NAME"), Opts: []kgo.Opt{
		kgo.SeedBrokers(strings.Split(s.env("KAFKA_BROKERS"), ",")...),
	}}
	state, err := log.Peek(ctx)
	if err == nil && state.Last != nil {
		s.point = *state.Last
	}
	return err
}

func (s *standIn) stream(ctx context.Context) error {
	cfg, err := pgconn.ParseConfig(s.env("DATABASE_URL"))
	if err != nil {
		return err
	}
	cfg.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	err = pglogrepl.StartReplication(ctx, conn, s.env("OUTBOX_SLOT"), 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names '" + s.env("OUTBOX_PUBLICATION") + "'"},
	})
	if err != nil {
		return err
	}
	var decoder *outbox.Decoder
	var begin replication.Message
	var records []outbox.Record
	for {
		msg, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		data, ok := msg.(*pgproto3.CopyData)
		if !ok || data.Data[0] != pglogrepl.XLogDataByteID {
			continue
		}
		// Decoded values alias the message, which the connection reuses.
		body := slices.Clone(data.Data[25:])
		var m replication.Message
		if err := replication.Decode(body, &m); err != nil {
			return err
		}
		switch m.Kind {
		case replication.KindBegin:
			begin, records = m, nil
		case replication.KindRelation:
			cols := make([]outbox.Column, len(m.Relation.Columns))
			for i, c := range m.Relation.Columns {
				cols[i] = outbox.Column{Name: c.Name, TypeOID: c.TypeOID}
			}
			if decoder, err = outbox.NewDecoder(outbox.DefaultColumns(), cols); err != nil {
				return err
			}
		case replication.KindInsert:
			var r outbox.Record
			if err := decoder.Decode(m.Values, &r); err != nil {
				return err
			}
			records = append(records, r)
		case replication.KindCommit:
			if m.CommitLSN >= s.point.Pos.EndLSN && len(records) > 0 {
				if err := s.publish(ctx, begin, m, records); err != nil {
					return err
				}
			}
		}
	}
}

func (s *standIn) publish(ctx context.Context, begin, commit replication.Message, records []outbox.Record) error {
	if s.done++; s.done == 3 {
		switch s.fault {
		case "lose":
			records = records[1:]
		case "double":
			records = append(records, records[0])
		case "ghost":
			ghost := records[0]
			ghost.ID = uuid.NewString()
			records = append(records, ghost)
		}
	}
	if s.fault == "swap" {
		slices.Reverse(records)
	}
	if err := s.client.BeginTransaction(); err != nil {
		return err
	}
	for _, r := range records {
		rec := &kgo.Record{Topic: s.env("KAFKA_EVENTS_TOPIC"), Key: []byte(r.AggregateID), Value: r.Payload, Headers: []kgo.RecordHeader{{Key: outbox.HeaderID, Value: []byte(r.ID)}}}
		if _, asked := r.Partition.Get(); r.Topic == ".." || asked {
			rec.Topic = s.env("KAFKA_DLQ_TOPIC")
		}
		s.client.Produce(ctx, rec, nil)
	}
	s.point = checkpoint.Checkpoint{
		Seq: s.point.Seq + 1, SessionID: s.session, SessionNo: s.point.SessionNo,
		Pos:    checkpoint.Position{Timeline: 1, CommitLSN: commit.CommitLSN, EndLSN: commit.EndLSN},
		LastTx: checkpoint.Transaction{CommitLSN: commit.CommitLSN, EndLSN: commit.EndLSN, XID: begin.XID},
		Source: checkpoint.Source{SystemID: "1", Database: "postgres", Slot: s.env("OUTBOX_SLOT")},
		Time:   time.Now(),
	}
	rec, err := s.point.Record(s.env("KAFKA_CHECKPOINT_TOPIC"), s.env("OUTBOX_NAME"))
	if err != nil {
		return err
	}
	s.client.Produce(ctx, rec, nil)
	return errors.Join(s.client.Flush(ctx), s.client.EndTransaction(ctx, kgo.TryCommit))
}
