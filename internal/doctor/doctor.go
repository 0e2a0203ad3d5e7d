// Package doctor looks at everything a relay stands on and says what is wrong,
// or will be: settings, Postgres, slot, publication, Kafka, rights, this host.
//
// It works in two steps. Facts are gathered from each side at the same time, and
// what one side does not give is missing, no more. Then the checks judge: each
// is a function of the facts, without input or output, that either is content, or
// names its problems with code, why and fix. A check whose facts are missing is
// skipped and says what it needs.
//
// Invariants:
//
//   - Nothing is changed and no relay is disturbed: no slot is taken, no
//     transactional id, nothing is written anywhere.
//   - A check says only codes that it has declared; the page of checks is
//     written from these declarations.
//   - Each connection has its own time-out, and all are made side by side. Where
//     everything answers, all is over in two seconds.
//   - A finding never holds a secret, a payload or a key.
//
// It leaves to others: steps through a single broker, and the judgement of topics
// (internal/preflight); what a session would halt with (internal/relay); rows and
// records (internal/audit); printing and exit codes (cmd).
package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// Status is how a check ended.
type Status string

// The ends. A check is skipped if its facts are missing, or if there is nothing
// for it to look at.
const (
	Pass Status = "pass"
	Warn Status = "warn" // works, and should not stay so
	Fail Status = "fail" // does not work, or loses something when it matters
	Skip Status = "skip"
)

// Group is what a check is about.
type Group string

// The groups, in the order of the report.
const (
	Settings    Group = "config"
	Postgres    Group = "postgres"
	Slot        Group = "slot"
	Publication Group = "publication"
	Kafka       Group = "kafka"
	Rights      Group = "rights"
	Host        Group = "host"
)

// Groups are all of them.
func Groups() []Group {
	return []Group{Settings, Postgres, Slot, Publication, Kafka, Rights, Host}
}

// Result is what one check found. Fault is set iff the status is Warn or Fail.
type Result struct {
	Group   Group
	Check   string
	Target  string // what it was found at, if there is more than one
	Status  Status
	Finding string
	Fault   *fault.Error
}

// Report is everything that was found, by group, in the order of the checks.
type Report struct {
	Results []Result
	Took    time.Duration
}

// Count is the number of results with a status.
func (r Report) Count(s Status) int {
	n := 0
	for _, res := range r.Results {
		if res.Status == s {
			n++
		}
	}
	return n
}

// Limits are from when on something is worth a word.
type Limits struct {
	LongTransaction time.Duration // open transactions, prepared ones too
	IdleSlot        time.Duration // nobody streams from the slot of a relay that has run
	IdleRetained    int64         // WAL that an idle slot may keep
	HeldBack        int64         // WAL between what is confirmed and what is kept
	StrayRetained   int64         // WAL that a slot of nobody may keep
	ClockSkew       time.Duration
	Resolver        time.Duration // for one name
}

// DefaultLimits are those of the command.
func DefaultLimits() Limits {
	return Limits{
		LongTransaction: time.Hour, IdleSlot: 15 * time.Minute, IdleRetained: 256 << 20,
		HeldBack: 1 << 30, StrayRetained: 1 << 30, ClockSkew: 5 * time.Second, Resolver: time.Second,
	}
}

// Config says what is looked at.
type Config struct {
	Settings config.Config
	// Problems and Warnings are what the loader said of the settings. What they
	// concern may be unusable; the rest is looked at all the same.
	Problems []*fault.Error
	Warnings []config.Warning
	// Only limits the report to these groups; empty: all.
	Only   []Group
	Limits Limits
	// SecretFiles are the files that secrets were read from, by setting.
	SecretFiles map[string]string
	// Root is where /proc and /sys are; empty: here.
	Root string
	Log  zerolog.Logger
}

// Run gathers and judges. The error is that ctx ended; everything else is in the
// report.
func Run(ctx context.Context, cfg Config) (Report, error) {
	began := time.Now()
	w := &world{Config: cfg}
	wanted := slices.DeleteFunc(checks(), func(c check) bool { return len(cfg.Only) > 0 && !slices.Contains(cfg.Only, c.group) })
	var need source
	for _, c := range wanted {
		need |= c.needs
	}
	w.gather(ctx, need)
	if ctx.Err() != nil {
		return Report{}, fmt.Errorf("look at everything: %w", context.Cause(ctx))
	}
	var r Report
	for _, g := range Groups() {
		for _, c := range wanted {
			if c.group == g {
				r.Results = append(r.Results, c.run(w)...)
			}
		}
	}
	r.Took = time.Since(began)
	return r, nil
}

