package doctor

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/preflight"
	"github.com/holdwall/outbox-relay/sink"
)

// connectionCodes are what a connection to a broker can fail with.
func connectionCodes() []*fault.Code {
	return []*fault.Code{
		fault.ConfigMissing, fault.BrokerList, fault.KafkaUnreachable, fault.KafkaUnavailable, fault.KafkaTLS, fault.KafkaAuth, fault.KafkaNameUnknown, fault.KafkaResolver, fault.KafkaRefused,
		fault.KafkaNoRoute, fault.KafkaReset, fault.KafkaTimeout, fault.KafkaSilent, fault.KafkaCertExpired, fault.KafkaCertAuthority, fault.KafkaCertName,
		fault.KafkaPlaintextPort, fault.KafkaTLSPort, fault.KafkaClientCert, fault.KafkaClientRefused, fault.KafkaTLSFile, fault.KafkaSASLMechanism,
		fault.KafkaSASLMissing, fault.KafkaSASLUnwanted, fault.KafkaSASLFile, fault.KafkaSASLExchange, fault.KafkaNotKafka, fault.KafkaClosed,
	}
}

func kafkaChecks() []check {
	with := func(more ...*fault.Code) []*fault.Code { return append(connectionCodes(), more...) }
	return []check{
		{Kafka, "brokers", "every broker of KAFKA_BROKERS has a name that resolves, takes connections, speaks Kafka and lets us in", fromKafka, with(fault.AddressUnreachable, fault.CertificateExpires, fault.TLSUnverified, fault.KafkaVersion), steps(
			preflight.StepResolve, preflight.StepConnect, preflight.StepTLS, preflight.StepSASL)},
		{Kafka, "release", "the release gives the full guarantee", fromKafka, with(fault.KafkaVersion, fault.GuaranteeDegraded), steps(preflight.StepAPI)},
		{Kafka, "advertised", "every broker can be reached where it sends its clients", fromKafka, with(fault.AdvertisedListener), steps(preflight.StepMetadata, preflight.StepAdvertised)},
		{Kafka, "topics", "the topics exist, survive the loss of a broker, and have settings that suit what they are for", fromKafka, with(
			fault.KafkaTopicMissing, fault.KafkaTopicShape, fault.TopicDurability, fault.TopicOffline, fault.TopicSettings, fault.KafkaDenied), steps(preflight.StepTopic)},
		{Kafka, "seeds", "KAFKA_BROKERS does not hang on one broker of several", fromKafka, []*fault.Code{fault.SingleSeed}, seeds},
		{Kafka, "transaction_timeout", "transaction.max.timeout.ms allows KAFKA_TRANSACTION_TIMEOUT", fromKafka, []*fault.Code{fault.KafkaSetting}, transactionTimeout},
		{Kafka, "transaction_expiry", "transactional.id.expiration.ms is an hour at least", fromKafka, []*fault.Code{fault.TransactionalExpiry}, transactionExpiry},
		{Kafka, "transaction_log", "the topic of transactions has three replicas where there are as many brokers", fromKafka, []*fault.Code{fault.TransactionLog}, transactionLogKept},
		{Kafka, "transaction_open", "no transaction of the relay is open for longer than a broker allows", fromKafka, []*fault.Code{fault.TransactionHanging}, transactionOpen},
		{Kafka, "row_limit", "what the topic of events takes, the relay reads: OUTBOX_MAX_ROW_BYTES", fromKafka, []*fault.Code{fault.RowLimit}, rowLimit},
		{Kafka, "timestamps", "the topic of events takes records of a week ago, as after an outage", fromKafka, []*fault.Code{fault.TimestampLimit}, timestamps},
	}
}

// steps gathers the results of steps that another room has taken.
func steps(names ...string) func(*world) answer {
	return func(w *world) answer {
		if w.kafka.err != nil {
			return skip("needs KAFKA_BROKERS")
		}
		var a answer
		var passed []preflight.Result
		skipped := ""
		for _, r := range w.kafka.results {
			if !slices.Contains(names, r.Step) {
				continue
			}
			switch r.Status {
			case preflight.Pass:
				passed = append(passed, r)
			case preflight.Skipped:
				skipped = r.Finding
			default:
				a.add(Status(r.Status), r.Target, r.Fault)
			}
		}
		if len(passed) == 0 && len(a.problems) == 0 {
			return skip("%s", skipped)
		}
		if len(passed) == 0 {
			return a
		}
		last := passed[len(passed)-1]
		return a.or("%d in order, as %s: %s", len(passed), last.Target, last.Finding)
	}
}

