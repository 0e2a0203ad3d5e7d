package harness

import (
	"context"
	"errors"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// AnyKey aims a rule at every request.
const AnyKey kmsg.Key = -1

// Rule is what a KafkaProxy does to the requests or answers that a test aimed
// at. It applies to requests that arrive after it was made, one unless said
// otherwise.
type Rule struct {
	proxy  *KafkaProxy
	key    kmsg.Key
	match  func(Request) bool
	answer bool // it acts on the answer
	drop   bool // else it holds
	hang   bool

	skip  int // matches to let pass first
	left  int // matches still to take; negative: no bound
	taken int

	seen     chan struct{}
	seeOnce  sync.Once
	released chan struct{}
	freeOnce sync.Once
}

// RuleOption sharpens the aim of a rule.
type RuleOption func(*Rule)

// Times has the rule take the next n matches instead of one.
func Times(n int) RuleOption { return func(r *Rule) { r.left = n } }

// Always has the rule take every match until Release.
func Always() RuleOption { return func(r *Rule) { r.left = -1 } }

// After lets n matches pass first: After(2) takes the third.
func After(n int) RuleOption { return func(r *Rule) { r.skip = n } }

// Matching narrows the rule to requests of which f is true. For rules about
// answers too, f sees the request. It is called under the lock of the proxy
// and must not call it.
func Matching(f func(Request) bool) RuleOption { return func(r *Rule) { r.match = f } }

// Hang has a drop leave the connection open and silent, from then on, in the
// direction of what was dropped. The default closes both sides at once, so
// that the client sees a transport error.
func Hang() RuleOption { return func(r *Rule) { r.hang = true } }

// DropRequest swallows a request: the broker never sees it.
func (p *KafkaProxy) DropRequest(key kmsg.Key, opts ...RuleOption) *Rule {
	return p.add(&Rule{key: key, drop: true}, opts)
}

// DropAnswer swallows an answer: the broker has done what it was asked for,
// and the client is never told. Seen is closed when the answer has arrived.
func (p *KafkaProxy) DropAnswer(key kmsg.Key, opts ...RuleOption) *Rule {
	return p.add(&Rule{key: key, drop: true, answer: true}, opts)
}

// HoldRequest keeps a request, and all behind it on its connection, until
// Release. It is then delivered even if the client has gone meanwhile.
func (p *KafkaProxy) HoldRequest(key kmsg.Key, opts ...RuleOption) *Rule {
	return p.add(&Rule{key: key}, opts)
}

// HoldAnswer keeps an answer, and all behind it on its connection, until
// Release. Seen is closed when the answer has arrived.
func (p *KafkaProxy) HoldAnswer(key kmsg.Key, opts ...RuleOption) *Rule {
	return p.add(&Rule{key: key, answer: true}, opts)
}

func (p *KafkaProxy) add(r *Rule, opts []RuleOption) *Rule {
	r.proxy, r.left = p, 1
	r.seen, r.released = make(chan struct{}), make(chan struct{})
	for _, o := range opts {
		o(r)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, r)
	return r
}

// Seen is closed when the rule has acted for the first time.
func (r *Rule) Seen() <-chan struct{} { return r.seen }

// Taken returns how many requests the rule has claimed so far. Those of a rule
// about answers count when the request passes.
func (r *Rule) Taken() int {
	r.proxy.mu.Lock()
	defer r.proxy.mu.Unlock()
	return r.taken
}

// Release lets go what is held and retires the rule. It may be called again.
func (r *Rule) Release() {
	r.proxy.mu.Lock()
	r.left = 0
	r.proxy.mu.Unlock()
	r.freeOnce.Do(func() { close(r.released) })
}

// judge counts a request and finds the first rule for it and the first for its
// answer. A request that will be dropped takes no rule about answers: there
// will be none.
func (p *KafkaProxy) judge(req Request) (onRequest, onAnswer *Rule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests[req.Key]++
	for _, r := range p.rules {
		if !r.answer && r.take(req) {
			onRequest = r
			break
		}
	}
	if onRequest != nil && onRequest.drop {
		return onRequest, nil
	}
	for _, r := range p.rules {
		if r.answer && r.take(req) {
			onAnswer = r
			break
		}
	}
	return onRequest, onAnswer
}

// take is called with the proxy's lock held.
func (r *Rule) take(req Request) bool {
	if r.left == 0 || r.key != AnyKey && r.key != req.Key || r.match != nil && !r.match(req) {
		return false
	}
	if r.skip > 0 {
		r.skip--
		return false
	}
	if r.left > 0 {
		r.left--
	}
	r.taken++
	return true
}

var errDropped = errors.New("dropped by a rule")

// apply returns nil if the frame may pass, after the wait if it was held.
func (r *Rule) apply(ctx context.Context) error {
	r.seeOnce.Do(func() { close(r.seen) })
	switch {
	case r.drop && r.hang:
		return errSwallow
	case r.drop:
		return errDropped
	}
	select {
	case <-r.released:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
