package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/preflight"
)

// The exit statuses of a check. Nobody let us in: somebody else may have to
// come back. A finding: somebody has to change something.
const (
	exitUnreached = exitStatus(3)
	exitFinding   = exitStatus(4)
)

// stepView is a step as the command shows it; its keys are stable.
type stepView struct {
	Step     string  `json:"step"`
	Target   string  `json:"target"`
	Status   string  `json:"status"`
	Duration float64 `json:"duration_seconds"`
	Finding  string  `json:"finding"`
	Code     string  `json:"code,omitempty"`
	Why      string  `json:"why,omitempty"`
	Fix      string  `json:"fix,omitempty"`
	Docs     string  `json:"docs,omitempty"`
	// Connection is the class of a connection fault, such as dns or tls.
	Connection string `json:"connection,omitempty"`
}

func viewOfStep(r preflight.Result) stepView {
	v := stepView{
		Step: r.Step, Target: r.Target, Status: string(r.Status), Duration: r.Duration.Seconds(),
		Finding: r.Finding, Code: r.Code, Why: r.Why, Fix: r.Fix, Connection: r.Connection,
	}
	if r.Code != "" {
		v.Docs = "docs/errors.md#" + strings.ToLower(r.Code)
	}
	return v
}

// verifyKafka checks a running Kafka, and shows each step as it is done.
func verifyKafka(ctx context.Context, cfg config.Config, out io.Writer, format string, log zerolog.Logger) error {
	k := cfg.Kafka
	check := preflight.Config{
		Kafka: k.Client, Name: cfg.Outbox.Name, CreateTopics: k.CreateTopics, TransactionTimeout: k.TransactionTimeout,
		ParkKeys: cfg.Outbox.ParkKeys, RetryLetters: cfg.Outbox.DLQRetry,
		Topics: preflight.Topics{Events: k.EventsTopic, Letters: k.DLQTopic, State: dlq.StateTopic(k.DLQTopic), Checkpoint: k.CheckpointTopic},
	}
	if cfg.Outbox.TopicTemplate != "" {
		check.Topics.Events = ""
	}
	// The client's own lines say again what the steps say, unless somebody
	// wants to see everything.
	check.Log = zerolog.Nop()
	if log.GetLevel() <= zerolog.DebugLevel {
		check.Log = log
	}
	var show func(preflight.Result)
	if format != formatJSON {
		fmt.Fprintf(out, stepLine+"\n", "STATUS", "STEP", "TARGET", "TIME", "FINDING")
		show = func(r preflight.Result) { showStep(out, r) }
	}
	report, err := preflight.Run(ctx, check, show)
	if err != nil {
		return err
	}
	count := map[preflight.Status]int{}
	views := make([]stepView, len(report.Results))
	for i, r := range report.Results {
		views[i] = viewOfStep(r)
		count[r.Status]++
	}
	result, status := "pass", error(nil)
	switch {
	case !report.Reached:
		result, status = "unreachable", exitUnreached
	case count[preflight.Fail] > 0:
		result, status = "fail", exitFinding
	case count[preflight.Warn] > 0:
		result = "warn"
	}
	if format == formatJSON {
		if err := writeJSON(out, map[string]any{
			"result": result, "passed": count[preflight.Pass], "warnings": count[preflight.Warn],
			"failed": count[preflight.Fail], "skipped": count[preflight.Skipped], "steps": views,
		}); err != nil {
			return err
		}
		return status
	}
	fmt.Fprintf(out, "\n%s: %d passed, %d with a warning, %d failed, %d skipped\n", result,
		count[preflight.Pass], count[preflight.Warn], count[preflight.Fail], count[preflight.Skipped])
	return status
}

// stepLine has fixed widths: lines are written as steps end, before anybody
// knows how wide the next one is.
const stepLine = "%-8s %-20s %-28s %8s  %s"

func showStep(out io.Writer, r preflight.Result) {
	took := ""
	if r.Status != preflight.Skipped {
		took = tookText(r.Duration)
	}
	fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf(stepLine, r.Status, r.Step, r.Target, took, r.Finding), " "))
	if r.Code == "" {
		return
	}
	class := ""
	if r.Connection != "" {
		class = " (" + r.Connection + ")"
	}
	fmt.Fprintf(out, "         %s why: %s%s\n", r.Code, r.Why, class)
	if r.Fix != "" {
		fmt.Fprintf(out, "         %s fix: %s\n", strings.Repeat(" ", len(r.Code)), r.Fix)
	}
}

func tookText(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
