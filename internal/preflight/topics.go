package preflight

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// role is what a topic is for.
type role uint8

const (
	events role = iota
	letters
	state
	checkpoints
)

// wanted is one topic to look at.
type wanted struct {
	role role
	name string
}

func (r *run) wanted() []wanted {
	t := r.cfg.Topics
	return []wanted{{events, t.Events}, {letters, t.Letters}, {state, t.State}, {checkpoints, t.Checkpoint}}
}

// topics looks at every topic of the relay and returns why the probe cannot be
// tried, if it cannot.
func (r *run) topics(ctx context.Context, adm *kadm.Client) (noProbe string) {
	all := r.wanted()
	var limit map[string]string // settings of the topic of events
	for i, w := range all {
		rank, rights := rankTopic+i*problemRoom, rankRights+i*problemRoom
		s := r.begin(rank, StepTopic, w.name)
		if w.name == "" {
			s.skip("OUTBOX_TOPIC_TEMPLATE names the topics of events; `verify --data` finds them")
			continue
		}
		d, err := r.lookUp(ctx, adm, w.name)
		if err != nil {
			relay, _ := r.needs(w.role)
			switch {
			case fault.Has(err, fault.KafkaTopicMissing):
				r.missing(s, w)
			case fault.Has(err, fault.KafkaDenied) && relay == nil:
				s.skip("may not be looked at, and the relay does without")
			default:
				s.fail(err)
			}
			r.begin(rights, StepRights, w.name).skip("needs the topic")
			if w.role == checkpoints {
				noProbe = "needs the checkpoint topic, which `outbox-relay init` creates"
			}
			continue
		}
		set, unread := r.settings(ctx, adm, w.name)
		if w.role == events {
			limit = set
		}
		j := judge{w: w, topic: d, set: set, events: limit}
		r.tell(s, rank, j.facts(), append(j.problems(), unread...))
		if !r.rights(r.begin(rights, StepRights, w.name), w, d) && w.role == checkpoints {
			noProbe = "needs the rights on the checkpoint topic"
		}
	}
	return noProbe
}

// lookUp describes one topic. They are asked for one by one, because a client
// that may not see one of several is told about none.
func (r *run) lookUp(ctx context.Context, adm *kadm.Client, name string) (kadm.TopicDetail, error) {
	ctx, cancel := context.WithTimeout(ctx, r.request)
	defer cancel()
	// Asking for the rights also goes past what the client remembers.
	found, err := adm.ListTopics(kadm.WithAuthorizedOps(ctx), name)
	d, there := found[name]
	switch {
	case err != nil:
	case !there:
		err = kerr.UnknownTopicOrPartition
	default:
		err = d.Err
	}
	return d, kafka.Classify("look up topic "+name, err)
}

// missing ends the step of a topic that does not exist.
func (r *run) missing(s *step, w wanted) {
	f := fault.New(fault.KafkaTopicMissing, "topic %s does not exist", w.name)
	switch {
	case w.role == checkpoints:
		s.fail(f.WithWhy("the relay is not initialised, or this is another cluster, or the topic was deleted").
			WithFix("outbox-relay init, if this relay is new; else check KAFKA_BROKERS, OUTBOX_NAME and KAFKA_CHECKPOINT_TOPIC"))
	case w.role == state:
		s.warn(f.WithWhy("what becomes of dead letters is written there").WithFix("outbox-relay init"))
	case r.cfg.CreateTopics:
		s.warn(f.WithWhy("the relay creates it at the first row for it (KAFKA_CREATE_TOPICS)").WithFix("none needed"))
	default:
		s.fail(f.WithFix("outbox-relay init creates it, or set KAFKA_CREATE_TOPICS=true"))
	}
}

// problem is something to be said about a target.
type problem struct {
	status Status
	err    error
}

// problemRoom is how many problems of one target keep their place.
const problemRoom = 32

// tell ends a step: one line if all is well, else one for each problem, the
// first of which carries the facts.
func (r *run) tell(s *step, rank int, facts string, problems []problem) {
	if len(problems) == 0 {
		s.pass(facts)
		return
	}
	for i, p := range problems {
		if i > 0 {
			s = r.begin(rank+i, s.res.Step, s.res.Target)
		}
		s.bad(p.status, p.err)
	}
}

