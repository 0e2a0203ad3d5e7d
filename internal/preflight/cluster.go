package preflight

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// Ranks of the steps that look at the cluster. Each leaves room for as many
// targets as there may be.
const (
	rankMetadata   = 1 << 20
	rankAdvertised = 2 << 20
	rankTopic      = 3 << 20
	rankRights     = 4 << 20
	rankTimeout    = 5 << 20
	rankProbe      = 6 << 20
)

// cluster carries out the steps behind the brokers that let us in.
func (r *run) cluster(ctx context.Context, in []kafka.Endpoint) error {
	if len(in) == 0 {
		r.begin(rankMetadata, StepMetadata, "cluster").skip("needs a broker that lets us in")
		r.skipFrom(rankAdvertised, "needs "+StepMetadata)
		return nil
	}
	cl, err := r.client(r.cfg.Kafka, in)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	meta, ok := r.metadata(ctx, adm)
	if !ok {
		r.skipFrom(rankAdvertised, "needs "+StepMetadata)
		return nil
	}
	if !r.advertised(ctx, meta.Brokers, in) {
		r.skipFrom(rankTopic, "needs a broker whose advertised address can be used")
		return nil
	}
	checkpoint := r.topics(ctx, adm)
	if r.cfg.ReadOnly {
		return nil
	}
	if !r.timeout(ctx, cl, adm) {
		checkpoint = "needs the transactional id"
	}
	s := r.begin(rankProbe, StepProbe, r.transactionalID())
	if checkpoint != "" {
		s.skip(checkpoint)
		return nil
	}
	r.probe(ctx, s, in)
	return nil
}

// skipFrom ends every step from a rank on that cannot be tried.
func (r *run) skipFrom(rank int, why string) {
	skip := func(at int, name, target string) {
		if at >= rank {
			r.begin(at, name, target).skip(why)
		}
	}
	skip(rankAdvertised, StepAdvertised, "brokers")
	skip(rankTopic, StepTopic, "topics")
	skip(rankRights, StepRights, "topics")
	skip(rankTimeout, StepTimeout, r.transactionalID())
	skip(rankProbe, StepProbe, r.transactionalID())
}

func (r *run) metadata(ctx context.Context, adm *kadm.Client) (kadm.Metadata, bool) {
	s := r.begin(rankMetadata, StepMetadata, "cluster")
	ctx, cancel := context.WithTimeout(ctx, r.request)
	defer cancel()
	meta, err := adm.BrokerMetadata(ctx)
	if err != nil {
		s.fail(kafka.Classify("ask for the brokers of the cluster", err))
		return meta, false
	}
	s.pass(fmt.Sprintf("cluster %s, %s, controller %d", orNone(meta.Cluster), count(len(meta.Brokers), "broker"), meta.Controller))
	return meta, true
}

func orNone(s string) string {
	if s == "" {
		return "without an id"
	}
	return s
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// advertised goes to every broker as clients are told to, side by side. It
// tells whether one of them can be used: without any, no request would ever be
// answered.
func (r *run) advertised(ctx context.Context, brokers kadm.BrokerDetails, seeds []kafka.Endpoint) bool {
	ok := make([]bool, len(brokers))
	var wg sync.WaitGroup
	for i, b := range brokers {
		e := kafka.Endpoint{Host: b.Host, Port: uint16(b.Port)}
		wg.Go(func() {
			s := r.begin(rankAdvertised+i, StepAdvertised, fmt.Sprintf("%d at %s", b.NodeID, e))
			dial, cancel := context.WithTimeout(ctx, r.connection)
			defer cancel()
			good, err := r.visit(dial, e)
			if err != nil {
				s.fail(r.misadvertised(b.NodeID, e, seeds, err))
				return
			}
			ok[i] = true
			s.pass(good)
		})
	}
	wg.Wait()
	for _, o := range ok {
		if o {
			return true
		}
	}
	return false
}

// visit resolves, connects and, if clients would, makes the handshake.
func (r *run) visit(ctx context.Context, e kafka.Endpoint) (string, error) {
	addrs, err := r.lookup(ctx, e.Host)
	if err != nil {
		return "", kafka.Classify("resolve "+e.Host, err)
	}
	conn, good, err := first(dialAll(ctx, e.Port, addrs))
	if conn == nil {
		return "", kafka.Classify("connect to "+e.String(), err)
	}
	defer conn.Close()
	if on, _ := r.cfg.Kafka.TLSEnabled(); on {
		if _, err := r.shake(ctx, e.Host, conn); err != nil {
			return "", kafka.Classify("handshake with "+e.String(), err)
		}
	}
	return good, nil
}

// misadvertised says what is wrong with an advertised address: the cause, in
// the words of its own code, and that it is the broker who sends clients there.
func (r *run) misadvertised(id int32, e kafka.Endpoint, seeds []kafka.Endpoint, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	cause := fault.As(err)
	f := fault.Wrap(err, fault.AdvertisedListener, "broker %d sends its clients to %s", id, e).
		WithWhy("KAFKA_BROKERS is only where a client begins; then it goes to the advertised addresses, and there %s", cause.Reason())
	if loopback(e.Host) && !anyLoopback(seeds) {
		return f.WithFix("advertised.listeners of broker %d names the broker's own host; set it to an address that clients reach", id)
	}
	return f
}

func anyLoopback(all []kafka.Endpoint) bool {
	for _, e := range all {
		if loopback(e.Host) {
			return true
		}
	}
	return false
}

func loopback(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.IsLoopback() || a.IsUnspecified()
	}
	return host == "localhost"
}
