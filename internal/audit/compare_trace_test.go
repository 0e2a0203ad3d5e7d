package audit

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

// A span that the relay has put between a row and its record is no difference; another
// trace is.
func TestTraceOfRow(t *testing.T) {
	t.Parallel()
	const (
		row     = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		span    = "00-4bf92f3577b34da6a3ce929d0e0e4736-1111111111111111-01"
		foreign = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	)
	for name, c := range map[string]struct {
		parent, kept, want string
	}{
		"no tracing":      {row, "", row},
		"a span between":  {span, row, row},
		"of another":      {foreign, row, foreign},
		"a stub":          {span, "00-4bf9", span},
		"no form":         {"x", row, "x"},
		"nothing between": {row, row, row},
	} {
		headers := []kgo.RecordHeader{{Key: outbox.HeaderTraceParent, Value: []byte(c.parent)}}
		if c.kept != "" {
			headers = append(headers, kgo.RecordHeader{Key: outbox.HeaderTraceRow, Value: []byte(c.kept)})
		}
		if got := traceOfRow([]byte(c.parent), headers); string(got) != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
