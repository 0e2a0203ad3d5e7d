package live

import (
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/health"
)

// About is what does not change while the process runs.
type About struct {
	Service, Version, Instance string
	Relay                      string // its name, the same on all replicas
	Fingerprint                string // of the settings
	Names                      Names
	// Admin is where the admin listener is; empty: there is none.
	Admin string
	// AdminToken tells whether a token is set, without which nothing can be
	// changed there.
	AdminToken bool
}

// Names are those of the things that the relay works on, as one types them.
type Names struct {
	Slot        string `json:"slot"`
	Publication string `json:"publication"`
	Table       string `json:"table"`
	Events      string `json:"events_topic"`
	Letters     string `json:"dlq_topic"`
	Checkpoint  string `json:"checkpoint_topic"`
}

// Slot is what the owner of the view of the slot says of it.
type Slot struct {
	// View is shown as it is.
	View      any
	Known     bool // the server was asked, and answered, and the slot exists
	Server    string
	Confirmed string
	Lag       int64 // bytes of WAL that are not confirmed
	Retained  int64 // bytes of WAL that the server keeps for the slot
}

// Status is the answer of /api/status. Its keys are stable.
type Status struct {
	Service     string    `json:"service"`
	Version     string    `json:"version"`
	Instance    string    `json:"instance"`
	Relay       string    `json:"relay"`
	Role        string    `json:"role"`
	State       string    `json:"state"`
	Since       string    `json:"since"`
	Ready       bool      `json:"ready"`
	Halted      bool      `json:"halted"`
	Guarantee   string    `json:"guarantee"`
	Breaker     string    `json:"breaker"`
	Time        string    `json:"time"`
	Uptime      float64   `json:"uptime_seconds"`
	Fingerprint string    `json:"config_fingerprint"`
	Names       Names     `json:"names"`
	Admin       *Admin    `json:"admin"`
	Trouble     *Trouble  `json:"trouble"`
	Positions   Positions `json:"positions"`
	Totals      Totals    `json:"totals"`
	Rates       Rates     `json:"rates"`
	Latency     Latency   `json:"latency"`
	Lag         Lag       `json:"lag"`
	Slot        any       `json:"slot"`
	sampled     sample    // for the history
	at          time.Time // of the status
}

// Admin says where the admin listener is.
type Admin struct {
	Addr  string `json:"addr"`
	Token bool   `json:"token_set"`
}

// Trouble is what a person needs to act.
type Trouble struct {
	Code       string `json:"code"`
	Name       string `json:"name"`
	Detail     string `json:"detail"`
	Why        string `json:"why"`
	Fix        string `json:"fix"`
	Connection string `json:"connection,omitempty"`
}

// Positions are points in the WAL, as SQL writes them, of this replica.
type Positions struct {
	Timeline       int32  `json:"timeline"`
	CheckpointLSN  string `json:"checkpoint_lsn"`
	CheckpointSeq  uint64 `json:"checkpoint_seq"`
	CheckpointTime string `json:"checkpoint_time"`
	ConfirmedLSN   string `json:"confirmed_lsn"`
	ServerLSN      string `json:"server_lsn"`
	LastCommitLSN  string `json:"last_commit_lsn"`
	LastCommitTime string `json:"last_commit_time"`
}

// Totals are those of the checkpoint: since the relay was initialised, of all
// replicas. A replica that has not streamed knows none, and says 0.
type Totals struct {
	Rows         uint64 `json:"rows"`
	DeadLetters  uint64 `json:"dead_letters"`
	Transactions uint64 `json:"transactions"` // of Kafka, those without rows included
	ParkedKeys   int    `json:"parked_keys"`
}

// Lag is how far Kafka is behind Postgres; null: not known.
type Lag struct {
	Bytes   *int64   `json:"bytes"`
	Seconds *float64 `json:"seconds"`
}

// status puts together what is known now.
func (f *Feed) status() *Status {
	r := f.Recorder
	now := r.now()
	st, slot := f.State(), f.slot()
	s := &Status{
		Service: f.About.Service, Version: f.About.Version, Instance: f.About.Instance, Relay: f.About.Relay,
		Role: st.Role, State: st.State, Since: stamp(st.Since), Ready: st.Ready && !st.Halted, Halted: st.Halted,
		Guarantee: st.Guarantee, Breaker: st.Breaker, Time: stamp(now), Uptime: now.Sub(r.started).Seconds(),
		Fingerprint: f.About.Fingerprint, Names: f.About.Names, Trouble: troubleOf(st), Slot: slot.View, at: now,
	}
	if f.About.Admin != "" {
		s.Admin = &Admin{Addr: f.About.Admin, Token: f.About.AdminToken}
	}
	r.mu.Lock()
	p := r.at
	s.Rates, s.Latency = r.window.rates(now, r.started), r.window.quantiles(now)
	r.mu.Unlock()
	s.Positions = Positions{
		Timeline: p.timeline, CheckpointLSN: lsn(p.lsn), CheckpointSeq: p.seq, CheckpointTime: stamp(p.time),
		LastCommitLSN: lsn(p.commit), LastCommitTime: stamp(p.commitTime),
	}
	s.Totals = Totals{Rows: p.rows, DeadLetters: p.letters, Transactions: p.seq, ParkedKeys: p.parked}
	s.sampled = sample{at: now, rows: s.Rates.Rows, retained: none, lagBytes: none, lagSeconds: none, p50: value(s.Latency.P50), p99: value(s.Latency.P99)}
	if slot.Known {
		s.Positions.ConfirmedLSN, s.Positions.ServerLSN = slot.Confirmed, slot.Server
		s.Lag.Bytes = &slot.Lag
		s.sampled.lagBytes, s.sampled.retained = float64(slot.Lag), float64(slot.Retained)
	}
	if f.Lag != nil {
		if seconds, known := f.Lag(); known {
			s.Lag.Seconds = &seconds
			s.sampled.lagSeconds = seconds
		}
	}
	return s
}

func (f *Feed) slot() Slot {
	if f.Slot == nil {
		return Slot{}
	}
	return f.Slot()
}

func troubleOf(st health.Status) *Trouble {
	if st.Code == "" {
		return nil
	}
	return &Trouble{Code: st.Code, Name: st.Name, Detail: st.Detail, Why: st.Why, Fix: st.Fix, Connection: st.Connection}
}

// lsn is a position as SQL writes it, and nothing for none.
func lsn(at pglogrepl.LSN) string {
	if at == 0 {
		return ""
	}
	return at.String()
}

// stamp is RFC 3339 with milliseconds, in UTC, and nothing for no time.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z07:00")
}
