package main

import (
	"math"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/pipeline"
	"github.com/holdwall/outbox-relay/internal/secret"
)

// pipelineCmd consumes events and hands them to an HTTP endpoint or to a child
// process. Secrets come from the environment or from files, never as a flag.
type pipelineCmd struct {
	Topic      []string `placeholder:"TOPIC" help:"Topics to consume; default: KAFKA_EVENTS_TOPIC."`
	Group      string   `placeholder:"NAME" help:"Consumer group; default: <OUTBOX_NAME>-pipeline."`
	InstanceID string   `name:"instance-id" placeholder:"ID" help:"Makes this a static member: a restart moves no partition."`

	Concurrency int    `default:"8" help:"Events handled at a time, of different keys."`
	Retries     int    `default:"4" help:"Attempts after the first, before an event becomes a dead letter."`
	Forever     bool   `name:"retry-forever" help:"Never give up on an event that may succeed later: what comes behind it waits."`
	RetryTopic  string `placeholder:"TOPIC" help:"Retry through this topic instead of in place, which gives up the order of keys."`
	DLQ         string `name:"dlq" placeholder:"TOPIC" help:"Dead letters; default: KAFKA_DLQ_TOPIC."`
	Dedupe      string `enum:"none,high-water" default:"none" help:"none, or high-water: skip what is not newer than the newest of its partition."`
	UntilEnd    bool   `aliases:"once" help:"End when everything is done that is in the topics now."`

	Timeout       time.Duration `default:"30s" help:"Longest wait for an answer."`
	MaxRetryAfter time.Duration `default:"5m" help:"Longest pause that the handler may ask for."`

	WebhookURL        string `name:"webhook-url" placeholder:"URL" help:"Post each event to this URL ($$WEBHOOK_URL, $$WEBHOOK_URL_FILE)."`
	WebhookKeyFile    string `name:"webhook-key-file" placeholder:"FILE" help:"Key to sign requests with ($$WEBHOOK_KEY_FILE, $$WEBHOOK_KEY)."`
	WebhookOldKeyFile string `name:"webhook-old-key-file" placeholder:"FILE" help:"Key that is being replaced; signs too ($$WEBHOOK_OLD_KEY_FILE, $$WEBHOOK_OLD_KEY)."`
	WebhookAuthFile   string `name:"webhook-auth-file" placeholder:"FILE" help:"Token, or whole Authorization header ($$WEBHOOK_AUTH_FILE, $$WEBHOOK_AUTH)."`
	WebhookCAFile     string `name:"webhook-ca-file" placeholder:"FILE" help:"PEM bundle to verify the receiver with, instead of the system's."`
	RetryStatus       []int  `placeholder:"STATUS" help:"Further HTTP statuses that mean another attempt, such as 401,404."`

	Payload string   `enum:"json,base64" default:"json" help:"Form of payloads for a child: json where they are, or base64 always."`
	Command []string `arg:"" optional:"" help:"Child process that handles the events, behind --."`
}

// maxHandlerDrain is the longest that package consumer lets a drain take, a
// rebalance being bounded by the group's time-out.
const maxHandlerDrain = 45 * time.Second

// Run implements the command.
func (c *pipelineCmd) Run(a *app) error {
	cfg, log, err := a.settings(config.NeedKafka)
	if err != nil {
		return err
	}
	if !cfg.Kafka.Enabled {
		return fault.New(fault.ConfigInvalid, "KAFKA_ENABLED is false").WithWhy("a pipeline has nothing else to read").WithFix("KAFKA_ENABLED=true")
	}
	if err := c.validate(); err != nil {
		return err
	}
	p := newPiping(cfg, log)
	p.environ = a.environ
	member := consumer.Config{
		Group: c.Group, Topics: c.Topic, InstanceID: c.InstanceID,
		Concurrency: c.Concurrency, Attempts: c.attempts(), RetryTopic: c.RetryTopic, DeadLetterTopic: c.DLQ,
		DrainTimeout: min(cfg.Outbox.DrainTimeout, maxHandlerDrain),
	}
	if member.Group == "" {
		member.Group = cfg.Outbox.Name + "-pipeline"
	}
	if len(member.Topics) == 0 {
		member.Topics = []string{cfg.Kafka.EventsTopic}
	}
	member.LetterRetry = scheduleOf(cfg.Outbox)
	if member.DeadLetterTopic == "" {
		member.DeadLetterTopic = cfg.Kafka.DLQTopic
	}
	if c.Dedupe == "high-water" {
		member.Dedupe = consumer.HighWater
	}
	run := &pipeline.Pipeline{UntilEnd: c.UntilEnd}
	if len(c.Command) > 0 {
		// A child gets a sixth of the time for each step of its own stop.
		grace := min(cfg.Outbox.DrainTimeout/6, 5*time.Second)
		member.DrainTimeout = min(cfg.Outbox.DrainTimeout-2*grace, maxHandlerDrain)
		run.Child, err = c.child(a, p, grace, log)
	} else {
		run.Webhook, err = c.webhook(a, p)
	}
	if err != nil {
		return err
	}
	run.Consumer = member
	return p.run(a.ctx, run)
}