// unknown is the answer of a check whose facts need a right that is rarely given.
func unknown(what string) answer { return skip("needs %s", what) }

func seeds(w *world) answer {
	all, _ := w.Settings.Kafka.Client.Endpoints()
	if len(all) != 1 || len(w.kafka.brokers) < 2 {
		return pass("%d of %d brokers", len(all), len(w.kafka.brokers))
	}
	for _, b := range w.kafka.brokers {
		// A name in front of all brokers is none of theirs.
		if net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))) != all[0].String() {
			continue
		}
		var names []string
		for _, o := range w.kafka.brokers {
			names = append(names, fmt.Sprintf("%s:%d", o.Host, o.Port))
		}
		return warn(fault.New(fault.SingleSeed, "KAFKA_BROKERS names one of %d brokers", len(names)).WithFix("KAFKA_BROKERS=%s", strings.Join(names[:min(3, len(names))], ",")))
	}
	return pass("a name in front of %d brokers", len(w.kafka.brokers))
}

func transactionTimeout(w *world) answer {
	most, ok := ms(w.kafka.broker, "transaction.max.timeout.ms")
	switch t := w.Settings.Kafka.TransactionTimeout; {
	case !ok:
		return unknown("DescribeConfigs on the cluster")
	case t > most:
		return fail(fault.New(fault.KafkaSetting, "KAFKA_TRANSACTION_TIMEOUT is %s, transaction.max.timeout.ms %s", t, most).WithFix("KAFKA_TRANSACTION_TIMEOUT=%s", most))
	default:
		return pass("%s of at most %s", t, most)
	}
}

func transactionExpiry(w *world) answer {
	d, ok := ms(w.kafka.broker, "transactional.id.expiration.ms")
	switch {
	case !ok:
		return unknown("DescribeConfigs on the cluster")
	case d < time.Hour:
		return warn(fault.New(fault.TransactionalExpiry, "transactional.id.expiration.ms is %s", d))
	}
	return pass("%s", age(d))
}

func transactionLogKept(w *world) answer {
	n := w.kafka.logReplicas
	least := w.kafka.log["min.insync.replicas"]
	switch {
	case n == 0:
		return unknown("Describe on topic " + transactionLog + ", and a first transaction")
	case len(w.kafka.brokers) < 3:
		return skip("there are fewer than three brokers")
	case n < 3:
		return warn(fault.New(fault.TransactionLog, "topic %s has replication factor %d", transactionLog, n))
	case least == "1":
		return warn(fault.New(fault.TransactionLog, "topic %s has min.insync.replicas=1", transactionLog).
			WithFix("kafka-configs.sh --bootstrap-server <broker> --alter --entity-type topics --entity-name %s --add-config min.insync.replicas=2", transactionLog))
	}
	return pass("replication factor %d", n)
}

func transactionOpen(w *world) answer {
	t := w.kafka.transaction
	id := sink.TransactionalID(w.Settings.Outbox.Name)
	if t == nil {
		return pass("%s has none", id)
	}
	open := time.Since(time.UnixMilli(t.StartTimestamp))
	limit := time.Duration(t.TimeoutMillis) * time.Millisecond
	// Brokers look for overdue transactions every ten seconds.
	if t.State == "Ongoing" && t.StartTimestamp > 0 && open > limit+time.Minute {
		return fail(fault.New(fault.TransactionHanging, "a transaction of %s is open for %s, and was allowed %s", id, age(open), limit))
	}
	return pass("%s: %s", id, t.State)
}

func rowLimit(w *world) answer {
	n, err := strconv.ParseInt(w.kafka.events["max.message.bytes"], 10, 64)
	if err != nil {
		return unknown("DescribeConfigs on the topic of events")
	}
	if most := int64(w.Settings.Outbox.MaxRowBytes); n > most {
		return warn(fault.New(fault.RowLimit, "topic %s takes %s, OUTBOX_MAX_ROW_BYTES is %s", w.Settings.Kafka.EventsTopic, size(n), size(most)).
			WithFix("OUTBOX_MAX_ROW_BYTES=%dMiB", (2*n+1<<20-1)>>20))
	}
	return pass("rows up to %s, events up to %s", w.Settings.Outbox.MaxRowBytes, size(n))
}

