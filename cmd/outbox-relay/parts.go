package main

import (
	"context"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/breaker"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/provision"
	"github.com/holdwall/outbox-relay/internal/relay"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// parts builds the rooms of the program from its settings. Nothing is opened
// or started here.
type parts struct {
	cfg   config.Config
	log   zerolog.Logger
	lines zerolog.Logger // for the Kafka client's own lines
	reg   *prometheus.Registry
	table outbox.Table

	source  *replication.Metrics
	sink    *sink.Metrics
	relay   *relay.Metrics
	kafka   *kafka.Metrics
	breaker *breaker.Metrics
	dlq     *dlq.Metrics
	trace   *kafka.Trace
	turn    chan struct{} // of those who replay letters
}

func newParts(cfg config.Config, log zerolog.Logger) *parts {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(),
	)
	return &parts{
		cfg: cfg, log: log, lines: log, reg: reg, table: cfg.Outbox.Table,
		source: replication.NewMetrics(reg), sink: sink.NewMetrics(reg),
		relay: relay.NewMetrics(reg, cfg.Outbox.Name), kafka: kafka.NewMetrics(reg), breaker: breaker.NewMetrics(reg), dlq: dlq.NewMetrics(reg), trace: kafka.NewTrace(),
		turn: make(chan struct{}, 1),
	}
}

// once is for commands that end with their first error: what the Kafka client
// says on the way to it is in the error, with a code. LOG_LEVEL=debug shows it.
func (p *parts) once() *parts {
	if p.log.GetLevel() > zerolog.DebugLevel {
		p.lines = zerolog.Nop()
	}
	return p
}

func buildInfo() prometheus.Collector {
	b := build()
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "outbox_build_info", Help: "1, with what was built.",
	}, []string{"version", "commit", "goversion"})
	g.WithLabelValues(b.Version, b.Commit, b.GoVersion).Set(1)
	return g
}

// client returns the options of a Kafka client of the given role.
func (p *parts) client(role string) ([]kgo.Opt, error) {
	c := p.connection()
	return c.Options(role, p.lines, p.kafka)
}

func (p *parts) connection() kafka.Config {
	c := p.cfg.Kafka.Client
	c.ClientID, c.Trace = "outbox-relay-"+p.cfg.Outbox.Name, p.trace
	return c
}

// reach tells within KAFKA_CONNECTION_TIMEOUT what keeps a client of the given
// role from Kafka. Whoever opens one asks this first: the client itself would
// try for half a minute.
func (p *parts) reach(ctx context.Context, role string) error {
	c := p.connection()
	return c.Reach(ctx, role, p.lines, p.kafka)
}

func (p *parts) sourceConfig(admin bool) (replication.Config, error) {
	conn, err := p.cfg.Database.Conn()
	if admin {
		conn, err = p.cfg.Database.AdminConn()
	}
	if err != nil {
		return replication.Config{}, err
	}
	return replication.Config{
		Conn: conn, Slot: p.cfg.Outbox.Slot, Publication: p.cfg.Outbox.Publication,
		Schema: p.table.Schema, Table: p.table.Name, MaxRowBytes: int(p.cfg.Outbox.MaxRowBytes),
		SenderTimeout: p.cfg.Outbox.SenderTimeout,
	}, nil
}

func (p *parts) sinkConfig() sink.Config {
	k := p.cfg.Kafka
	c := sink.Config{
		Name: p.cfg.Outbox.Name, Version: build().Version, CheckpointTopic: k.CheckpointTopic,
		TransactionTimeout: k.TransactionTimeout, ReadBackTimeout: k.TransactionTimeout / 2,
		// A group is at most what is complete and what is open, both up to the
		// limit and a part, and the checkpoint; or parked letters and a mark for
		// each.
		MaxRecords: 2*max(p.cfg.Outbox.BatchMax, dlq.DefaultMaxLetters) + 1024,
	}
	if k.CreateTopics {
		c.CreateTopic = func(ctx context.Context, adm *kadm.Client, name string) error {
			for _, t := range p.topics() {
				if t.Name == name {
					return t.Create(ctx, adm)
				}
			}
			return provision.Topic{Name: name, Partitions: -1}.Create(ctx, adm)
		}
	}
	return c
}

// topics are those that exist before the first row.
func (p *parts) topics() []provision.Topic {
	k := p.cfg.Kafka
	all := []provision.Topic{provision.CheckpointTopic(k.CheckpointTopic)}
	if p.cfg.Outbox.TopicTemplate == "" {
		all = append(all, provision.Topic{Name: k.EventsTopic, Partitions: -1})
	}
	for _, t := range dlq.Topics(k.DLQTopic, 1<<20) {
		all = append(all, provision.Topic{Name: t.Name, Partitions: t.Partitions, Configs: t.Configs})
	}
	return all
}

func (p *parts) plan() (*provision.Plan, error) {
	src, err := p.sourceConfig(true)
	if err != nil {
		return nil, err
	}
	opts, err := p.client("init")
	if err != nil {
		return nil, err
	}
	role, err := p.sourceConfig(false)
	if err != nil {
		return nil, err
	}
	return &provision.Plan{
		Role: role.Conn.User, Canary: p.cfg.Outbox.Canary, Source: src, Table: p.table, Columns: p.cfg.Outbox.Columns, Sink: p.sinkConfig(), Kafka: opts, Topics: p.topics(), Log: p.log,
	}, nil
}

func (p *parts) translator() relay.TranslatorConfig {
	k := p.cfg.Kafka
	return relay.TranslatorConfig{
		Name: p.cfg.Outbox.Name, Version: build().Version, Columns: p.cfg.Outbox.Columns, LetterTopic: k.DLQTopic, Retry: p.schedule(),
		Router: sink.RouterConfig{
			EventsTopic: k.EventsTopic, TopicTemplate: p.cfg.Outbox.TopicTemplate, Tombstones: p.cfg.Outbox.Tombstones,
			DeniedTopics: []string{k.CheckpointTopic, k.DLQTopic, dlq.StateTopic(k.DLQTopic)},
		},
	}
}

// letters is what the relay does about rows that can be no event.
func (p *parts) letters() *relay.Letters {
	topic := p.cfg.Kafka.DLQTopic
	shelf := &dlq.Shelf{Topic: topic, Relay: p.cfg.Outbox.Name, Forgive: !p.cfg.Outbox.ParkKeys, Options: func() ([]kgo.Opt, error) { return p.client("letters") }}
	return &relay.Letters{
		Topic: topic, Forbid: p.cfg.Outbox.ErrorsTolerance == "none", MaxPerMinute: p.cfg.Outbox.LettersPerMinute,
		Park: p.cfg.Outbox.ParkKeys, Write: relay.LetterWriter(p.translator()), Look: shelf.Look,
	}
}

// checkpointLog reads the checkpoint topic.
func (p *parts) checkpointLog() (*checkpoint.Log, error) {
	opts, err := p.client("inspect")
	if err != nil {
		return nil, err
	}
	return &checkpoint.Log{Topic: p.cfg.Kafka.CheckpointTopic, Name: p.cfg.Outbox.Name, Opts: opts}, nil
}

// instance names this process among its replicas.
func instance() string {
	host, _ := os.Hostname()
	return host
}
