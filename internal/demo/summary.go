package demo

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// FindingsError says that the relay did not keep its word.
type FindingsError struct{ Findings []string }

func (e *FindingsError) Error() string { return "the demo found: " + strings.Join(e.Findings, "; ") }

// ExitCode is that of a check which found problems.
func (e *FindingsError) ExitCode() int { return 4 }

// result is what a run that got as far as its load has shown.
type result struct {
	state
	interrupted bool // before everything had arrived
	early       bool // ended by a key or a signal, not by the clock
	inProcess   bool
	kills       int
	first       time.Duration // process start to first event
	kept        string
}

// lost is what was committed and did not arrive. After an interrupt that is no
// loss: the rows are in the table, and nobody waited for them.
func (r *result) lost() int {
	if r.interrupted {
		return 0
	}
	return r.Waiting
}

func (r *result) verdict() error {
	if f := r.findings(); f != nil {
		return &FindingsError{Findings: f}
	}
	return nil
}

func (r *result) findings() []string {
	var f []string
	for _, check := range []struct {
		n    int
		text string
	}{
		{r.lost(), "committed rows that did not arrive"},
		{r.Duplicated, "records seen twice"},
		{r.Reordered, "records out of the order of their key"},
		{r.Phantom, "records of transactions that were rolled back"},
		{r.Misrouted, "records in the wrong kind of topic"},
		{r.Foreign, "records that nobody wrote"},
	} {
		if check.n > 0 {
			f = append(f, fmt.Sprintf("%s %s", grouped(check.n), check.text))
		}
	}
	if r.Published == 0 && !r.early {
		f = append(f, "no event arrived")
	}
	return f
}

// hidden counts records that are in the topic and that no read_committed
// consumer sees: those of the relay's aborted transactions.
func (r *result) hidden() int { return max(0, r.PhysicalRecords-r.VisibleRecords) }

func (r *result) write(out io.Writer) error {
	label := ""
	if r.inProcess {
		label = "  (in-process broker)"
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
	line("")
	line("rows committed\t%s\tin %s transactions", grouped(r.Committed), grouped(r.Transactions))
	line("rows rolled back\t%s\tin %s transactions", grouped(r.RolledBack), grouped(r.TransactionsUndone))
	line("published\t%s\t", grouped(r.Published))
	line("dead letters\t%s\t", grouped(r.Letters))
	line("aborted and hidden\t%s\trecords that no read_committed consumer sees", grouped(r.hidden()))
	line("relay killed\t%d\ttimes with SIGKILL", r.kills)
	line("check\t%d lost, %d duplicated, %d reordered", r.lost(), r.Duplicated, r.Reordered)
	for _, f := range r.findings() {
		line("FOUND\t\t%s", f)
	}
	if r.interrupted {
		line("stopped early\t%s\trows were still on their way", grouped(r.Waiting))
	}
	line("")
	if r.first > 0 {
		line("first event in Kafka\t%s\tafter process start%s", seconds(r.first), label)
	}
	line("COMMIT to visible\tp50 %s  p90 %s  p99 %s  max %s%s", micros(r.Steady.P50), micros(r.Steady.P90), micros(r.Steady.P99), micros(r.Steady.Max), label)
	if r.kills > 0 {
		line("  with the kills\tp50 %s  p90 %s  p99 %s  max %s", micros(r.Full.P50), micros(r.Full.P90), micros(r.Full.P99), micros(r.Full.Max))
	}
	if r.kept != "" {
		line("kept\t%s", r.kept)
	}
	line("")
	line("Next, with your own DATABASE_URL and KAFKA_BROKERS:")
	line("  outbox-relay init --dry-run\tshows every statement and topic it would create")
	line("  outbox-relay init\tcreates them, with the first checkpoint")
	line("  outbox-relay serve\tstreams")
	return t.Flush()
}