const week = 7 * 24 * time.Hour

func timestamps(w *world) answer {
	if w.kafka.events == nil {
		return unknown("DescribeConfigs on the topic of events")
	}
	for _, name := range []string{"message.timestamp.before.max.ms", "message.timestamp.difference.max.ms"} {
		if d, ok := ms(w.kafka.events, name); ok && d < week && w.kafka.events["message.timestamp.type"] != "LogAppendTime" {
			return warn(fault.New(fault.TimestampLimit, "topic %s has %s=%d", w.Settings.Kafka.EventsTopic, name, d.Milliseconds()).
				WithFix("kafka-configs.sh --bootstrap-server <broker> --alter --entity-type topics --entity-name %s --delete-config %s", w.Settings.Kafka.EventsTopic, name))
		}
	}
	return pass("as old as they may be")
}

func rightsChecks() []check {
	return []check{
		{Rights, "topics", "the relay's principal has the rights on its topics", fromKafka, append(connectionCodes(), fault.KafkaDenied), steps(preflight.StepRights)},
		{Rights, "transactional_id", "it has a right on its transactional id", fromKafka, []*fault.Code{fault.KafkaDenied}, transactionalID},
		{Rights, "principal", "it cannot change the cluster", fromKafka, []*fault.Code{fault.PrincipalStrong}, principal},
		{Rights, "role", "the relay's role in Postgres is no superuser", fromPostgres, []*fault.Code{fault.RoleStrong}, role},
		{Rights, "public", "not everybody may write to the outbox table", fromTable, []*fault.Code{fault.TablePublic}, public},
	}
}

func transactionalID(w *world) answer {
	id := sink.TransactionalID(w.Settings.Outbox.Name)
	switch {
	case !w.kafka.reached:
		return skip("needs a broker that lets us in")
	case w.kafka.denied:
		return fail(fault.New(fault.KafkaDenied, "transactional id %s is not granted", id).
			WithFix("kafka-acls.sh --bootstrap-server <broker> --add --allow-principal %s --operation Write --transactional-id %s", w.principalName(), id))
	}
	return pass("%s can be described; verify tries a transaction", id)
}

func (w *world) principalName() string {
	if u := w.Settings.Kafka.Client.SASL.Username; u != "" {
		return "User:" + u
	}
	return "<principal>"
}

// principal speaks only where somebody is told apart: without authentication
// everybody may do everything, and the relay is not the one to change that.
func principal(w *world) answer {
	k := w.Settings.Kafka.Client
	if k.SASL.Mechanism == "" && k.TLS.CertFile == "" {
		return skip("nobody authenticates")
	}
	for _, op := range w.kafka.operations {
		if op == kmsg.ACLOperationAlter || op == kmsg.ACLOperationAll {
			return warn(fault.New(fault.PrincipalStrong, "principal %s may alter the cluster", w.principalName()))
		}
	}
	return pass("no right to alter the cluster")
}

func role(w *world) answer {
	s := w.pg.server
	var can []string
	for _, r := range []struct {
		has  bool
		what string
	}{{s.Super, "is a superuser"}, {s.Creates && !s.Super, "may create roles"}, {s.Bypasses && !s.Super, "bypasses row security"}} {
		if r.has {
			can = append(can, r.what)
		}
	}
	if len(can) > 0 {
		return warn(fault.New(fault.RoleStrong, "role %s %s", s.User, strings.Join(can, " and ")))
	}
	return pass("%s is an ordinary role", s.User)
}

func public(w *world) answer {
	if may := w.pg.table.Public; len(may) > 0 {
		return warn(fault.New(fault.TablePublic, "PUBLIC has %s on %s", strings.Join(may, ", "), w.Settings.Outbox.Table).
			WithFix("REVOKE ALL ON %s FROM PUBLIC;", w.Settings.Outbox.Table.SQL()))
	}
	return pass("granted by name alone")
}
