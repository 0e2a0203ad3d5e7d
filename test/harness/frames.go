package harness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// maxFrame is more than any request here and less than a stream of nonsense
// would ask for.
const maxFrame = 256 << 20

// KafkaProxy stands between clients and one broker and knows where a request
// begins and what it asks for. All passes byte for byte; a Rule drops or holds
// one request, or the answer to one. The broker must advertise the address of
// the proxy (KafkaConfig.Advertised), or the client must dial it for every
// broker. Only plaintext without SASL is understood. It is safe for concurrent
// use.
type KafkaProxy struct {
	front *front

	mu       sync.Mutex
	rules    []*Rule
	requests map[kmsg.Key]int
	answers  map[kmsg.Key]int
}

// StartKafkaProxy listens on a free loopback port for connections to a
// broker. The caller owes a Close.
func StartKafkaProxy(broker string) (*KafkaProxy, error) {
	p := &KafkaProxy{requests: map[kmsg.Key]int{}, answers: map[kmsg.Key]int{}}
	var err error
	p.front, err = startFront(broker, p.serve)
	return p, err
}

// NewKafkaProxy is StartKafkaProxy for one test.
func NewKafkaProxy(t testing.TB, broker string) *KafkaProxy {
	t.Helper()
	p, err := StartKafkaProxy(broker)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// NewProxiedKafka starts a broker for one test with a frame proxy in front of
// its client listener. It replaces cfg.Advertised.
func NewProxiedKafka(t testing.TB, cfg KafkaConfig) (*KafkaServer, *KafkaProxy) {
	t.Helper()
	var p *KafkaProxy
	cfg.Advertised = func(listener string) (string, error) {
		p = NewKafkaProxy(t, listener)
		return p.Addr(), nil
	}
	return NewKafka(t, cfg), p
}

// Addr returns the address to connect to.
func (p *KafkaProxy) Addr() string { return p.front.addr }

// Cut resets all connections and has new ones refused.
func (p *KafkaProxy) Cut() { p.front.cut() }

// Restore ends a Cut. Rules stay.
func (p *KafkaProxy) Restore() error { return p.front.restore() }

// Close cuts all connections and returns when all goroutines have ended.
func (p *KafkaProxy) Close() { p.front.close() }

// Requests returns how many requests with the key have arrived from clients.
func (p *KafkaProxy) Requests(key kmsg.Key) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests[key]
}

// Answers returns how many answers to the key have arrived from the broker.
func (p *KafkaProxy) Answers(key kmsg.Key) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answers[key]
}

// Counts returns the requests that have arrived, by key.
func (p *KafkaProxy) Counts() map[kmsg.Key]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.requests)
}

// conversation is one connection: which answers are still owed, and what is
// to be done with them.
type conversation struct {
	*link
	mu   sync.Mutex
	owed map[int32]owed // by correlation id
}

type owed struct {
	key  kmsg.Key
	rule *Rule // nil: pass
}

func (p *KafkaProxy) serve(l *link) {
	c := &conversation{link: l, owed: map[int32]owed{}}
	var both sync.WaitGroup
	both.Go(func() { p.pump(c, p.passRequest, l.client, l.server) })
	both.Go(func() { p.pump(c, p.passAnswer, l.server, l.client) })
	both.Wait()
}

// errSwallow ends a direction without ending the connection.
var errSwallow = errors.New("the rest is swallowed")

// pump moves one direction, frame by frame. An orderly end is passed on as
// one: a client that sent its last request and died must not take that request
// away from the broker.
func (p *KafkaProxy) pump(c *conversation, pass func(*conversation, []byte) error, from, to *net.TCPConn) {
	for {
		frame, err := readFrame(from)
		if err == nil {
			err = pass(c, frame)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			to.CloseWrite()
			return
		case errors.Is(err, errSwallow):
			io.Copy(io.Discard, from) // the end comes with the client's patience
			c.cancel()
			return
		default:
			c.cancel()
			return
		}
	}
}

// readFrame returns a whole frame with its size in front.
func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 4 || n > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes", n)
	}
	frame := make([]byte, 4+n)
	copy(frame, size[:])
	if _, err := io.ReadFull(r, frame[4:]); err != nil {
		return nil, fmt.Errorf("read a frame of %d bytes: %w", n, io.ErrUnexpectedEOF)
	}
	return frame, nil
}

func (p *KafkaProxy) passRequest(c *conversation, frame []byte) error {
	req, err := parseRequest(frame[4:])
	if err != nil {
		return err
	}
	onRequest, onAnswer := p.judge(req)
	if onRequest != nil {
		if err := onRequest.apply(c.ctx); err != nil {
			return err
		}
	}
	// Before the write: the answer may come while it returns.
	c.mu.Lock()
	c.owed[req.Correlation] = owed{req.Key, onAnswer}
	c.mu.Unlock()
	_, err = c.server.Write(frame)
	return err
}

func (p *KafkaProxy) passAnswer(c *conversation, frame []byte) error {
	correlation := int32(binary.BigEndian.Uint32(frame[4:]))
	c.mu.Lock()
	o, ok := c.owed[correlation]
	delete(c.owed, correlation)
	c.mu.Unlock()
	if !ok {
		return fmt.Errorf("an answer to nothing: correlation %d", correlation)
	}
	p.mu.Lock()
	p.answers[o.key]++
	p.mu.Unlock()
	if o.rule != nil {
		if err := o.rule.apply(c.ctx); err != nil {
			return err
		}
	}
	_, err := c.client.Write(frame)
	return err
}