// source is where facts come from. A check that needs one that is not there is
// skipped.
type source uint16

const (
	fromPostgres    source = 1 << iota // a connection, and what the server says of itself
	fromTable                          // the outbox table exists
	fromPublication                    // the publication exists
	fromSlot                           // the slot exists
	fromKafka                          // brokers were asked
	fromHost                           // this machine
	fromStandbys                       // other hosts of the database URL
)

// world is everything that was found out.
type world struct {
	Config
	pg       *postgres // nil: not asked
	kafka    *cluster  // nil: not asked
	host     *machine  // nil: not asked
	standbys []standby
}

// gather asks all sides at the same time.
func (w *world) gather(ctx context.Context, need source) {
	var wg sync.WaitGroup
	const database = fromPostgres | fromTable | fromPublication | fromSlot
	if need&database != 0 {
		w.pg = &postgres{}
		wg.Go(func() { w.pg.gather(ctx, w) })
	}
	if need&fromKafka != 0 {
		w.kafka = &cluster{}
		if w.Settings.Kafka.Enabled {
			wg.Go(func() { w.kafka.gather(ctx, w) })
		}
	}
	if need&fromHost != 0 {
		w.host = &machine{}
		wg.Go(func() { w.host.gather(ctx, w) })
	}
	if need&fromStandbys != 0 {
		wg.Go(func() { w.standbys = askStandbys(ctx, w.Config) })
	}
	wg.Wait()
}

// lacks names the first source that is not there, or nothing.
func (w *world) lacks(need source) string {
	has := func(s source) bool { return need&s != 0 }
	const database = fromPostgres | fromTable | fromPublication | fromSlot
	switch {
	case has(database) && w.pg.conn != nil:
		return "needs a connection to Postgres"
	case has(fromKafka) && !w.Settings.Kafka.Enabled:
		return "KAFKA_ENABLED=false"
	case has(fromTable) && w.pg.table == nil:
		return "needs the table"
	case has(fromPublication) && w.pg.publication == nil:
		return "needs the publication"
	case has(fromSlot) && w.pg.slot == nil:
		return "needs the slot"
	}
	return ""
}

// check is one thing to look at.
type check struct {
	group Group
	name  string
	about string // for the page: what it looks at, and from when on it speaks
	needs source
	codes []*fault.Code // what it may say; those of connections are added by their nature
	judge func(*world) answer
}

// answer is what a check says: problems, or else one line.
type answer struct {
	text     string
	skipped  bool
	problems []problem
}

// problem is something to be changed.
type problem struct {
	status Status
	target string
	fault  *fault.Error
}

func pass(format string, args ...any) answer { return answer{text: fmt.Sprintf(format, args...)} }
func skip(format string, args ...any) answer {
	return answer{text: fmt.Sprintf(format, args...), skipped: true}
}

func warn(f *fault.Error) answer { return answer{problems: []problem{{status: Warn, fault: f}}} }
func fail(err error) answer {
	return answer{problems: []problem{{status: Fail, fault: fault.As(err)}}}
}

// or gives an answer that has no problem its line.
func (a answer) or(format string, args ...any) answer {
	if len(a.problems) == 0 {
		a.text = fmt.Sprintf(format, args...)
	}
	return a
}

func (a *answer) add(s Status, target string, f *fault.Error) {
	a.problems = append(a.problems, problem{s, target, f})
}

func (c check) run(w *world) []Result {
	if why := w.lacks(c.needs); why != "" {
		return []Result{{Group: c.group, Check: c.name, Status: Skip, Finding: why}}
	}
	a := c.judge(w)
	if len(a.problems) == 0 {
		res := Result{Group: c.group, Check: c.name, Status: Pass, Finding: a.text}
		if a.skipped {
			res.Status = Skip
		}
		return []Result{res}
	}
	all := make([]Result, len(a.problems))
	for i, p := range a.problems {
		all[i] = Result{
			Group: c.group, Check: c.name, Target: p.target, Status: p.status, Fault: p.fault,
			Finding: strings.TrimPrefix(p.fault.Error(), p.fault.Code.ID+" "),
		}
	}
	return all
}

// checks are all there are.
func checks() []check {
	return slices.Concat(settingsChecks(), postgresChecks(), slotChecks(), publicationChecks(), kafkaChecks(), rightsChecks(), hostChecks())
}
