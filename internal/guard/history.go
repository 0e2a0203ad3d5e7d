package guard

import (
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/replication"
)

const (
	// stallAfter is how long nothing may come of a stream while the server
	// writes. A commit under way takes up to half a minute before it fails, and
	// a keepalive comes at the latest after half of wal_sender_timeout.
	stallAfter = time.Minute
	// stallBytes is WAL that is more than a server's own records at rest.
	stallBytes = 1 << 20
	// unreadAfter is how long a slot may be without a reader: a deployment or a
	// takeover is over by then.
	unreadAfter = 30 * time.Second
	// pinnedAfter is how long restart_lsn may stand while the relay confirms.
	pinnedAfter = 5 * time.Minute
	// strayAfter is how long a slot has to be idle to count as left behind, and
	// copyAfter how long a copy for `verify --data` may take.
	strayAfter = time.Minute
	copyAfter  = 15 * time.Minute
)

// auditCopy is how `verify --data` calls the temporary copies that it reads.
const auditCopy = "outbox_audit_"

// mark is when something was last different, and where the WAL ended then.
type mark struct {
	at  time.Time
	lsn pglogrepl.LSN
}

func (m mark) age(r reading) time.Duration { return r.at.Sub(m.at) }

func (m mark) bytes(r reading) int64 {
	if r.slot.CurrentLSN < m.lsn {
		return 0
	}
	return int64(r.slot.CurrentLSN - m.lsn)
}

// history is what several looks tell together.
type history struct {
	seen     bool
	timeline int32
	self     Self
	slot     replication.Slot

	progress mark // the slot was confirmed, or a Kafka transaction ended, or the stream began
	restart  mark // restart_lsn moved
	confirm  mark // confirmed_flush_lsn moved
	reader   mark // somebody read the slot
	unheld   mark // nobody did
	missing  int  // looks in a row that found no slot

	idle map[string]time.Time // other slots, since when they look left behind
}

func (h *history) add(r reading, self Self) {
	now := mark{r.at, r.slot.CurrentLSN}
	if !h.seen || h.timeline != r.timeline || r.slot.CurrentLSN < h.slot.CurrentLSN {
		*h = history{seen: true, progress: now, restart: now, confirm: now, reader: now, unheld: now, idle: h.idle}
	}
	if r.exists {
		h.missing = 0
	} else {
		h.missing++
	}
	if r.slot.ConfirmedLSN != h.slot.ConfirmedLSN {
		h.confirm, h.progress = now, now
	}
	if self.Commits != h.self.Commits || !self.Streaming || !h.self.Streaming {
		h.progress = now
	}
	if r.slot.RestartLSN != h.slot.RestartLSN {
		h.restart = now
	}
	if r.slot.Active || !r.exists {
		h.reader = now
	}
	if !r.slot.Active {
		h.unheld = now
	}
	h.timeline, h.self, h.slot = r.timeline, self, r.slot
}

// stalled tells whether the server writes while nothing comes of the stream
// that this process claims to read.
func (h *history) stalled(r reading, self Self, heartbeat time.Duration) bool {
	return self.Streaming && h.progress.age(r) >= max(stallAfter, 3*heartbeat) && h.progress.bytes(r) >= stallBytes
}

// unread tells whether WAL is kept for a slot that nobody reads.
func (h *history) unread(r reading) bool {
	return r.exists && !r.slot.Active && h.reader.age(r) >= unreadAfter && h.reader.bytes(r) > 0
}

// pinned tells whether the relay has confirmed and Postgres keeps the WAL all
// the same: a transaction that is still open began below it.
func (h *history) pinned(r reading) bool {
	return r.exists && h.unheld.age(r) >= pinnedAfter && h.restart.age(r) >= pinnedAfter &&
		h.confirm.age(r) < h.restart.age(r) && r.slot.RetainedBytes()-r.slot.LagBytes() >= pinnedBytes
}

// pinnedBytes is about what a server keeps anyway.
const pinnedBytes = 256 << 20

// strays returns the slots that this relay seems to have left behind, once they
// have looked so for a while.
func (h *history) strays(r reading, src replication.Config) []Stray {
	found := []Stray{}
	idle := map[string]time.Time{}
	for _, s := range r.others {
		patience, ours := resembles(s, src)
		if !ours {
			continue
		}
		since, known := h.idle[s.Name]
		if !known {
			since = r.at
			if !s.Active && !s.Inactive.IsZero() {
				since = s.Inactive.Add(-r.skew)
			}
		}
		idle[s.Name] = since
		if r.at.Sub(since) >= patience {
			found = append(found, Stray{Name: s.Name, RetainedBytes: s.RetainedBytes()})
		}
	}
	h.idle = idle
	return found
}

// resembles tells whether another slot may be one of this relay's, and how long
// it is left alone. Only the name can tell: which publication a slot serves is
// said by its reader, not by the slot.
func resembles(s replication.Slot, src replication.Config) (patience time.Duration, ours bool) {
	if s.Plugin != "pgoutput" || src.Conn != nil && s.Database != src.Conn.Database {
		return 0, false
	}
	if strings.HasPrefix(s.Name, auditCopy) {
		return copyAfter, true
	}
	if s.Active || s.Temporary {
		return 0, false
	}
	for _, name := range []string{src.Slot, "outbox_relay"} {
		if strings.HasPrefix(s.Name, name) || strings.HasPrefix(name, s.Name+"_") {
			return strayAfter, true
		}
	}
	return 0, false
}
