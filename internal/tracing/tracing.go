// Package tracing makes spans of what the relay does, and sends them to a collector.
//
// Its job is two kinds of spans. One is named create and is of a row: it begins with the
// commit in Postgres, ends when the Kafka transaction is visible, and stands between the
// writer's span and the consumer's, because its context is what the record carries. One
// is named send and is of a Kafka transaction, with links to what it holds.
//
// Invariants: without an endpoint in the OTEL_* variables there is no tracing, and
// records carry the row's context byte for byte. Only rows whose context is sampled get
// a span. A span is ended only of what was committed, so there is one for each record
// that a consumer can see, and none of an attempt. Nothing here waits for a collector:
// what does not fit a bounded queue is dropped and counted. No header of the exporter,
// where credentials are, is ever logged.
//
// It leaves the context in the record's header to package sink, and the consumer's side
// to package consumer/oteltrace. No other package imports the SDK.
package tracing

import (
	"context"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/relay"
)

// schemaURL is the version of the conventions that attributes are named by: those of
// messaging are still marked as in development.
const schemaURL = "https://opentelemetry.io/schemas/1.43.0"

const (
	// maxLinks is how many rows a span of a transaction is linked to.
	maxLinks = 128
	// maxSpans is how many rows of one transaction get a span; the rest would not fit the
	// exporter's queue anyway.
	maxSpans = 2048
	// backlog is how many transactions may wait for their spans to be made.
	backlog = 16
	// flushTimeout is what the end of the program leaves the collector.
	flushTimeout = 3 * time.Second
	// tellEvery is how often a collector that fails is told of.
	tellEvery = time.Minute
)

// About names the process in its spans.
type About struct {
	Service, Version, Instance string
	Relay                      string // OUTBOX_NAME
}

// Tracing makes spans. The nil Tracing makes none. All methods may be called from any
// goroutine.
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	log      zerolog.Logger
	queue    chan commit
	dropped  atomic.Uint64 // spans of rows, since it was last told
	lastTold atomic.Int64
	relay    attribute.KeyValue
}

// variables of the standard that are looked at here; the SDK reads them and the others
// by itself.
const (
	varEndpoint       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	varTracesEndpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	varProtocol       = "OTEL_EXPORTER_OTLP_PROTOCOL"
	varTracesProtocol = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
)

func variables(environ []string) map[string]string {
	env := map[string]string{}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = strings.TrimSpace(v)
	}
	return env
}

// Enabled tells whether an environment asks for tracing: by the standard's variables,
// an endpoint and no word against it.
func Enabled(environ []string) bool {
	env := variables(environ)
	return (env[varEndpoint] != "" || env[varTracesEndpoint] != "") &&
		!strings.EqualFold(env["OTEL_SDK_DISABLED"], "true") && !strings.EqualFold(env["OTEL_TRACES_EXPORTER"], "none")
}

// check finds what the SDK would pass over, and send spans to where nobody is. No value
// is told: an endpoint may hold credentials.
func check(environ []string) error {
	env := variables(environ)
	bad := func(name, why, fix string) error {
		return fault.New(fault.TracingSettings, "%s cannot be used", name).WithWhy("%s", why).WithFix("%s", fix)
	}
	for _, name := range []string{varEndpoint, varTracesEndpoint} {
		if env[name] == "" {
			continue
		}
		u, err := url.Parse(env[name])
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return bad(name, "it is no URL with http or https", name+"=http://<collector>:4318")
		}
	}
	for _, name := range []string{varProtocol, varTracesProtocol} {
		if p := env[name]; p != "" && p != "http/protobuf" {
			return bad(name, "spans are sent as http/protobuf alone", name+"=http/protobuf, and the collector's port for it, usually 4318")
		}
	}
	return nil
}

// New returns the Tracing of a process whose environment asks for it, and nil otherwise.
// Endpoint, headers, certificates, time-outs, sampler, queue and resource are read from
// the process's own OTEL_* variables, as the standard has them. Nothing is sent before
// Run, and a collector that is not there is no error; settings that cannot work are a
// *fault.Error.
func New(ctx context.Context, environ []string, about About, log zerolog.Logger) (*Tracing, error) {
	if !Enabled(environ) {
		return nil, nil
	}
	if err := check(environ); err != nil {
		return nil, err
	}
	t := &Tracing{
		log:   log.With().Str("component", "tracing").Logger(),
		queue: make(chan commit, backlog), relay: attribute.String("outbox.relay", about.Relay),
	}
	// The SDK tells its failures to one place of the process, and to its standard error
	// if nobody asks.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(t.failed))
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fault.Wrap(err, fault.TracingSettings, "make the exporter of spans")
	}
	// What the environment says wins over what is said here.
	res, err := resource.New(ctx,
		resource.WithAttributes(
			attribute.String("service.name", about.Service),
			attribute.String("service.version", about.Version),
			attribute.String("service.instance.id", about.Instance),
		),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv(),
	)
	if err != nil {
		t.log.Warn().Err(err).Str("hint", "check OTEL_RESOURCE_ATTRIBUTES").Msg("spans lack a part of what they say of this process")
	}
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter), sdktrace.WithResource(res), sdktrace.WithIDGenerator(generator{}),
	)
	t.tracer = t.provider.Tracer("github.com/holdwall/outbox-relay", trace.WithInstrumentationVersion(about.Version), trace.WithSchemaURL(schemaURL))
	return t, nil
}

// Run makes the spans of what was committed until ctx ends, and then leaves the collector
// a few seconds for the rest. It returns nil.
func (t *Tracing) Run(ctx context.Context) error {
	if t == nil {
		return nil
	}
	for {
		select {
		case c := <-t.queue:
			t.spans(c)
			continue
		case <-ctx.Done():
		}
		break
	}
	for len(t.queue) > 0 {
		t.spans(<-t.queue)
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if err := t.provider.Shutdown(flush); err != nil {
		t.failed(err)
	}
	return nil
}

// failed is told what the exporter failed with. The text of such errors names the
// endpoint, never a header.
func (t *Tracing) failed(err error) {
	now := time.Now().UnixNano()
	last := t.lastTold.Load()
	if last != 0 && now-last < int64(tellEvery) || !t.lastTold.CompareAndSwap(last, now) {
		return
	}
	t.log.Warn().Err(err).Uint64("dropped", t.dropped.Swap(0)).
		Str("hint", "check OTEL_EXPORTER_OTLP_ENDPOINT and the collector; events are not affected").Msg("spans are lost")
}

// Committed is for relay.Relay.OnCommit: it takes what is needed of a transaction and
// returns at once.
func (t *Tracing) Committed(c relay.Commit) {
	if t == nil || len(c.Records) == 0 && len(c.Released) == 0 {
		return // a heartbeat
	}
	what := take(c)
	t.dropped.Add(uint64(what.left))
	select {
	case t.queue <- what:
	default:
		t.dropped.Add(uint64(len(what.rows)) + 1)
		t.failed(errBehind)
	}
}
