package rights

import (
	"fmt"
	"io"
	"strings"
)

// Pattern is how an ACL names resources.
type Pattern string

// The patterns.
const (
	Literal  Pattern = "literal"
	Prefixed Pattern = "prefixed"
)

// Resource is what an ACL is about.
type Resource string

// The resources. A group is never needed.
const (
	Topic           Resource = "topic"
	TransactionalID Resource = "transactional-id"
	Cluster         Resource = "cluster"
)

// ACL allows one operation.
type ACL struct {
	Resource  Resource `json:"resource_type"`
	Name      string   `json:"resource_name"`
	Pattern   Pattern  `json:"pattern_type"`
	Operation string   `json:"operation"` // as kafka-acls.sh has it
	For       string   `json:"for"`
}

// Access is a principal of Kafka and what it may do.
type Access struct {
	Purpose   Purpose `json:"purpose"`
	Principal string  `json:"principal"`
	About     string  `json:"about"`
	ACLs      []ACL   `json:"acls"`
}

// Accesses returns what each principal needs. That of doctor is in addition to
// that of the relay, with whose credentials it runs.
func (s Setup) Accesses() []Access {
	return []Access{
		{Relay, s.Principal, "runs serve", s.relay()},
		{Init, "User:outbox-admin", "runs init, once", s.init()},
		{Operator, "User:outbox-operator", "runs dlq, verify --data and checkpoint show", s.operator()},
		{Doctor, s.Principal, "lets doctor and verify say more; the relay does without", s.doctor()},
	}
}

func (s Setup) output(operation, reason string) ACL {
	name, pattern := s.outputs()
	return ACL{Topic, name, pattern, operation, reason}
}

func topic(name, operation, reason string) ACL { return ACL{Topic, name, Literal, operation, reason} }

func id(name, reason string) ACL { return ACL{TransactionalID, name, Literal, "Write", reason} }

func (s Setup) relay() []ACL {
	all := []ACL{
		id(s.transactional(), "transactions, and shutting out a predecessor"),
		s.output("Write", "events"),
		s.output("DescribeConfigs", "max.message.bytes; without it Kafka's default counts, and larger rows become dead letters"),
		topic(s.Letters, "Write", "dead letters"),
		topic(s.Letters, "DescribeConfigs", "max.message.bytes; without it larger letters lack their payload"),
		topic(s.Checkpoint, "Read", "the position, and the read-back of each commit"),
		topic(s.Checkpoint, "Write", "the position"),
		topic(s.Checkpoint, "DescribeConfigs", "to refuse a topic that would forget the position"),
	}
	if s.Creates {
		all = append(all, s.output("Create", "KAFKA_CREATE_TOPICS"))
	}
	if s.Parks || s.Retries {
		all = append(all,
			topic(s.Letters, "Read", "letters that wait, or are due"),
			topic(s.state(), "Read", "what became of them"),
			topic(s.state(), "Write", "what becomes of them"))
	}
	if s.Retries {
		all = append(all, id(s.tools(), "transactions of the retries"))
	}
	return all
}

func (s Setup) init() []ACL {
	all := []ACL{id(s.transactional(), "the first checkpoint")}
	for _, t := range []string{s.Events, s.Letters, s.state()} {
		if t == s.Events && s.Template != "" {
			continue
		}
		all = append(all, topic(t, "Describe", "to see whether it exists"), topic(t, "Create", "the topic"))
	}
	return append(all,
		topic(s.Checkpoint, "Create", "the topic"),
		topic(s.Checkpoint, "Read", "whether there is a checkpoint already"),
		topic(s.Checkpoint, "Write", "the first one"))
}

func (s Setup) operator() []ACL {
	return []ACL{
		topic(s.Letters, "Read", "dlq list, show and export"),
		topic(s.state(), "Read", "what became of letters"),
		topic(s.state(), "Write", "dlq replay, purge and retry"),
		id(s.tools(), "dlq replay, purge and retry"),
		s.output("Write", "dlq replay"),
		s.output("DescribeConfigs", "dlq replay: max.message.bytes; without it Kafka's default counts"),
		s.output("Read", "verify --data"),
		topic(s.Checkpoint, "Read", "verify --data, checkpoint show"),
	}
}

func (s Setup) doctor() []ACL {
	all := []ACL{
		id(s.verify(), "verify: the probe"),
		{Cluster, "kafka-cluster", Literal, "DescribeConfigs", "doctor: transaction.max.timeout.ms and its kin"},
		topic("__transaction_state", "Describe", "doctor: whether transactions survive the loss of a broker"),
	}
	if !s.Parks && !s.Retries {
		all = append(all, topic(s.state(), "Describe", "doctor and verify: the topic exists"))
	}
	return append(all, topic(s.state(), "DescribeConfigs", "doctor and verify: it is compacted"))
}

// WriteACLs prints commands for kafka-acls.sh, the operations on one resource in
// one line.
func (s Setup) WriteACLs(w io.Writer) error {
	var b strings.Builder
	b.WriteString("acls() { kafka-acls.sh --bootstrap-server \"$KAFKA_BROKERS\" --command-config admin.properties --add --allow-principal \"$@\"; }\n")
	for _, a := range s.Accesses() {
		fmt.Fprintf(&b, "\n# %s: %s\n", a.Purpose, a.About)
		for _, line := range a.lines() {
			fmt.Fprintf(&b, "acls %s %s\n", shell(a.Principal), line)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// lines are the arguments of kafka-acls.sh behind the principal.
func (a Access) lines() []string {
	var order []ACL // one of each resource
	operations := map[ACL][]string{}
	for _, acl := range a.ACLs {
		key := ACL{Resource: acl.Resource, Name: acl.Name, Pattern: acl.Pattern}
		if operations[key] == nil {
			order = append(order, key)
		}
		operations[key] = append(operations[key], "--operation "+acl.Operation)
	}
	lines := make([]string, len(order))
	for i, key := range order {
		line := strings.Join(operations[key], " ") + " --" + string(key.Resource)
		if key.Resource != Cluster {
			line += " " + shell(key.Name)
		}
		if key.Pattern == Prefixed {
			line += " --resource-pattern-type prefixed"
		}
		lines[i] = line
	}
	return lines
}

// shell quotes a word where it has to be.
func shell(s string) string {
	if strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-:") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
