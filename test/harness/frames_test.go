package harness

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fakeBroker is one broker in process behind a frame proxy.
func fakeBroker(t *testing.T) (*kfake.Cluster, *KafkaProxy) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "events"))
	mustBeNil(t, err)
	t.Cleanup(c.Close)
	return c, NewKafkaProxy(t, c.ListenAddrs()[0])
}

// clientVia dials the proxy for every broker: the fake one advertises itself.
func clientVia(t *testing.T, p *KafkaProxy, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(p.Addr()),
		kgo.ClientID("under-test"),
		kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, p.Addr())
		}),
		kgo.DefaultProduceTopic("events"),
		kgo.RetryTimeout(10 * time.Second),
	}, opts...)...)
	mustBeNil(t, err)
	t.Cleanup(cl.Close)
	return cl
}

// askOnce asks for metadata with no second try. A first request of its own
// settles the versions.
func askOnce(ctx context.Context, cl *kgo.Client) error {
	_, err := cl.Broker(0).Request(ctx, kmsg.NewPtrMetadataRequest())
	return err
}

func TestFramesPass(t *testing.T) {
	t.Parallel()
	_, p := fakeBroker(t)
	cl := clientVia(t, p, kgo.ConsumeTopics("events"), kgo.FetchMaxWait(100*time.Millisecond))
	large := bytes.Repeat([]byte("payload "), 100_000)
	ctx := within(t, 20*time.Second)
	mustBeNil(t, cl.ProduceSync(ctx, &kgo.Record{Value: large}).FirstErr())
	fetched := cl.PollFetches(ctx)
	mustBeNil(t, fetched.Err())
	if got := fetched.Records()[0].Value; !bytes.Equal(got, large) {
		t.Errorf("got %d bytes, want %d", len(got), len(large))
	}
	if n := p.Requests(kmsg.Produce); n != 1 || p.Answers(kmsg.Produce) != 1 || p.Counts()[kmsg.Produce] != 1 {
		t.Errorf("counted %d requests and %d answers", n, p.Answers(kmsg.Produce))
	}
	if p.Requests(kmsg.EndTxn) != 0 {
		t.Error("counted an EndTxn that was not sent")
	}
}

func TestFramesDrop(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		drop    func(*KafkaProxy) *Rule
		reached bool // the broker has seen it
	}{
		"request": {func(p *KafkaProxy) *Rule { return p.DropRequest(kmsg.Metadata) }, false},
		"answer":  {func(p *KafkaProxy) *Rule { return p.DropAnswer(kmsg.Metadata) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, p := fakeBroker(t)
			reached := 0
			c.ControlKey(kmsg.Metadata.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				reached++
				return nil, nil, false
			})
			cl := clientVia(t, p, kgo.RequestRetries(0))
			ctx := within(t, 10*time.Second)
			mustBeNil(t, askOnce(ctx, cl))
			before := reached

			r := tc.drop(p)
			if err := askOnce(ctx, cl); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v; want a transport error at once", err)
			}
			await(t, "seen", r.Seen())
			if (reached-before == 1) != tc.reached {
				t.Errorf("the broker got %d", reached-before)
			}
			if r.Taken() != 1 {
				t.Errorf("taken %d", r.Taken())
			}
			mustBeNil(t, askOnce(ctx, cl)) // one only
		})
	}
}

func TestFramesHang(t *testing.T) {
	t.Parallel()
	for name, drop := range map[string]func(*KafkaProxy) *Rule{
		"request": func(p *KafkaProxy) *Rule { return p.DropRequest(kmsg.Metadata, Hang()) },
		"answer":  func(p *KafkaProxy) *Rule { return p.DropAnswer(kmsg.Metadata, Hang()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p := fakeBroker(t)
			cl := clientVia(t, p, kgo.RequestRetries(0))
			mustBeNil(t, askOnce(within(t, 10*time.Second), cl))
			drop(p)
			if err := askOnce(within(t, silence), cl); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v; want nothing until the deadline", err)
			}
		})
	}
}

