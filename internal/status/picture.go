// Package status is one screen about one relay: what is the matter, and what to
// type.
//
// Its job: ask the relay's own HTTP listener, Postgres and Kafka side by side,
// each with its own patience, and make one picture of what answers came. What
// does not answer is part of the picture. It judges the picture by the rules by
// which serve would, names what is wrong, and says which command comes next.
//
// Invariants: nothing is changed by looking, and nobody is fenced. No source
// waits for another, so the screen is there with Postgres, Kafka and the relay
// down, and before anything was initialised.
//
// It leaves to others how each of the three is asked (cmd), what a slot's state
// means (internal/slots), and deciding anything (internal/relay).
package status

import (
	"time"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/slots"
	"github.com/holdwall/outbox-relay/replication"
)

// Trouble is what somebody needs to act; its keys are stable.
type Trouble struct {
	Code   string `json:"code"`
	Name   string `json:"name"`
	Detail string `json:"detail"`
	Why    string `json:"why"`
	Fix    string `json:"fix"`
}

// Process is what a running relay says of itself at /api/status, as far as it is
// shown here.
type Process struct {
	Addr      string   `json:"addr"`
	Version   string   `json:"version"`
	Instance  string   `json:"instance"`
	Relay     string   `json:"relay"`
	Role      string   `json:"role"`
	State     string   `json:"state"`
	Since     string   `json:"since"`
	Guarantee string   `json:"guarantee"`
	Breaker   string   `json:"breaker"`
	Trouble   *Trouble `json:"trouble"`
	Totals    struct {
		Rows        uint64 `json:"rows"`
		DeadLetters uint64 `json:"dead_letters"`
	} `json:"totals"`
	Rates struct {
		Rows float64 `json:"rows_per_second"`
	} `json:"rates"`
	Lag struct {
		Bytes   *int64   `json:"bytes"`
		Seconds *float64 `json:"seconds"`
	} `json:"lag"`
	Slot *struct {
		Paused   bool      `json:"paused"`
		PausedBy string    `json:"paused_by"`
		Findings []Trouble `json:"findings"`
	} `json:"slot"`
}

// Postgres is what the server says.
type Postgres struct {
	Server  string      `json:"server"` // host:port/database
	Version string      `json:"version"`
	Slot    *slots.View `json:"slot"` // nil: there is none

	Identity replication.Identity `json:"-"`
	Position replication.Slot     `json:"-"`
}

// Kafka is what the checkpoint topic says.
type Kafka struct {
	Checkpoint *Checkpoint `json:"checkpoint"` // nil: there is none

	Last *checkpoint.Checkpoint `json:"-"`
}

// Checkpoint is the position in Kafka; its keys are stable.
type Checkpoint struct {
	Seq         uint64    `json:"seq"`
	Position    string    `json:"position"`
	Time        time.Time `json:"time"`
	Rows        uint64    `json:"rows_total"`
	DeadLetters uint64    `json:"dlq_total"`
	ParkedKeys  int       `json:"parked_keys"`
	Host        string    `json:"host"`
}

// Answer is what came of one question.
type Answer[T any] struct {
	Value *T       `json:"value"`
	Error *Trouble `json:"error"`
	Asked bool     `json:"-"` // there was an answer or an error at all
}

// Picture is everything that one look shows; its keys are stable.
type Picture struct {
	Time     time.Time        `json:"time"`
	Relay    string           `json:"relay"`
	Slot     string           `json:"slot_name"`
	Process  Answer[Process]  `json:"process"`
	Postgres Answer[Postgres] `json:"postgres"`
	Kafka    Answer[Kafka]    `json:"kafka"`
	// RowsPerSecond is that of the checkpoint while it was watched; nil: not
	// known.
	RowsPerSecond *float64  `json:"rows_per_second"`
	Findings      []Trouble `json:"findings"`
	Next          string    `json:"next"`
}
