package preflight

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// judge looks at one topic that exists. set is empty if its settings may not
// be read; then only what the metadata says is judged.
type judge struct {
	w      wanted
	topic  kadm.TopicDetail
	set    map[string]string
	events map[string]string // settings of the topic of events, if there is one
}

// facts is the line of a topic that is well.
func (j judge) facts() string {
	parts := []string{count(len(j.topic.Partitions), "partition"), fmt.Sprintf("replication factor %d", j.replicas())}
	if v, ok := j.set["min.insync.replicas"]; ok {
		parts = append(parts, "min.insync.replicas "+v)
	}
	if v, ok := j.set["cleanup.policy"]; ok && v != "delete" {
		parts = append(parts, v)
	} else if text := j.retention(); text != "" {
		parts = append(parts, "kept "+text)
	}
	if n, ok := number(j.set, "max.message.bytes"); ok {
		parts = append(parts, fmt.Sprintf("messages up to %d KiB", n>>10))
	}
	return strings.Join(parts, ", ")
}

func (j judge) retention() string {
	d, forever, ok := ms(j.set["retention.ms"])
	switch {
	case !ok:
		return ""
	case forever:
		return "for ever"
	}
	return durationText(d)
}

// replicas is the least replication factor of the partitions.
func (j judge) replicas() int {
	least := 0
	for _, p := range j.topic.Partitions {
		if n := len(p.Replicas); least == 0 || n < least {
			least = n
		}
	}
	return least
}

func number(set map[string]string, name string) (int64, bool) {
	n, err := strconv.ParseInt(set[name], 10, 64)
	return n, err == nil
}

// problems is everything to be said about the topic.
func (j judge) problems() []problem {
	var all []problem
	add := func(p ...problem) { all = append(all, p...) }
	add(j.shape()...)
	add(j.health()...)
	add(j.durability()...)
	add(j.retained()...)
	add(j.size()...)
	return all
}

func (j judge) setting(status Status, why, add string) problem {
	f := fault.New(fault.TopicSettings, "topic %s: %s", j.w.name, j.facts()).WithWhy("%s", why)
	return problem{status, f.WithFix("kafka-configs.sh --bootstrap-server <broker> --alter --entity-type topics --entity-name %s --add-config %s", j.w.name, add)}
}

// shape is what the topic has to be, or its reader cannot read it.
func (j judge) shape() []problem {
	policy, known := j.set["cleanup.policy"]
	n := len(j.topic.Partitions)
	var all []problem
	switch j.w.role {
	case checkpoints:
		if n != 1 {
			all = append(all, problem{Fail, fault.New(fault.KafkaTopicShape, "checkpoint topic %s has %d partitions", j.w.name, n).
				WithFix("partitions cannot be taken away: give init a new KAFKA_CHECKPOINT_TOPIC, or see docs/operations.md if the relay has run")})
		}
		if known && policy != "compact" {
			all = append(all, problem{Fail, fault.New(fault.KafkaTopicShape, "checkpoint topic %s has cleanup.policy=%s", j.w.name, policy).
				WithFix("kafka-configs.sh --bootstrap-server <broker> --alter --entity-type topics --entity-name %s --add-config cleanup.policy=compact", j.w.name)})
		}
		if j.set["unclean.leader.election.enable"] == "true" {
			all = append(all, j.setting(Warn, "an unclean election loses checkpoints that were acknowledged; the relay would then halt", "unclean.leader.election.enable=false"))
		}
	case state:
		if known && policy != "compact" {
			all = append(all, j.setting(Fail, "cleanup.policy="+policy+" forgets what became of a letter, and it could be replayed twice", "cleanup.policy=compact"))
		}
	case letters:
		if strings.Contains(policy, "compact") {
			all = append(all, j.setting(Fail, "compaction keeps only the last letter of each key", "cleanup.policy=delete"))
		}
	case events:
		if strings.Contains(policy, "compact") {
			all = append(all, j.setting(Warn, "compaction keeps only the last event of each key: a consumer that comes late sees no others", "cleanup.policy=delete"))
		}
	}
	return all
}

// health is whether it can be written to right now.
func (j judge) health() []problem {
	least, known := number(j.set, "min.insync.replicas")
	leaderless, thin := 0, 0
	for _, p := range j.topic.Partitions {
		switch {
		case p.Leader < 0:
			leaderless++
		case known && int64(len(p.ISR)) < least && least <= int64(len(p.Replicas)):
			thin++
		}
	}
	var all []problem
	if leaderless > 0 {
		all = append(all, problem{Fail, fault.New(fault.TopicOffline, "%s of topic %s without a leader", count(leaderless, "partition"), j.w.name)})
	}
	if thin > 0 {
		all = append(all, problem{Fail, fault.New(fault.TopicOffline, "%s of topic %s with fewer replicas in sync than min.insync.replicas=%d", count(thin, "partition"), j.w.name, least)})
	}
	return all
}

// durability is whether the loss of a broker can be survived.
func (j judge) durability() []problem {
	replicas := j.replicas()
	least, known := number(j.set, "min.insync.replicas")
	about := func(status Status, why string) []problem {
		return []problem{{status, fault.New(fault.TopicDurability, "topic %s: %s", j.w.name, j.facts()).WithWhy("%s", why)}}
	}
	switch {
	case known && least > int64(replicas):
		p := about(Fail, "nothing can ever be written: more replicas are asked for than there are")
		p[0].err = fault.As(p[0].err).WithFix("kafka-configs.sh --bootstrap-server <broker> --alter --entity-type topics --entity-name %s --add-config min.insync.replicas=%d", j.w.name, max(1, replicas-1))
		return p
	case replicas == 1:
		return about(Warn, "there is one copy: the loss of its broker is the loss of the topic")
	case known && least == 1:
		return about(Warn, "min.insync.replicas=1 lets a write count that is on one broker alone")
	case known && least == int64(replicas):
		return about(Warn, "every replica has to be in sync: one broker that restarts stops all writing")
	}
	return nil
}

// retained is whether records stay as long as their readers need them.
func (j judge) retained() []problem {
	d, forever, ok := ms(j.set["retention.ms"])
	if j.w.role != letters || !ok {
		return nil
	}
	if !forever {
		return []problem{j.setting(Warn, "letters disappear after "+durationText(d)+", whether anybody has looked at them or not", "retention.ms=-1")}
	}
	if n, ok := number(j.set, "retention.bytes"); ok && n >= 0 {
		return []problem{j.setting(Warn, "the oldest letters disappear when the topic is full, whether anybody has looked at them or not", "retention.bytes=-1")}
	}
	return nil
}

// size is whether what does not fit the topic of events fits that of letters.
func (j judge) size() []problem {
	mine, ok := number(j.set, "max.message.bytes")
	theirs, known := number(j.events, "max.message.bytes")
	if j.w.role != letters || !ok || !known || mine >= theirs {
		return nil
	}
	return []problem{j.setting(Warn, fmt.Sprintf("letters take %d bytes and events %d: the letter of a large event cannot hold its payload", mine, theirs), fmt.Sprintf("max.message.bytes=%d", theirs))}
}