// settings reads the settings of a topic. If they may not be read, that is a
// problem, and the topic is judged by what its metadata says.
func (r *run) settings(ctx context.Context, adm *kadm.Client, name string) (map[string]string, []problem) {
	ctx, cancel := context.WithTimeout(ctx, r.request)
	defer cancel()
	configs, err := adm.DescribeTopicConfigs(ctx, name)
	set := map[string]string{}
	for _, rc := range configs {
		if rc.Err != nil && err == nil {
			err = rc.Err
		}
		for _, kv := range rc.Configs {
			if kv.Value != nil {
				set[kv.Key] = *kv.Value
			}
		}
	}
	if err != nil {
		f := fault.As(kafka.Classify("read the settings of topic "+name, err))
		return nil, []problem{{Warn, f.WithFix("grant DescribeConfigs on topic %s, or look at them by hand; the relay works without", name)}}
	}
	return set, nil
}

// needs are the operations without which the relay, or its tools, cannot use a
// topic of this role. A relay that parks keys or retries letters reads the
// letters and writes what became of them.
func (r *run) needs(w role) (relay, tools []kadm.ACLOperation) {
	all := []kadm.ACLOperation{kmsg.ACLOperationDescribe, kmsg.ACLOperationRead, kmsg.ACLOperationWrite}
	reads := r.cfg.ParkKeys || r.cfg.RetryLetters
	switch {
	case w == checkpoints, reads && (w == letters || w == state):
		return all, nil
	case w == state:
		return nil, all
	}
	return []kadm.ACLOperation{kmsg.ACLOperationDescribe, kmsg.ACLOperationWrite}, []kadm.ACLOperation{kmsg.ACLOperationRead}
}

// rights compares what a broker says we may do with what the relay does.
func (r *run) rights(s *step, w wanted, d kadm.TopicDetail) bool {
	if len(d.AuthorizedOperations) == 0 {
		s.skip("the broker does not tell; the relay will")
		return true
	}
	lacking := func(needed []kadm.ACLOperation) string {
		var names []string
		for _, op := range needed {
			if !slices.Contains(d.AuthorizedOperations, op) && !slices.Contains(d.AuthorizedOperations, kmsg.ACLOperationAll) {
				names = append(names, op.String())
			}
		}
		return strings.Join(names, ", ")
	}
	relay, tools := r.needs(w.role)
	grant := "kafka-acls.sh --bootstrap-server <broker> --add --allow-principal User:%s --operation %s --topic %s"
	who := r.cfg.Kafka.SASL.Username
	if who == "" {
		who = "<principal>"
	}
	if ops := lacking(relay); ops != "" {
		s.fail(fault.New(fault.KafkaDenied, "%s on topic %s is not granted", ops, w.name).
			WithFix(grant, who, strings.ReplaceAll(ops, ", ", " --operation "), w.name))
		return false
	}
	if r.cfg.ReadOnly {
		tools = nil
	}
	if len(relay)+len(tools) == 0 {
		s.skip("the relay needs none")
		return true
	}
	if ops := lacking(tools); ops != "" {
		s.warn(fault.New(fault.KafkaDenied, "%s on topic %s is not granted", ops, w.name).
			WithWhy("the relay does without; `verify --data` and `dlq` do not").
			WithFix(grant, who, strings.ReplaceAll(ops, ", ", " --operation "), w.name))
		return true
	}
	s.pass(opsText(append(slices.Clone(relay), tools...)))
	return true
}

func opsText(ops []kadm.ACLOperation) string {
	names := make([]string, len(ops))
	for i, op := range ops {
		names[i] = strings.ToLower(op.String())
	}
	return strings.Join(names, ", ")
}

// ms reads a setting of milliseconds; -1 is for ever.
func ms(text string) (d time.Duration, forever, ok bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, false, false
	}
	// What overflows a duration is for ever to people, too.
	if n < 0 || n > int64(1<<62)/int64(time.Millisecond) {
		return 0, true, true
	}
	return time.Duration(n) * time.Millisecond, false, true
}

func durationText(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%time.Hour == 0 {
		return fmt.Sprintf("%g days", float64(d)/float64(day))
	}
	return d.String()
}
