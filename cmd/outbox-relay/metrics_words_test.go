package main

const metricsIntro = `# Metrics

<!-- Written by: make docs. The tables come from what the program exports; the last column is from cmd/outbox-relay/metrics_words_test.go. -->

` + "`serve` and `pipeline` export them on `HEALTH_ADDR` under `/metrics`" + `. Seconds and bytes are
the only units. Counters exist from the start with every value of their labels that is
known, so that a rate is a number and not a gap. No id and no LSN is a label: positions
are in ` + "`/api/status`" + `.

[Alert rules](../deploy/prometheus/outbox-relay.rules.yml), each with a [runbook](runbooks.md), and a
[Grafana dashboard](../deploy/grafana/outbox-relay.json) are made of these. A test fails if one of them names
something that is not here.

**Scraping.** Scrape all replicas of a relay under one job, and different relays under
different jobs:

` + "```yaml" + `
scrape_configs:
  - job_name: outbox-relay
    scrape_interval: 15s
    static_configs:
      - targets: [relay-a:8080, relay-b:8080]
rule_files: [outbox-relay.rules.yml]
` + "```" + `

**Bare names.** ` + "`kafka_connections`" + ` and five more are exported under these names as well as under
those that end in ` + "`_total`" + `, which rates should use. OpenMetrics does not allow both, and
Prometheus asks for OpenMetrics first; so it is answered in the classic text.
` + "`METRICS_BARE_NAMES=false`" + ` gives up the bare names and offers OpenMetrics.

**Histograms** have classic buckets, and native ones for a Prometheus that takes them.

**Replicas.** ` + "`outbox_leader`, `outbox_lag_seconds`" + ` and what else is added up over the replicas of a relay
carry its name in the label ` + "`relay`" + `. What a standby does not do reads 0 there. The slot is
watched by every replica: take the maximum, not the sum.
`

const metricsEnd = `
## Go and process

` + "`go_*` and `process_*`" + ` are those of the Go client library: memory, goroutines, garbage collection,
CPU, open files, start time.
`

type metricSection struct {
	title, text string
	names       []string
	prefixes    []string
	pipeline    bool
}

var metricSections = []metricSection{
	{title: "Is it healthy", names: []string{
		"outbox_relay_state", "outbox_leader", "outbox_leader_changes_total", "outbox_lag_seconds", "outbox_checkpoint_age_seconds",
		"outbox_end_to_end_latency_seconds", "outbox_health_check_status", "outbox_guarantee_degraded", "outbox_build_info",
		"outbox_tls_certificate_expiry_timestamp_seconds", "outbox_takeover_seconds",
	}},
	{
		title: "Slot and WAL", text: "Read from Postgres by every replica, whether it streams or not. Absent while Postgres cannot be asked.",
		prefixes: []string{"outbox_slot_", "outbox_stray_", "outbox_postgres_", "outbox_server_", "outbox_canary_", "outbox_pause"},
		names:    []string{"outbox_clock_skew_seconds", "outbox_source_stalled"},
	},
	{title: "Reading", prefixes: []string{"outbox_source_", "outbox_decode_", "outbox_resume_", "outbox_buffer", "outbox_backpressure_"}},
	{title: "Kafka transactions", prefixes: []string{"outbox_transaction", "outbox_checkpoint_writes", "outbox_produce", "outbox_circuit_breaker_"}},
	{title: "Names of the specification", text: "Each of them twice: see bare names above.", prefixes: []string{"kafka_"}},
	{title: "Dead letters", prefixes: []string{"outbox_dlq_"}},
	{
		title: "Kafka client", prefixes: []string{"outbox_kafka_client_"},
		text: "Of the client library, for each client that lives, by its `role`: `sink` produces, `reader` reads checkpoints back, the others come and go.",
	},
	{title: "Consumer library", prefixes: []string{"outbox_consumer_"}, pipeline: true, text: "Of `outbox-relay pipeline`, and of programs that give the library a registerer."},
	{title: "Pipeline", prefixes: []string{"outbox_pipeline_"}, pipeline: true},
}

