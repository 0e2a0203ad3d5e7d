package doctor

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
	"github.com/holdwall/outbox-relay/replication"
)

// facts are those of a server of the given version that is well.
func facts(version int) *world {
	w := &world{Config: Config{Settings: config.Default(), Limits: DefaultLimits()}}
	w.Settings.Database.URL = secret.New("postgres://relay@127.0.0.1/shop")
	w.pg = &postgres{
		server: serverFacts{
			Version: version, Database: "shop", Encoding: "UTF8", User: "relay", RoleLimit: -1, BaseLimit: -1,
			Settings: map[string]knob{
				"wal_level": {"logical", ""}, "max_replication_slots": {"10", ""}, "max_wal_senders": {"10", ""},
				"wal_sender_timeout": {"60000", "ms"}, "max_slot_wal_keep_size": {"10240", "MB"}, "idle_replication_slot_timeout": {"0", "s"},
				"logical_decoding_work_mem": {"65536", "kB"}, "idle_session_timeout": {"0", "ms"}, "fsync": {"on", ""},
				"synchronized_standby_slots": {"", ""},
			},
		},
		slots: []slotFacts{{Name: "outbox_relay", Type: "logical", Database: "shop", Idle: -1}},
		table: &tableFacts{
			Kind: "r", Persistence: "p", Owner: "admin", Identity: "d", Primary: true, Unique: []string{"id"},
		},
		publication: &publicationFacts{Insert: true},
		slot: &replication.Slot{
			Name: "outbox_relay", Plugin: "pgoutput", Database: "shop", Failover: version >= 170000, RestartLSN: 100, ConfirmedLSN: 200, CurrentLSN: 300, WALStatus: "reserved", SafeBytes: 1 << 30,
		},
	}
	w.host = &machine{}
	w.kafka = &cluster{
		reached: true, brokers: []kadm.BrokerDetail{{NodeID: 0, Host: "b-0", Port: 9092}, {NodeID: 1, Host: "b-1", Port: 9092}, {NodeID: 2, Host: "b-2", Port: 9092}},
		broker:      map[string]string{"transaction.max.timeout.ms": "900000", "transactional.id.expiration.ms": "604800000"},
		events:      map[string]string{"max.message.bytes": "1048588", "message.timestamp.before.max.ms": "9223372036854775807"},
		logReplicas: 3, log: map[string]string{"min.insync.replicas": "2"},
	}
	for _, name := range w.Settings.Outbox.Columns.Names() {
		oid := map[string]uint32{"headers": 3802, "payload": 3802, "kafka_partition": 23, "created_at": 1184, "payload_bytes": 17}[name]
		if oid == 0 {
			oid = 25
		}
		w.pg.table.Columns = append(w.pg.table.Columns, struct {
			Name      string `json:"name"`
			Type      uint32 `json:"type"`
			Generated bool   `json:"generated"`
		}{name, oid, false})
	}
	return w
}

// say is what a check answers, as "status code".
func (w *world) say(t *testing.T, name string, group Group) []string {
	t.Helper()
	for _, c := range checks() {
		if c.name != name || c.group != group {
			continue
		}
		var all []string
		for _, r := range c.run(w) {
			if r.Fault != nil {
				all = append(all, fmt.Sprintf("%s %s", r.Status, r.Fault.Code.ID))
			} else if r.Status != Pass {
				all = append(all, string(r.Status))
			}
		}
		return all
	}
	t.Fatalf("there is no check %s of %s", name, group)
	return nil
}