func (c *pipelineCmd) validate() error {
	bad := func(fix, format string, args ...any) error {
		return fault.New(fault.CommandLine, format, args...).WithFix("%s", fix)
	}
	switch {
	case c.Concurrency < 1:
		return bad("--concurrency 8", "--concurrency is %d", c.Concurrency)
	case c.Retries < 0:
		return bad("--retries 4, or --retry-forever", "--retries is %d", c.Retries)
	case c.Timeout <= 0, c.MaxRetryAfter <= 0:
		return bad("--timeout 30s --max-retry-after 5m", "--timeout and --max-retry-after are above 0")
	case c.UntilEnd && c.RetryTopic != "":
		return bad("leave out --retry-topic", "--until-end and --retry-topic exclude each other: what waits for another attempt has no end")
	case len(c.Command) > 0 && c.WebhookURL != "":
		return bad("leave out one of them", "there are both --webhook-url and a command")
	}
	for _, s := range c.RetryStatus {
		if s < 300 || s > 599 {
			return bad("--retry-status 401,404", "--retry-status has %d", s)
		}
	}
	return nil
}

func (c *pipelineCmd) attempts() int {
	if c.Forever {
		return math.MaxInt32
	}
	return c.Retries + 1
}

func (c *pipelineCmd) child(a *app, p *piping, grace time.Duration, log zerolog.Logger) (*pipeline.Child, error) {
	return pipeline.NewChild(pipeline.ChildConfig{
		Command: c.Command, Environ: withoutSecrets(a.environ), Timeout: c.Timeout, MaxRetryAfter: c.MaxRetryAfter,
		Window: c.Concurrency, Grace: grace, RawPayload: c.Payload == "base64",
		OnState: p.onChild, Log: log, Metrics: p.handler,
	})
}

func (c *pipelineCmd) webhook(a *app, p *piping) (*pipeline.Webhook, error) {
	if pipeline.HasPassword(c.WebhookURL) {
		return nil, fault.New(fault.ConfigInvalid, "--webhook-url holds a password").
			WithWhy("every user of this host can read the command line of a process").WithFix("WEBHOOK_URL or WEBHOOK_AUTH in the environment, or in a file: WEBHOOK_URL_FILE, WEBHOOK_AUTH_FILE")
	}
	cfg := pipeline.WebhookConfig{
		Timeout: c.Timeout, MaxRetryAfter: c.MaxRetryAfter, RetryStatus: c.RetryStatus, CAFile: c.WebhookCAFile,
		Connections: c.Concurrency, UserAgent: "outbox-relay/" + build().Version, Metrics: p.handler,
	}
	url := pipeline.Credential{Text: secret.New(c.WebhookURL)}
	for _, from := range []struct {
		name, file string
		into       *pipeline.Credential
	}{
		{"WEBHOOK_URL", "", &url},
		{"WEBHOOK_KEY", c.WebhookKeyFile, &cfg.Key},
		{"WEBHOOK_OLD_KEY", c.WebhookOldKeyFile, &cfg.OldKey},
		{"WEBHOOK_AUTH", c.WebhookAuthFile, &cfg.Authorization},
	} {
		if from.file != "" {
			from.into.File = from.file
		}
		if from.into.Set() {
			continue // a flag is stronger than the environment
		}
		text, file := variable(a.environ, from.name), variable(a.environ, from.name+"_FILE")
		if text != "" && file != "" {
			return nil, fault.New(fault.ConfigInvalid, "%s and %s_FILE are both set", from.name, from.name).
				WithWhy("they may differ, and one of them would be ignored").WithFix("keep one")
		}
		*from.into = pipeline.Credential{Text: secret.New(text), File: file}
	}
	if !url.Set() {
		return nil, fault.New(fault.CommandLine, "nobody to hand the events to").
			WithWhy("a pipeline needs a URL or a command").WithFix("outbox-relay pipeline --webhook-url https://service.example/events, or outbox-relay pipeline -- python3 handler.py")
	}
	var err error
	if cfg.URL, err = url.Read(); err != nil {
		return nil, fault.Wrap(err, fault.ConfigInvalid, "WEBHOOK_URL_FILE").WithWhy("it cannot be read").WithFix("name a readable file that holds the URL alone")
	}
	return pipeline.NewWebhook(cfg)
}

// variable returns what an environment says last, as os.Getenv does.
func variable(environ []string, name string) (value string) {
	for _, kv := range environ {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			value = v
		}
	}
	return value
}

// withoutSecrets is the environment that a child gets: all but what only this
// process needs. DATABASE_URL stays, because handlers have databases too.
func withoutSecrets(environ []string) []string {
	var kept []string
	for _, kv := range environ {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "KAFKA_SASL_PASSWORD", "KAFKA_SASL_SESSION_TOKEN", "OUTBOX_ADMIN_URL", "WEBHOOK_URL", "WEBHOOK_KEY", "WEBHOOK_OLD_KEY", "WEBHOOK_AUTH":
		case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID": // a child does not speak for this process
		default:
			kept = append(kept, kv)
		}
	}
	return kept
}
