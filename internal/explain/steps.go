package explain

import (
	"fmt"
	"strings"
)

// steps says how to see each station oneself.
func (s *search) steps() {
	add := func(st Step) { s.a.Steps = append(s.a.Steps, st) }
	add(Step{What: "the row", SQL: s.rowSQL(quote(s.cfg.ID))})
	slot := fmt.Sprintf("SELECT confirmed_flush_lsn, active, pg_current_wal_lsn() FROM pg_replication_slots WHERE slot_name = %s", quote(s.cfg.Slot))
	add(Step{What: "the slot", SQL: slot, Command: "outbox-relay slot inspect"})
	for _, r := range s.a.Records {
		add(Step{What: "the record", Command: fmt.Sprintf(
			"kafka-console-consumer.sh --bootstrap-server %s --topic %s --partition %d --offset %d --max-messages 1 --isolation-level read_committed --property print.headers=true --property print.value=false",
			s.cfg.Brokers, r.Topic, r.Partition, r.Offset)})
		if r.Checkpoint != "" {
			add(Step{What: "the Kafka transaction: checkpoint " + r.Checkpoint + " was written in it", Command: "outbox-relay checkpoint show"})
		}
	}
	if len(s.a.Letters) > 0 {
		add(Step{What: "the dead letter", Command: "outbox-relay dlq show " + shell(s.cfg.ID)})
	}
	switch s.a.Verdict {
	case DeadLetter:
		add(Step{What: "send it again, when the cause is removed", Command: "outbox-relay dlq replay --id " + shell(s.cfg.ID)})
	case Parked:
		add(Step{What: "the letter that it waits behind", Command: "outbox-relay dlq list"})
	case Pending:
		add(Step{What: "wait for it", Command: "outbox-relay wait --lsn " + s.a.Row.BelowLSN})
	case Missing:
		add(Step{What: "compare the whole table with the topics", Command: "outbox-relay verify --data"})
	}
}

// shell quotes a word for a shell.
func shell(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