// What the servers of the other tests cannot be brought to is shown with facts.
func TestJudgements(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		group   Group
		check   string
		version int
		spoil   func(w *world)
		want    []string
	}{
		"plaintext to another host": {Settings, "database_tls", 150000, func(w *world) {
			w.Settings.Database.URL = secret.New("postgres://relay@db-1/shop?sslmode=prefer")
		}, []string{"warn OBX-1300"}},
		"unverified server": {Settings, "database_tls", 150000, func(w *world) {
			w.Settings.Database.URL = secret.New("postgres://relay@db-1/shop?sslmode=require")
		}, []string{"warn OBX-1300"}},
		"verified server": {Settings, "database_tls", 150000, func(w *world) { w.Settings.Database.URL = secret.New("postgres://relay@db-1/shop?sslmode=verify-full") }, nil},
		"bytes for text":  {Postgres, "encoding", 150000, func(w *world) { w.pg.server.Encoding = "SQL_ASCII" }, []string{"warn OBX-3208"}},
		"catalog locked":  {Postgres, "catalogs", 150000, func(w *world) { w.pg.unread = fault.New(fault.CatalogUnreadable, "read x") }, []string{"fail OBX-3212"}},
		"wal_level":       {Postgres, "wal_level", 150000, func(w *world) { w.pg.server.Settings["wal_level"] = knob{"replica", ""} }, []string{"fail OBX-3010"}},
		"no slot left":    {Postgres, "slots_free", 150000, func(w *world) { w.pg.slot, w.pg.server.Settings["max_replication_slots"] = nil, knob{"1", ""} }, []string{"fail OBX-3105"}},
		"slots are idle":  {Postgres, "idle_slot_timeout", 180000, func(w *world) { w.pg.server.Settings["idle_replication_slot_timeout"] = knob{"3600", "s"} }, []string{"warn OBX-4208"}},
		"slots may idle":  {Postgres, "idle_slot_timeout", 180000, func(*world) {}, nil},
		"one connection":  {Postgres, "connections", 150000, func(w *world) { w.pg.server.BaseLimit = 1 }, []string{"warn OBX-3200"}},
		"pooler":          {Postgres, "replication", 150000, func(w *world) { w.pg.replication = &pgconn.PgError{Code: "08P01"} }, []string{"fail OBX-3211"}},
		"no walsender": {Postgres, "replication", 150000, func(w *world) {
			w.pg.replication = &pgconn.PgError{Code: "53300", Message: "number of requested standby connections exceeds max_wal_senders"}
		}, []string{"fail OBX-3105"}},
		"pg_hba":          {Postgres, "replication", 150000, func(w *world) { w.pg.replication = fault.New(fault.PostgresAuth, "no entry") }, []string{"fail OBX-3002"}},
		"slot is lost":    {Slot, "exists", 150000, func(w *world) { w.pg.unfit = fault.New(fault.SlotLost, "lost") }, []string{"fail OBX-3103"}},
		"slot is next":    {Slot, "exists", 150000, func(w *world) { w.pg.slot.WALStatus = "unreserved" }, []string{"fail OBX-4203"}},
		"half of the WAL": {Slot, "budget", 150000, func(w *world) { w.pg.slot.CurrentLSN = 6 << 30 }, []string{"warn OBX-4200"}},
		"most of the WAL": {Slot, "budget", 150000, func(w *world) { w.pg.slot.CurrentLSN = 9 << 30 }, []string{"fail OBX-4200"}},
		"idle for a day":  {Slot, "idle", 170000, func(w *world) { w.pg.slots[0].Idle = 86400; w.pg.ckpt = ran() }, []string{"warn OBX-4206"}},
		"idle since init": {Slot, "idle", 170000, func(w *world) { w.pg.slots[0].Idle = 86400 }, nil},
		"not for failover": {Slot, "failover", 170000, func(w *world) {
			w.pg.slot.Failover = false
			w.pg.slots = append(w.pg.slots, slotFacts{Name: "standby_1", Type: "physical", Active: true})
		}, []string{"warn OBX-3213"}},
		"unguarded": {Slot, "failover", 170000, func(w *world) {
			w.pg.slots = append(w.pg.slots, slotFacts{Name: "standby_1", Type: "physical", Active: true})
		}, []string{"warn OBX-3214"}},
		"alone": {Slot, "failover", 170000, func(*world) {}, []string{"skip"}},
		"sync is off": {Slot, "standbys", 170000, func(w *world) {
			w.standbys = []standby{{host: "db-1"}, {host: "db-2", facts: standbyFacts{Recovery: true, Sync: "off"}}}
		}, []string{"warn OBX-3215"}},
		"no feedback": {Slot, "standbys", 170000, func(w *world) {
			w.standbys = []standby{{host: "db-2", facts: standbyFacts{Recovery: true, Sync: "on", Feedback: "off"}}}
		}, []string{"warn OBX-3215"}},
		"no slot there": {Slot, "standbys", 170000, func(w *world) {
			w.standbys = []standby{{host: "db-2", facts: standbyFacts{Recovery: true, Sync: "on", Feedback: "on", Primary: "standby_1"}}}
		}, []string{"warn OBX-3215"}},
		"standby is gone": {Slot, "standbys", 170000, func(w *world) { w.standbys = []standby{{host: "db-2", err: errors.New("no route")}} }, []string{"warn OBX-3215"}},
		"in sync": {Slot, "standbys", 170000, func(w *world) {
			w.standbys = []standby{{host: "db-2", facts: standbyFacts{Recovery: true, Sync: "on", Feedback: "on", Primary: "standby_1", Slot: true}}}
		}, nil},
		"clock is ahead":   {Host, "clock", 150000, func(w *world) { w.pg.skew = 90 * time.Second }, []string{"warn OBX-1316"}},
		"clock is in time": {Host, "clock", 150000, func(w *world) { w.pg.skew, w.pg.skewError = 6*time.Second, 2*time.Second }, nil},
		"slow resolver":    {Host, "resolver", 150000, func(w *world) { w.host.names = []lookup{{name: "db-1", took: 3 * time.Second}} }, []string{"warn OBX-1315"}},
		"superuser":        {Rights, "role", 150000, func(w *world) { w.pg.server.Super = true }, []string{"warn OBX-3300"}},
		"everybody writes": {Rights, "public", 150000, func(w *world) { w.pg.table.Public = []string{"INSERT"} }, []string{"warn OBX-3301"}},
		"principal is an administrator": {Rights, "principal", 150000, func(w *world) {
			w.Settings.Kafka.Client.SASL.Mechanism, w.kafka.operations = "plain", []kadm.ACLOperation{kmsg.ACLOperationAlter}
		}, []string{"warn OBX-3302"}},
		"transactional id is not granted": {Rights, "transactional_id", 150000, func(w *world) { w.kafka.denied = true }, []string{"fail OBX-5004"}},
		"transactions are too long":       {Kafka, "transaction_timeout", 150000, func(w *world) { w.kafka.broker["transaction.max.timeout.ms"] = "30000" }, []string{"fail OBX-5008"}},
		"ids are forgotten":               {Kafka, "transaction_expiry", 150000, func(w *world) { w.kafka.broker["transactional.id.expiration.ms"] = "60000" }, []string{"warn OBX-5110"}},
		"transaction hangs": {Kafka, "transaction_open", 150000, func(w *world) {
			w.kafka.transaction = &kadm.DescribedTransaction{State: "Ongoing", TimeoutMillis: 60000, StartTimestamp: time.Now().Add(-time.Hour).UnixMilli()}
		}, []string{"fail OBX-5111"}},
		"transactions in one copy":         {Kafka, "transaction_log", 150000, func(w *world) { w.kafka.logReplicas = 1 }, []string{"warn OBX-5115"}},
		"transactions acknowledged by one": {Kafka, "transaction_log", 150000, func(w *world) { w.kafka.log["min.insync.replicas"] = "1" }, []string{"warn OBX-5115"}},
		"events larger than rows":          {Kafka, "row_limit", 150000, func(w *world) { w.kafka.events["max.message.bytes"] = "134217728" }, []string{"warn OBX-5112"}},
		"old records are refused":          {Kafka, "timestamps", 150000, func(w *world) { w.kafka.events["message.timestamp.before.max.ms"] = "3600000" }, []string{"warn OBX-5114"}},
		"one seed":                         {Kafka, "seeds", 150000, func(w *world) { w.Settings.Kafka.Client.Brokers = []string{"b-0:9092"} }, []string{"warn OBX-5116"}},
		"a name in front":                  {Kafka, "seeds", 150000, func(w *world) { w.Settings.Kafka.Client.Brokers = []string{"kafka:9092"} }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := facts(c.version)
			c.spoil(w)
			if diff := cmp.Diff(c.want, w.say(t, c.check, c.group)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// ran is the checkpoint of a relay that has run.
func ran() checkpointFacts {
	f := checkpointFacts{asked: true}
	f.session.State.Last = &checkpoint.Checkpoint{Seq: 7}
	return f
}

// A check says nothing that it has not declared.
func TestChecksAreDeclared(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, c := range checks() {
		id := string(c.group) + "/" + c.name
		if seen[id] || c.about == "" || len(c.codes) == 0 {
			t.Errorf("%s is there twice, or does not say what it is about", id)
		}
		seen[id] = true
	}
}

func TestOpenFiles(t *testing.T) {
	t.Parallel()
	if a := judgeFiles(256); len(a.problems) != 1 || a.problems[0].fault.Code != fault.OpenFiles {
		t.Errorf("%+v", a)
	}
	if a := judgeFiles(65536); len(a.problems) != 0 {
		t.Errorf("%+v", a)
	}
}
