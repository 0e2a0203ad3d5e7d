package verify_test

import (
	"testing"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/replication"
)

// TestOrigin: what lies before a switch is the same row under each of its names;
// what the old timeline wrote behind it is not the new one's.
func TestOrigin(t *testing.T) {
	history := []replication.Switch{{Timeline: 1, At: 100}, {Timeline: 2, At: 200}}
	for _, c := range []struct {
		timeline int32
		at       pglogrepl.LSN
		want     int32
	}{
		{1, 99, 1},
		{2, 99, 1},
		{3, 99, 1},
		{1, 100, 1},
		{2, 100, 2},
		{3, 100, 2},
		{1, 250, 1},
		{2, 250, 2},
		{3, 200, 3},
	} {
		if got := verify.Origin(history, c.timeline, c.at); got != c.want {
			t.Errorf("%d:%d is of timeline %d, want %d", c.timeline, c.at, got, c.want)
		}
	}
}
