package recovery

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/outbox"
)

// Ordered says in which order rows are published.
func (r *Recovery) Ordered() string { return ordered(r.Survey, r.cfg.Columns) }

// Caveats are what nobody can know, in words.
func (r *Recovery) Caveats() []string {
	all := []string{"rows that were deleted from the table, and never published, are not found"}
	last := r.State.Last
	if u := r.UnderWay; u != nil && !u.At.IsZero() {
		all = append(all, window(u.At, r.Found.Oldest)...)
	} else if last != nil {
		all = append(all, window(last.Time, r.Found.Oldest)...)
	}
	if r.State.Intent == nil {
		all = append(all, "when the relay was initialised: rows from before look like missing ones, --since leaves them out")
	}
	if len(r.cfg.Topics) == 0 {
		all = append(all, "events in topics that no row of the table belongs to any more: --topic names them")
	}
	if n := r.Found.Missing.Count; n > 0 && (r.cfg.Missing || r.ByHeaders) {
		all = append(all, "whether consumers mind: missing rows come behind events of their keys that were committed later")
	}
	return all
}

// window is the time of which the table may no longer have all rows.
func window(published, oldest time.Time) []string {
	if oldest.IsZero() || !oldest.After(published) {
		return nil
	}
	return []string{fmt.Sprintf("what was committed between the last checkpoint, %s, and the oldest row of the table, %s",
		published.UTC().Format(time.RFC3339), oldest.UTC().Format(time.RFC3339))}
}

// ordered says in words what order does.
func ordered(s *Survey, columns outbox.Columns) string {
	what := "transaction id"
	if strings.Contains(order(s, columns), pgx.Identifier{columns.CreatedAt}.Sanitize()) {
		what = columns.CreatedAt + ", then " + what
	}
	if s.CommitTimes {
		return "time of the commit (track_commit_timestamp), then " + what
	}
	return fmt.Sprintf("%s: near to the order of the commits, and not always the same", what)
}