func TestFramesHold(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		hold    func(*KafkaProxy) *Rule
		reached bool
	}{
		"request": {func(p *KafkaProxy) *Rule { return p.HoldRequest(kmsg.Produce) }, false},
		"answer":  {func(p *KafkaProxy) *Rule { return p.HoldAnswer(kmsg.Produce) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, p := fakeBroker(t)
			cl := clientVia(t, p)
			r := tc.hold(p)
			done := make(chan struct{})
			var err error
			go func() {
				defer close(done)
				err = cl.ProduceSync(t.Context(), kgo.StringRecord("x")).FirstErr()
			}()
			await(t, "seen", r.Seen())
			if got := highWatermark(t, c); (got == 1) != tc.reached {
				t.Errorf("the broker has %d records while it is held", got)
			}
			select {
			case <-done:
				t.Fatalf("the produce ended while it was held: %v", err)
			case <-time.After(silence):
			}
			r.Release()
			r.Release()
			await(t, "produced", done)
			mustBeNil(t, err)
			if got := highWatermark(t, c); got != 1 {
				t.Errorf("the broker has %d records", got)
			}
		})
	}
}

func highWatermark(t *testing.T, c *kfake.Cluster) int64 {
	t.Helper()
	return c.PartitionInfo("events", 0).HighWatermark
}

// A held request reaches the broker although its client is gone: the late
// EndTxn of the transaction protocol is made of this.
func TestFramesHeldRequestOutlivesClient(t *testing.T) {
	t.Parallel()
	c, p := fakeBroker(t)
	cl := clientVia(t, p)
	r := p.HoldRequest(kmsg.Produce)
	cl.Produce(t.Context(), kgo.StringRecord("late"), nil)
	await(t, "seen", r.Seen())
	cl.Close()
	arrived := make(chan struct{})
	c.ControlKey(kmsg.Produce.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		close(arrived)
		return nil, nil, false
	})
	r.Release()
	await(t, "the late request", arrived)
}

func TestFramesAim(t *testing.T) {
	t.Parallel()
	_, p := fakeBroker(t)
	cl := clientVia(t, p, kgo.RequestRetries(0))
	ctx := within(t, 10*time.Second)
	mustBeNil(t, askOnce(ctx, cl))

	outcomes := func(n int) (s string) {
		for range n {
			if askOnce(ctx, cl) == nil {
				s += "+"
			} else {
				s += "-"
			}
		}
		return s
	}
	for _, tc := range []struct {
		name string
		opts []RuleOption
		key  kmsg.Key
		want string
	}{
		{"next", nil, kmsg.Metadata, "-++++"},
		{"nth", []RuleOption{After(2)}, kmsg.Metadata, "++-++"},
		{"n", []RuleOption{Times(3)}, kmsg.Metadata, "---++"},
		{"all", []RuleOption{Always()}, kmsg.Metadata, "-----"},
		{"other key", []RuleOption{Always()}, kmsg.EndTxn, "+++++"},
		{"other client", []RuleOption{Always(), Matching(func(r Request) bool { return r.ClientID != "under-test" })}, kmsg.Metadata, "+++++"},
		{"this client", []RuleOption{Times(2), Matching(func(r Request) bool { return r.ClientID == "under-test" })}, kmsg.Metadata, "--+++"},
		{"any key", []RuleOption{Times(1), Matching(func(r Request) bool { return r.Key == kmsg.Metadata })}, AnyKey, "-++++"},
	} {
		r := p.DropAnswer(tc.key, tc.opts...)
		if got := outcomes(5); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
		r.Release()
		if got := outcomes(1); got != "+" {
			t.Errorf("%s: still there after its release", tc.name)
		}
	}
}

