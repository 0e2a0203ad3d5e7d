package pipeline

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
)

const (
	// minKey is the least length of a signing key, in bytes.
	minKey = 16
	// maxDrain bounds what is read of a response so that its connection can be
	// used again. A longer one is cut off with its connection.
	maxDrain = 64 << 10
	// drainTimeout bounds how long that may take: the status has been seen, and
	// a body that drips must not hold up the events behind it.
	drainTimeout = time.Second
)

// WebhookConfig says where to post events, and how.
type WebhookConfig struct {
	URL           secret.Text
	Timeout       time.Duration // for one request, from connecting to the status
	MaxRetryAfter time.Duration // a longer Retry-After is cut to this
	RetryStatus   []int         // further statuses that mean "again"
	CAFile        string        // PEM bundle instead of the system's
	Key           Credential    // signs; none: requests are not signed
	OldKey        Credential    // signs too, while receivers are moved to Key
	Authorization Credential    // value of the header; one word is a bearer token
	Connections   int           // kept open between requests
	UserAgent     string
	Metrics       *Metrics
}

// Webhook posts events to one URL.
type Webhook struct {
	cfg    WebhookConfig
	target *url.URL
	client *http.Client
	key    *rotating
	oldKey *rotating
	auth   *rotating
	now    func() time.Time
}

// NewWebhook checks the configuration and reads what it names. It calls nobody.
func NewWebhook(cfg WebhookConfig) (*Webhook, error) { return newWebhook(cfg, time.Now) }

func newWebhook(cfg WebhookConfig, now func() time.Time) (*Webhook, error) {
	target, bad := parseTarget(cfg.URL)
	if bad != nil {
		return nil, bad
	}
	w := &Webhook{cfg: cfg, target: target, now: now}
	for _, c := range []struct {
		name string
		from Credential
		into **rotating
	}{
		{"the webhook's signing key", cfg.Key, &w.key},
		{"the webhook's old signing key", cfg.OldKey, &w.oldKey},
		{"the webhook's authorization", cfg.Authorization, &w.auth},
	} {
		r, err := newRotating(c.from, now)
		if err != nil {
			return nil, fault.Wrap(err, fault.ConfigInvalid, "%s", c.name).
				WithWhy("it cannot be read").WithFix("name a readable file that holds the secret alone")
		}
		if text := r.get(); text.Set() && c.into != &w.auth && len(text.Reveal()) < minKey {
			return nil, fault.New(fault.ConfigInvalid, "%s is shorter than %d bytes", c.name, minKey).
				WithWhy("a short key can be guessed from one signed request").WithFix("openssl rand -hex 32 > webhook.key")
		}
		*c.into = r
	}
	if !cfg.Key.Set() && cfg.OldKey.Set() {
		return nil, fault.New(fault.ConfigInvalid, "the webhook has an old signing key, but no key").
			WithWhy("nothing would be signed").WithFix("WEBHOOK_KEY_FILE=<file>")
	}
	if text := w.auth.get(); text.Set() && !plain(text.Reveal()) {
		return nil, fault.New(fault.ConfigInvalid, "the webhook's authorization").
			WithWhy("it holds characters that a header cannot carry").WithFix("a token alone, or `Basic ` and the base64 of user:password")
	}
	transport, err := transport(cfg)
	if err != nil {
		return nil, err
	}
	w.client = &http.Client{
		Transport: transport,
		// A redirect is an answer like any other: whoever follows it posts the
		// event, its signature and its token to an address nobody has chosen.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return w, nil
}

func transport(cfg WebhookConfig) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: cfg.Timeout, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          max(cfg.Connections, 2),
		MaxIdleConnsPerHost:   max(cfg.Connections, 2),
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   cfg.Timeout,
		ExpectContinueTimeout: time.Second,
		// An answer is a status; headers beyond this are an accident.
		MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		// Compressed answers would have to be unpacked only to be thrown away.
		DisableCompression: true,
	}
	if cfg.CAFile == "" {
		return t, nil
	}
	bad := func(err error, why string) error {
		return fault.Wrap(err, fault.ConfigInvalid, "the webhook's CA file").WithWhy("%s", why).WithFix("--webhook-ca-file <PEM file>")
	}
	pem, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return nil, bad(err, "it cannot be read")
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, bad(errors.New("no certificate found"), "it holds no PEM certificate")
	}
	return t, nil
}

// Place returns what may be shown of the URL: scheme and host.
func (w *Webhook) Place() string { return place(w.target) }

// Close lets go of the connections that are kept for the next request.
func (w *Webhook) Close() { w.client.CloseIdleConnections() }

// Handle posts one event and judges the answer.
func (w *Webhook) Handle(ctx context.Context, ev consumer.Event) error {
	reqCtx, cancel := context.WithTimeout(ctx, w.cfg.Timeout)
	defer cancel()
	resp, err := w.client.Do(w.request(reqCtx, ev))
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx) // it was told to stop; nothing is known about the receiver
		}
		w.cfg.Metrics.response(0)
		return w.unreachable(err)
	}
	defer drain(resp, cancel)
	w.cfg.Metrics.response(resp.StatusCode)
	return w.judge(resp)
}

func (w *Webhook) request(ctx context.Context, ev consumer.Event) *http.Request {
	req := (&http.Request{
		Method: http.MethodPost, URL: w.target, Host: w.target.Host, Header: http.Header{},
		ContentLength: int64(len(ev.Payload)), Body: http.NoBody,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	if len(ev.Payload) > 0 {
		// With GetBody and an Idempotency-Key the client itself sends again when
		// a kept connection turns out to have been closed by the other side.
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(ev.Payload)), nil }
		req.Body, _ = req.GetBody()
	}
	describe(req.Header, ev)
	req.Header.Set("User-Agent", w.cfg.UserAgent)
	if u := w.target.User; u != nil {
		pass, _ := u.Password()
		req.SetBasicAuth(u.Username(), pass)
	}
	if auth := w.auth.get(); auth.Set() {
		value := auth.Reveal()
		if !strings.Contains(value, " ") {
			value = "Bearer " + value
		}
		req.Header.Set("Authorization", value)
	}
	var keys []string
	for _, r := range []*rotating{w.key, w.oldKey} {
		if key := r.get(); key.Set() {
			keys = append(keys, key.Reveal())
		}
	}
	if len(keys) > 0 {
		req.Header.Set(headerSignature, Sign(w.now(), ev.Payload, keys...))
	}
	return req
}

// unreachable names a request that got no answer.
func (w *Webhook) unreachable(err error) error {
	// The outer error of the client spells the whole URL.
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.Wrap(err, fault.WebhookUnavailable, "%s did not answer within %s", w.Place(), w.cfg.Timeout)
	}
	return fault.Wrap(err, fault.WebhookUnavailable, "post to %s", w.Place())
}

// drain reads what is left of a response, so that its connection can serve the
// next request, and gives up on one that is long or slow.
func drain(resp *http.Response, abort context.CancelFunc) {
	late := time.AfterFunc(drainTimeout, abort)
	defer late.Stop()
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrain+1)
	resp.Body.Close()
}
