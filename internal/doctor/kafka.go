package doctor

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/preflight"
	"github.com/holdwall/outbox-relay/sink"
)

// transactionLog is where Kafka keeps what became of transactions.
const transactionLog = "__transaction_state"

// cluster is what was found out about Kafka, as the principal of the relay.
type cluster struct {
	results []preflight.Result
	err     error // of the settings; nothing was tried
	reached bool

	brokers     []kadm.BrokerDetail
	broker      map[string]string // settings of one broker; nil: not allowed
	events      map[string]string // settings of the topic of events; nil: not allowed
	log         map[string]string // of the transaction log
	logReplicas int               // 0: not allowed to look
	transaction *kadm.DescribedTransaction
	denied      bool // the transactional id may not be looked at
	operations  []kadm.ACLOperation
}

func (c *cluster) gather(ctx context.Context, w *world) {
	k, o := w.Settings.Kafka, w.Settings.Outbox
	check := preflight.Config{
		Kafka: k.Client, Name: o.Name, CreateTopics: k.CreateTopics, ParkKeys: o.ParkKeys, RetryLetters: o.DLQRetry,
		TransactionTimeout: k.TransactionTimeout, ReadOnly: true, Log: quiet(w.Log),
		Topics: preflight.Topics{Events: k.EventsTopic, Letters: k.DLQTopic, State: dlq.StateTopic(k.DLQTopic), Checkpoint: k.CheckpointTopic},
	}
	if o.TopicTemplate != "" {
		check.Topics.Events = ""
	}
	report, err := preflight.Run(ctx, check, nil)
	c.results, c.err, c.reached = report.Results, err, report.Reached
	// Without an address that works every request would only wait.
	usable := slices.ContainsFunc(report.Results, func(r preflight.Result) bool {
		return r.Step == preflight.StepAdvertised && r.Status == preflight.Pass
	})
	if err != nil || !usable {
		return
	}
	opts, err := w.options()
	if err != nil {
		c.err = err
		return
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		c.err = err
		return
	}
	defer cl.Close()
	_, request := k.Client.Timeouts()
	ctx, cancel := context.WithTimeout(ctx, min(request, catalogTime))
	defer cancel()
	c.ask(ctx, kadm.NewClient(cl), cl, check.Topics.Events, o.Name)
}

// ask asks for what is good to know and needs further rights. What is denied
// stays empty.
func (c *cluster) ask(ctx context.Context, adm *kadm.Client, cl *kgo.Client, events, name string) {
	if meta, err := adm.BrokerMetadata(ctx); err == nil {
		c.brokers = meta.Brokers
		if len(meta.Brokers) > 0 {
			c.broker = settingsOf(adm.DescribeBrokerConfigs(ctx, meta.Brokers[0].NodeID))
		}
	}
	if events != "" {
		c.events = settingsOf(adm.DescribeTopicConfigs(ctx, events))
	}
	if found, err := adm.ListTopics(kadm.WithAuthorizedOps(ctx), transactionLog); err == nil && found[transactionLog].Err == nil {
		for _, p := range found[transactionLog].Partitions {
			if n := len(p.Replicas); c.logReplicas == 0 || n < c.logReplicas {
				c.logReplicas = n
			}
		}
		c.log = settingsOf(adm.DescribeTopicConfigs(ctx, transactionLog))
	}
	id := sink.TransactionalID(name)
	switch all, err := adm.DescribeTransactions(ctx, id); {
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		c.denied = true
	case err == nil:
		if t, ok := all[id]; ok {
			c.denied = errors.Is(t.Err, kerr.TransactionalIDAuthorizationFailed)
			if t.Err == nil {
				c.transaction = &t
			}
		}
	}
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeClusterAuthorizedOperations = true
	if resp, err := req.RequestWith(ctx, cl); err == nil && resp.ErrorCode == 0 && resp.ClusterAuthorizedOperations > 0 {
		c.operations = kadm.DecodeACLOperations(resp.ClusterAuthorizedOperations)
	}
}

func settingsOf(all kadm.ResourceConfigs, err error) map[string]string {
	if err != nil {
		return nil
	}
	set := map[string]string{}
	for _, rc := range all {
		if rc.Err != nil {
			return nil
		}
		for _, kv := range rc.Configs {
			if kv.Value != nil {
				set[kv.Key] = *kv.Value
			}
		}
	}
	return set
}

// ms is a setting of milliseconds; -1 is for ever, and not ok.
func ms(set map[string]string, name string) (time.Duration, bool) {
	n, err := strconv.ParseInt(set[name], 10, 64)
	if err != nil || n < 0 || n > int64(1<<62)/int64(time.Millisecond) {
		return 0, false
	}
	return time.Duration(n) * time.Millisecond, true
}