// watchFor says what a change of a metric means to people.
var watchFor = map[string]string{
	"outbox_relay_state":                              "`failed` is 1: halted, a person is needed ([OutboxDown](runbooks.md#outboxdown))",
	"outbox_leader":                                   "sum over the replicas is 0 for minutes: nobody streams ([OutboxNoLeader](runbooks.md#outboxnoleader))",
	"outbox_leader_changes_total":                     "more than deployments explain",
	"outbox_lag_seconds":                              "above 60 for minutes ([OutboxLagHigh](runbooks.md#outboxlaghigh))",
	"outbox_checkpoint_age_seconds":                   "growing on the leader while the database is busy",
	"outbox_end_to_end_latency_seconds":               "the p99, against what consumers were promised",
	"outbox_takeover_seconds":                         "above 2: a standby was slow to take over",
	"outbox_health_check_status":                      "`fail` or `warn` is 1: `/api/health` has code, why and fix",
	"outbox_guarantee_degraded":                       "1: the brokers are older than Kafka 4.0",
	"outbox_build_info":                               "more than one version outside of an upgrade",
	"outbox_tls_certificate_expiry_timestamp_seconds": "less than 14 days away ([OutboxCertificateExpiring](runbooks.md#outboxcertificateexpiring))",

	"outbox_postgres_up":                 "0: this replica cannot ask Postgres",
	"outbox_slot_active":                 "0 for minutes: nobody reads, and the WAL grows",
	"outbox_slot_wal_status":             "`unreserved` or `lost` is 1 ([OutboxSlotUnreserved, OutboxSlotLost](runbooks.md#outboxslotlost))",
	"outbox_slot_retained_bytes":         "half of `outbox_slot_limit_bytes` ([OutboxSlotRetentionHigh](runbooks.md#outboxslotretentionhigh))",
	"outbox_slot_lag_bytes":              "growing",
	"outbox_slot_safe_wal_bytes":         "falling: what is left before the slot is lost ([OutboxSlotWalPredictedFull](runbooks.md#outboxslotwalpredictedfull))",
	"outbox_slot_limit_bytes":            "absent: the disk of the database is the limit",
	"outbox_slot_seconds_to_loss":        "being there at all ([OutboxSlotLossImminent](runbooks.md#outboxslotlossimminent))",
	"outbox_stray_slots":                 "above 0: [OutboxStraySlots](runbooks.md#outboxstrayslots)",
	"outbox_stray_slot_retained_bytes":   "growing",
	"outbox_source_stalled":              "1: [OutboxStalledWhileWALAdvances](runbooks.md#outboxstalledwhilewaladvances)",
	"outbox_clock_skew_seconds":          "beyond 5 either way ([OutboxClockSkew](runbooks.md#outboxclockskew))",
	"outbox_server_wal_bytes_per_second": "against how fast the slot is read",
	"outbox_paused":                      "1 for longer than somebody meant ([OutboxPausedTooLong](runbooks.md#outboxpausedtoolong))",

	"outbox_source_connected":           "0 on the leader",
	"outbox_source_reconnects_total":    "growing: `reason` is the name of the failure, see [errors.md](errors.md)",
	"outbox_source_wal_bytes_total":     "the rate: what the slot sends",
	"outbox_source_transactions_total":  "0 while the lag in bytes grows ([OutboxStalledWhileWALAdvances](runbooks.md#outboxstalledwhilewaladvances))",
	"outbox_source_rows_total":          "`event`, against what is produced. `filtered` and `ignored_*`: the publication sends more than the relay needs",
	"outbox_decode_duration_seconds":    "growing: rows have become large",
	"outbox_decode_errors_total":        "any: a writer or a migration changed what is in the table",
	"outbox_resume_skipped_rows_total":  "nothing: rows that came again after a restart, and were not sent twice",
	"outbox_buffered_records":           "at its most for long: Kafka is the slower side",
	"outbox_buffered_bytes":             "near `outbox_buffer_limit_bytes`",
	"outbox_buffer_limit_bytes":         "nothing: twice `OUTBOX_BATCH_MAX_BYTES`",
	"outbox_backpressure_seconds_total": "a rate near 1: reading stands still, `cause` says for what",

	"outbox_transactions_total":                "`aborted`, `unknown` ([OutboxTransactionsAborting](runbooks.md#outboxtransactionsaborting)) and `fenced` ([OutboxProducerFenced](runbooks.md#outboxproducerfenced))",
	"outbox_transaction_duration_seconds":      "`end` and `read_back` above 0.1: the coordinator or its disks are slow",
	"outbox_transaction_records":               "large ones under load are good, `OUTBOX_BATCH_MAX` is the most",
	"outbox_transaction_bytes":                 "near `OUTBOX_BATCH_MAX_BYTES`",
	"outbox_checkpoint_writes_total":           "nothing for minutes on the leader of a busy database",
	"outbox_produced_records_total":            "by topic, what consumers should see",
	"outbox_produced_bytes_total":              "by topic",
	"outbox_produce_errors_total":              "any that is not `retriable`: rights, sizes, settings of a topic",
	"outbox_circuit_breaker_state":             "`open` is 1 for minutes ([OutboxBreakerOpen](runbooks.md#outboxbreakeropen))",
	"outbox_circuit_breaker_transitions_total": "often `open`: Kafka comes and goes",

	"kafka_connections":                  "the rate: many connections that do not last",
	"kafka_connection_errors":            "any; `type` is the class of [KAFKA_TROUBLESHOOTING.md](KAFKA_TROUBLESHOOTING.md)",
	"kafka_outbox_published":             "the rate: rows delivered, letters included",
	"kafka_outbox_publish_errors":        "growing: `outbox_produce_errors_total` says by which answer",
	"kafka_outbox_batch_failures":        "growing: `outbox_transactions_total` says how they ended",
	"kafka_producer_init_failures":       "growing: sessions do not open",
	"kafka_connections_total":            "as above",
	"kafka_connection_errors_total":      "as above",
	"kafka_outbox_published_total":       "as above",
	"kafka_outbox_publish_errors_total":  "as above",
	"kafka_outbox_batch_failures_total":  "as above",
	"kafka_producer_init_failures_total": "as above",

	"outbox_dlq_records_total":  "growing: somebody writes rows that can be no event ([OutboxDLQGrowing](runbooks.md#outboxdlqgrowing))",
	"outbox_dlq_replayed_total": "`given_up`: letters wait for a person",
	"outbox_dlq_parked_keys":    "above 0: events wait behind a letter of their key; at 1000 the relay halts",
	"outbox_dlq_released_total": "nothing: events that went on",

	"outbox_consumer_handled_total":            "the rate, against what is produced",
	"outbox_consumer_skipped_total":            "`high_water` after a rebalance is what the library is for",
	"outbox_consumer_retries_total":            "growing: the handler fails",
	"outbox_consumer_dead_letters_total":       "any: a handler gave up",
	"outbox_consumer_unpublished_total":        "growing: letters cannot be written, and their partition waits",
	"outbox_consumer_source_rewinds_total":     "any that no restore of the database explains",
	"outbox_consumer_unmarked_total":           "growing, with HighWater: events without a position",
	"outbox_consumer_handler_duration_seconds": "the p99, against the deadline of the handler",
	"outbox_consumer_lag_records":              "growing",
	"outbox_consumer_rebalances_total":         "`lost`: the member was too slow to answer",
	"outbox_consumer_commits_total":            "`error`",
	"outbox_consumer_transactions_total":       "`aborted` and `unknown`",
	"outbox_consumer_in_flight_records":        "at its most for long: handlers are the slower side",
	"outbox_consumer_in_flight_bytes":          "near what the process may use",
	"outbox_consumer_held_records":             "nothing: events that wait for their next attempt",

	"outbox_pipeline_webhook_responses_total": "`5xx` and `none`: the receiver is in trouble; `4xx`: it refuses events",
	"outbox_pipeline_child_starts_total":      "growing: the child does not last",
	"outbox_pipeline_child_ends_total":        "any",
}
