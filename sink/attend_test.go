package sink_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Brokers that fall silent are asked for after a while, not after half of the
// transaction time-out; while they are there, whatever takes its time is waited
// for.
func TestSilentBrokers(t *testing.T) {
	for _, tc := range []struct {
		name string
		key  kmsg.Key
	}{{"while records are sent", kmsg.Produce}, {"while the checkpoint is read back", kmsg.Fetch}} {
		for name, gone := range map[string]bool{"gone": true, "slow": false} {
			t.Run(tc.name+", "+name, func(t *testing.T) {
				r := newRig(t)
				asked := make(chan struct{}, 100)
				r.cfg.Patience = 100 * time.Millisecond
				away := false
				r.cfg.Reach = func(context.Context) error {
					asked <- struct{}{}
					if away {
						return fault.New(fault.KafkaRefused, "nobody is there")
					}
					return nil
				}
				p, s := r.open(t)
				away = gone
				held := make(chan struct{})
				release := sync.OnceFunc(func() { close(held) })
				defer release()
				r.cluster.ControlKey(int16(tc.key), func(kmsg.Request) (kmsg.Response, error, bool) {
					<-held
					return nil, nil, false
				})
				if !gone {
					go func() {
						<-asked
						<-asked
						release()
					}()
				}
				c := follow(s, 1)
				err := p.write(t.Context(), t, c, event("x", 0))
				if err == nil {
					err = p.ReadBack(t.Context(), c)
				}
				if gone != fault.Has(err, fault.KafkaRefused) || !gone && err != nil {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}
