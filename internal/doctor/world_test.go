package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/doctor"
	"github.com/holdwall/outbox-relay/internal/provision"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
	"github.com/holdwall/outbox-relay/test/harness"
)

// production are settings of a server about which nothing is to be said.
func production() map[string]string {
	return map[string]string{"max_slot_wal_keep_size": "10GB", "max_prepared_transactions": "4", "wal_sender_timeout": "60s"}
}

// server is a Postgres that is run as one should be.
func server(t *testing.T, settings map[string]string) *harness.PostgresServer {
	t.Helper()
	all := production()
	for name, value := range settings {
		all[name] = value
	}
	return harness.NewPostgres(t, harness.PostgresConfig{Fsync: true, Settings: all})
}

// world is a relay that is initialised, on a database and a cluster that are
// well, with settings that are.
type world struct {
	pg      *harness.PostgresServer
	db      *harness.Database
	role    string // of the relay; no superuser
	cluster *kfake.Cluster
	env     map[string]string
	limits  doctor.Limits
	secrets map[string]string
	root    string
	only    []doctor.Group
}

// newWorld is the healthy set-up; nothing is initialised yet.
func newWorld(t *testing.T, pg *harness.PostgresServer, opts ...kfake.Opt) *world {
	t.Helper()
	w := &world{pg: pg, db: pg.NewDatabase(t), limits: doctor.DefaultLimits()}
	w.role = w.db.Name + "_relay"
	w.db.Exec(t, "CREATE ROLE "+w.role+" LOGIN REPLICATION")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		conn, err := pgconn.Connect(ctx, pg.URL(""))
		if err != nil {
			return // the test was about that
		}
		defer conn.Close(ctx)
		if err := conn.Exec(ctx, "DROP ROLE "+w.role).Close(); err != nil {
			t.Error(err)
		}
	})
	var err error
	w.cluster, err = kfake.NewCluster(append([]kfake.Opt{
		kfake.NumBrokers(3), kfake.ClusterID("the-cluster"),
		kfake.BrokerConfigs(map[string]string{"min.insync.replicas": "2"}),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cluster.Close)
	w.env = map[string]string{
		"DATABASE_URL": as(t, w.db.URL(), w.role), "KAFKA_BROKERS": strings.Join(w.cluster.ListenAddrs(), ","),
		"OUTBOX_SLOT": w.db.Slot("relay"), "KAFKA_CONNECTION_TIMEOUT": "2s", "HEALTH_ADDR": "127.0.0.1:0",
	}
	return w
}

// as is a database URL with another user.
func as(t *testing.T, text, user string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(user)
	return u.String()
}

func (w *world) settings(t *testing.T) (config.Config, config.Problems, []config.Warning) {
	t.Helper()
	var environ []string
	for k, v := range w.env {
		environ = append(environ, k+"="+v)
	}
	loader := config.NewLoader(environ)
	parser, err := kong.New(&struct{}{}, loader.Options()...)
	if err == nil {
		_, err = parser.Parse(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := loader.Load(config.NeedDatabase, config.NeedKafka)
	var problems config.Problems
	errors.As(err, &problems)
	return cfg, problems, loader.Warnings()
}

// init does what `outbox-relay init` does, as the superuser.
func (w *world) init(t *testing.T) {
	t.Helper()
	cfg, problems, _ := w.settings(t)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	conn, err := pgconn.ParseConfig(w.db.URL())
	if err != nil {
		t.Fatal(err)
	}
	k, o := cfg.Kafka, cfg.Outbox
	plan := provision.Plan{
		Source: replication.Config{Conn: conn, Slot: o.Slot, Publication: o.Publication, Schema: o.Table.Schema, Table: o.Table.Name},
		Table:  o.Table, Columns: o.Columns,
		Sink: sink.Config{
			Name: o.Name, Version: "v0", CheckpointTopic: k.CheckpointTopic,
			TransactionTimeout: 10 * time.Second, ReadBackTimeout: 5 * time.Second, MaxRecords: 10,
		},
		Kafka:  []kgo.Opt{kgo.SeedBrokers(w.cluster.ListenAddrs()...)},
		Topics: []provision.Topic{provision.CheckpointTopic(k.CheckpointTopic), {Name: k.EventsTopic, Partitions: 3}},
		Log:    zerolog.Nop(),
	}
	for _, topic := range dlq.Topics(k.DLQTopic, 1<<20) {
		plan.Topics = append(plan.Topics, provision.Topic{Name: topic.Name, Partitions: topic.Partitions, Configs: topic.Configs})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := plan.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// configure changes one setting of a topic.
func (w *world) configure(t *testing.T, topic, key, value string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	answers, err := kadm.NewClient(cl).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}, topic)
	if err == nil {
		_, err = answers.On(topic, func(a *kadm.AlterConfigsResponse) error { return a.Err })
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) examine(t *testing.T) doctor.Report {
	t.Helper()
	cfg, problems, warnings := w.settings(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := doctor.Run(ctx, doctor.Config{Settings: cfg, Problems: problems, Warnings: warnings, Only: w.only, Limits: w.limits, SecretFiles: w.secrets, Root: w.root, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	for _, res := range r.Results {
		if bad := res.Status == doctor.Warn || res.Status == doctor.Fail; bad != (res.Fault != nil) {
			t.Errorf("%s %s: %s with fault %v", res.Group, res.Check, res.Status, res.Fault)
		}
		if res.Fault != nil && !doctor.Declares(res.Group, res.Check, res.Fault.Code) {
			t.Errorf("%s %s says %s, which it has not declared", res.Group, res.Check, res.Fault.Code.ID)
		}
		if res.Finding == "" {
			t.Errorf("%s %s found nothing to say", res.Group, res.Check)
		}
	}
	return r
}

// troubles are the results that did not pass, as "status group code".
func troubles(r doctor.Report) []string {
	all := []string{}
	for _, res := range r.Results {
		if res.Fault != nil {
			all = append(all, fmt.Sprintf("%s %s %s", res.Status, res.Group, res.Fault.Code.ID))
		}
	}
	return all
}

// text is a report for the log of a test.
func text(r doctor.Report) string {
	var b strings.Builder
	for _, res := range r.Results {
		fmt.Fprintf(&b, "%-5s %-12s %-18s %s", res.Status, res.Group, res.Check, res.Finding)
		if f := res.Fault; f != nil {
			fmt.Fprintf(&b, " | %s | %s | %s", f.Code.ID, f.Reason(), f.Remedy())
		}
		b.WriteByte('\n')
	}
	return b.String()
}
