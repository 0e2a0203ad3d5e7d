package preflight_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/preflight"
)

// world is a cluster as `outbox-relay init` leaves it, and the settings for it.
type world struct {
	cluster *kfake.Cluster
	cfg     preflight.Config
}

var topics = preflight.Topics{Events: "events", Letters: "dlq", State: "dlq.state", Checkpoint: "ckpt"}

// sound are the topics of a relay, with settings about which nothing is to be
// said.
func sound() map[string]map[string]string {
	return map[string]map[string]string{
		"events":    {"min.insync.replicas": "2", "max.message.bytes": "1048588"},
		"dlq":       {"min.insync.replicas": "2", "max.message.bytes": "8388608", "retention.ms": "-1"},
		"dlq.state": {"min.insync.replicas": "2", "cleanup.policy": "compact"},
		"ckpt":      {"min.insync.replicas": "2", "cleanup.policy": "compact", "unclean.leader.election.enable": "false"},
	}
}

// partitions of the topics; 1 is the default.
func newWorld(t *testing.T, topicConfigs map[string]map[string]string, partitions map[string]int, opts ...kfake.Opt) *world {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3), kfake.ClusterID("the-cluster")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for _, name := range slices.Sorted(maps.Keys(topicConfigs)) {
		n := max(1, partitions[name])
		if err := c.CreateTopic(name, int32(n), topicConfigs[name]); err != nil {
			t.Fatal(err)
		}
	}
	return &world{cluster: c, cfg: preflight.Config{
		Kafka: kafka.Config{Brokers: c.ListenAddrs(), ConnectionTimeout: 2 * time.Second, RequestTimeout: 10 * time.Second},
		Name:  "orders", Topics: topics, TransactionTimeout: time.Minute, Log: zerolog.Nop(),
	}}
}

func (w *world) run(t *testing.T) preflight.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var emitted int
	report, err := preflight.Run(ctx, w.cfg, func(preflight.Result) { emitted++ })
	if err != nil {
		t.Fatal(err)
	}
	if emitted != len(report.Results) {
		t.Errorf("%d results were emitted, and %d are in the report", emitted, len(report.Results))
	}
	for _, r := range report.Results {
		if bad := r.Status == preflight.Fail || r.Status == preflight.Warn; bad && (r.Code == "" || r.Why == "" || r.Fix == "") || !bad && r.Code != "" {
			t.Errorf("%s %s: %+v", r.Step, r.Target, r)
		}
		if r.Finding == "" {
			t.Errorf("%s %s found nothing to say", r.Step, r.Target)
		}
	}
	if t.Failed() {
		t.Log(text(report))
	}
	return report
}

// text is a report for the log of a test.
func text(report preflight.Report) string {
	var b strings.Builder
	for _, r := range report.Results {
		fmt.Fprintf(&b, "%-7s %-20s %-28s %s %s | %s | %s\n", r.Status, r.Step, r.Target, r.Code, r.Finding, r.Why, r.Fix)
	}
	return b.String()
}

// troubles are the results that did not pass, as "status step code".
func troubles(report preflight.Report) []string {
	var all []string
	for _, r := range report.Results {
		switch r.Status {
		case preflight.Warn, preflight.Fail:
			all = append(all, fmt.Sprintf("%s %s %s", r.Status, r.Step, r.Code))
		}
	}
	return all
}

// closedPort is an address that refuses connections.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// silence is an address that takes connections and never says a word.
func silence(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var held []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			held = append(held, c)
		}
		for _, c := range held {
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

// advertise has the brokers name another address, for one of them or for all.
func (w *world) advertise(t *testing.T, host, port string, all bool) {
	t.Helper()
	_, digits, err := net.SplitHostPort(port)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	at := w.cluster.ListenAddrs()
	w.cluster.ControlKey(kmsg.Metadata.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		req := kreq.(*kmsg.MetadataRequest)
		if len(req.Topics) > 0 || req.Topics == nil {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		resp.ClusterID, resp.ControllerID = kmsg.StringPtr("the-cluster"), 0
		for i, addr := range at {
			b := kmsg.NewMetadataResponseBroker()
			b.NodeID = int32(i)
			h, p, _ := net.SplitHostPort(addr)
			b.Host = h
			q, _ := strconv.Atoi(p)
			b.Port = int32(q)
			if all || i == 0 {
				b.Host, b.Port = host, int32(n)
			}
			resp.Brokers = append(resp.Brokers, b)
		}
		return resp, nil, true
	})
}
