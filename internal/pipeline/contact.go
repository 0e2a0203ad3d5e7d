package pipeline

import (
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Contact watches a group member from the side, as a hook of its client: is it
// heard by its coordinator? The consumer itself comes back from any outage and
// has nothing to say about it.
type Contact struct {
	now func() time.Time

	mu   sync.Mutex
	last time.Time // of the last answer of the coordinator
	err  error     // what went wrong since
}

// NewContact returns a contact that nobody has answered yet.
func NewContact() *Contact { return &Contact{now: time.Now} }

var (
	_ kgo.HookBrokerRead       = (*Contact)(nil)
	_ kgo.HookGroupManageError = (*Contact)(nil)
	_ kgo.HookBrokerConnect    = (*Contact)(nil)
)

// contactAge is how old an answer may be: heartbeats go out every 3 seconds,
// and a session ends after 45.
const contactAge = 20 * time.Second

// OnBrokerRead implements kgo.HookBrokerRead.
func (c *Contact) OnBrokerRead(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	switch kmsg.Key(key) {
	case kmsg.SyncGroup, kmsg.Heartbeat, kmsg.ConsumerGroupHeartbeat:
	default:
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.last, c.err = c.now(), nil
	}
}

// OnBrokerConnect implements kgo.HookBrokerConnect. Before the first answer a
// failed connection is the only news there is.
func (c *Contact) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		c.fail(err)
	}
}

// OnGroupManageError implements kgo.HookGroupManageError.
func (c *Contact) OnGroupManageError(err error) { c.fail(err) }

func (c *Contact) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// Ask tells whether the member is heard, and if not, the last that was heard
// of why; nil if nothing was.
func (c *Contact) Ask() (heard bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last.IsZero() && c.now().Sub(c.last) < contactAge {
		return true, nil
	}
	return false, c.err
}