// The answer to a commit is lost, and the commit stands; the request of one
// is lost, and it does not. The client's error is the same.
func TestFramesTellCommitFromAbort(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		drop      func(*KafkaProxy) *Rule
		committed bool
	}{
		"answer":  {func(p *KafkaProxy) *Rule { return p.DropAnswer(kmsg.EndTxn, Matching(Commits)) }, true},
		"request": {func(p *KafkaProxy) *Rule { return p.DropRequest(kmsg.EndTxn, Matching(Commits)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, p := fakeBroker(t)
			aborts := p.DropRequest(kmsg.EndTxn, Matching(Aborts), After(1), Always()) // none but the first
			cl := clientVia(t, p, kgo.TransactionalID("t"), kgo.RetryTimeoutFn(func(key int16) time.Duration {
				if key == kmsg.EndTxn.Int16() {
					return time.Nanosecond
				}
				return 10 * time.Second
			}))
			ctx := within(t, 10*time.Second)
			transact := func(try kgo.TransactionEndTry) error {
				mustBeNil(t, cl.BeginTransaction())
				mustBeNil(t, cl.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr())
				return cl.EndTransaction(ctx, try)
			}
			r := tc.drop(p)
			mustBeNil(t, transact(kgo.TryAbort))
			if aborts.Taken() != 0 || r.Taken() != 0 {
				t.Fatalf("an abort was taken for a commit: %d, %d", aborts.Taken(), r.Taken())
			}
			err := transact(kgo.TryCommit)
			await(t, "seen", r.Seen())
			if err == nil {
				t.Fatal("the commit is said to be well")
			}
			if info := c.PartitionInfo("events", 0); (info.LastStableOffset == info.HighWatermark) != tc.committed {
				t.Errorf("stable up to %d of %d", info.LastStableOffset, info.HighWatermark)
			}
		})
	}
}

func TestFramesCut(t *testing.T) {
	t.Parallel()
	_, p := fakeBroker(t)
	cl := clientVia(t, p, kgo.RequestRetries(0))
	ctx := within(t, 10*time.Second)
	mustBeNil(t, askOnce(ctx, cl))
	held := p.HoldAnswer(kmsg.Metadata)
	ended := make(chan error, 1)
	go func() { ended <- askOnce(ctx, cl) }()
	await(t, "seen", held.Seen())
	p.Cut() // a hold does not keep a connection alive
	if err := <-ended; err == nil || ctx.Err() != nil {
		t.Fatalf("got %v through a cut", err)
	}
	if err := askOnce(ctx, cl); err == nil {
		t.Fatal("an answer through a cut")
	}
	mustBeNil(t, p.Restore())
	mustBeNil(t, askOnce(ctx, cl))
}

func TestFramesRefuseNonsense(t *testing.T) {
	t.Parallel()
	_, p := fakeBroker(t)
	for _, frame := range [][]byte{
		[]byte("GET / HTTP/1.1\r\n\r\n"),
		{0, 0, 0, 0},
		{0, 0, 0, 4, 0, 0, 0, 0},
		{0, 0, 0, 10, 0, 3, 0, 12, 0, 0, 0, 1, 0, 99},            // a client id longer than the frame
		{0, 0, 0, 11, 0, 3, 0, 12, 0, 0, 0, 1, 0xff, 0xff, 0xff}, // tags without an end
	} {
		c := dial(t, p.Addr())
		_, err := c.Write(frame)
		mustBeNil(t, err)
		if _, err := c.hear(10 * time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: got %v; want the end of the connection", frame, err)
		}
	}
}

// The parser agrees with the library that wrote the request, in every version
// of every key.
func TestParseRequest(t *testing.T) {
	t.Parallel()
	format := kmsg.NewRequestFormatter(kmsg.FormatterClientID("someone"))
	for key := range kmsg.MaxKey + 1 {
		req := kmsg.RequestForKey(int16(key))
		if req == nil {
			continue
		}
		for version := range req.MaxVersion() + 1 {
			if key == 7 && version == 0 {
				continue // ControlledShutdown between brokers of old: no client id, and not for clients
			}
			req.SetVersion(version)
			frame := format.AppendRequest(nil, req, 77)
			got, err := parseRequest(frame[4:])
			if err != nil {
				t.Fatalf("key %d version %d: %v", key, version, err)
			}
			if int(got.Key) != key || got.Version != version || got.Correlation != 77 || !bytes.Equal(got.Body, req.AppendTo(nil)) {
				t.Errorf("key %d version %d: got %+v", key, version, got)
			}
			if got.ClientID != "someone" {
				t.Errorf("key %d version %d: client %q", key, version, got.ClientID)
			}
			for cut := range len(frame) - 4 - len(got.Body) {
				if _, err := parseRequest(frame[4 : 4+cut]); err == nil {
					t.Errorf("key %d version %d: %d bytes of a header are a request", key, version, cut)
				}
			}
		}
	}
}
