package pipeline

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
	"github.com/holdwall/outbox-relay/outbox"
)

const planted = "pl4nted-Passw0rd-of-some-length"

func event() consumer.Event {
	return consumer.Event{
		ID: "4b0ee7b4-05a7-4c9a-9f0e-6f6a1d0f2a11", Type: "Order Placed", AggregateType: "order", AggregateID: "größe/1%\r\nX-Evil: 1",
		Key: []byte("o-1"), Payload: []byte(`{"total": "12.50"}`), ContentType: "application/json", SchemaVersion: "3",
		Headers: []outbox.Header{
			{Key: "tenant", Value: []byte("a b")}, {Key: "not a token", Value: []byte("x")}, {Key: "big", Value: bytes.Repeat([]byte("x"), 5000)},
		},
		TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", TraceState: "vendor=1",
		Topic: "outbox.events", Partition: 2, Offset: 4711, Attempt: 3,
		CommitTime: time.Date(2026, 11, 23, 10, 15, 0, 123456000, time.UTC),
		Position:   consumer.Position{Source: "shop/outbox_relay", Timeline: 1, LSN: pglogrepl.LSN(0x16B3748), Ordinal: 2},
	}
}

// webhook returns one whose settings suit a test, changed by edit.
func webhook(t *testing.T, url string, edit func(*WebhookConfig)) *Webhook {
	t.Helper()
	cfg := WebhookConfig{URL: secret.New(url), Timeout: 5 * time.Second, MaxRetryAfter: time.Minute, Connections: 4, UserAgent: "outbox-relay/test"}
	if edit != nil {
		edit(&cfg)
	}
	w, err := NewWebhook(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func receiver(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// verdictOf tells a handler's error as the consumer sees it.
type verdictOf struct {
	code      *fault.Code
	permanent bool
	after     time.Duration
}

// judged takes an error apart. What package consumer makes of an error is its
// own matter, so the types are known only by the functions that return them.
func judged(err error) verdictOf {
	if err == nil {
		return verdictOf{}
	}
	v := verdictOf{code: fault.CodeOf(err)}
	switch kind := reflect.TypeOf(err); kind {
	case reflect.TypeOf(consumer.Permanent(errOver)):
		v.permanent = true
	case reflect.TypeOf(consumer.RetryAfter(errOver, 1)):
		v.after = time.Duration(reflect.ValueOf(err).Elem().FieldByName("after").Int())
	}
	return v
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for _, c := range []struct {
		status     int
		retryAfter string
		want       verdictOf
	}{
		{200, "", verdictOf{}},
		{202, "", verdictOf{}},
		{204, "30", verdictOf{}},
		{301, "", verdictOf{fault.WebhookRedirect, true, 0}},
		{304, "", verdictOf{fault.WebhookRedirect, true, 0}},
		{307, "", verdictOf{fault.WebhookRedirect, true, 0}},
		{400, "", verdictOf{fault.WebhookRefused, true, 0}},
		{401, "", verdictOf{fault.WebhookRefused, true, 0}},
		{404, "", verdictOf{fault.WebhookUnavailable, false, 0}}, // asked for below
		{408, "", verdictOf{fault.WebhookUnavailable, false, 0}},
		{409, "30", verdictOf{fault.WebhookRefused, true, 0}},
		{410, "", verdictOf{fault.WebhookRefused, true, 0}},
		{413, "", verdictOf{fault.WebhookRefused, true, 0}},
		{422, "", verdictOf{fault.WebhookRefused, true, 0}},
		{425, "", verdictOf{fault.WebhookUnavailable, false, 0}},
		{429, "7", verdictOf{fault.WebhookUnavailable, false, 7 * time.Second}},
		{429, " 7 ", verdictOf{fault.WebhookUnavailable, false, 7 * time.Second}},
		{429, "0", verdictOf{fault.WebhookUnavailable, false, 0}},
		{429, "-1", verdictOf{fault.WebhookUnavailable, false, 0}},
		{429, "1.5", verdictOf{fault.WebhookUnavailable, false, 0}},
		{429, "soon", verdictOf{fault.WebhookUnavailable, false, 0}},
		{429, "99999999999999999999", verdictOf{fault.WebhookUnavailable, false, 0}},
		{503, "3600", verdictOf{fault.WebhookUnavailable, false, time.Minute}},
		{503, date(time.Hour), verdictOf{fault.WebhookUnavailable, false, time.Minute}},
		{503, date(-time.Hour), verdictOf{fault.WebhookUnavailable, false, 0}},
		{500, "", verdictOf{fault.WebhookUnavailable, false, 0}},
		{599, "", verdictOf{fault.WebhookUnavailable, false, 0}},
		{600, "", verdictOf{fault.WebhookRefused, true, 0}},
	} {
		t.Run(fmt.Sprintf("%d %s", c.status, c.retryAfter), func(t *testing.T) {
			t.Parallel()
			s := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				if c.retryAfter != "" {
					w.Header().Set("Retry-After", c.retryAfter)
				}
				w.WriteHeader(c.status)
			})
			w := webhook(t, s.URL+"/hook?token="+planted, func(cfg *WebhookConfig) { cfg.RetryStatus = []int{404} })
			err := w.Handle(t.Context(), event())
			if diff := cmp.Diff(c.want, judged(err), cmp.AllowUnexported(verdictOf{})); diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if err != nil && (strings.Contains(err.Error(), planted) || !strings.Contains(err.Error(), fmt.Sprint(c.status))) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A date is a moment, and the wait is what is left until then.
func TestRetryAfterDate(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	w := &Webhook{cfg: WebhookConfig{MaxRetryAfter: time.Hour}, now: func() time.Time { return now }}
	for text, want := range map[string]time.Duration{
		"Mon, 23 Nov 2026 10:00:20 GMT":  20 * time.Second,
		"Monday, 23-Nov-26 10:00:20 GMT": 20 * time.Second,
		"Mon Nov 23 10:00:20 2026":       20 * time.Second,
		"Mon, 23 Nov 2026 09:00:20 GMT":  0,
		"Tue, 24 Nov 2026 10:00:20 GMT":  time.Hour,
		"20":                             20 * time.Second,
		"":                               0,
	} {
		if got := w.retryAfter(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// What goes over the wire is the public contract, recorded.
func TestRequest(t *testing.T) {
	t.Parallel()
	var got http.Request
	var body []byte
	s := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		got = *r
		body, _ = io.ReadAll(r.Body)
	})
	w := webhook(t, strings.Replace(s.URL, "http://", "http://user:"+planted+"@", 1)+"/a/b?c=d", nil)
	if err := w.Handle(t.Context(), event()); err != nil {
		t.Fatal(err)
	}
	if got.Method != "POST" || got.URL.String() != "/a/b?c=d" || string(body) != `{"total": "12.50"}` || got.ContentLength != 18 {
		t.Errorf("%s %s %q", got.Method, got.URL, body)
	}
	if user, pass, _ := got.BasicAuth(); user != "user" || pass != planted {
		t.Errorf("basic auth %q %q", user, pass)
	}
	got.Header.Del("Authorization")
	want := http.Header{}
	for name, value := range map[string]string{
		"Accept-Encoding": "", "Content-Length": "18", "Content-Type": "application/json", "User-Agent": "outbox-relay/test",
		"Idempotency-Key": "4b0ee7b4-05a7-4c9a-9f0e-6f6a1d0f2a11", "Outbox-Id": "4b0ee7b4-05a7-4c9a-9f0e-6f6a1d0f2a11",
		"Outbox-Type": "Order%20Placed", "Outbox-Aggregate-Type": "order", "Outbox-Aggregate-Id": "gr%C3%B6%C3%9Fe/1%25%0D%0AX-Evil:%201",
		"Outbox-Schema-Version": "3", "Outbox-Key": "o-1", "Outbox-Topic": "outbox.events", "Outbox-Partition": "2", "Outbox-Offset": "4711",
		"Outbox-Attempt": "3", "Outbox-Commit-Time": "2026-11-23T10:15:00.123456Z", "Outbox-Position": "shop/outbox_relay:1:0/16B3748:2",
		"Outbox-Header-Tenant": "a%20b", "Outbox-Headers-Omitted": "2",
		"Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "Tracestate": "vendor=1",
	} {
		if value != "" {
			want.Set(name, value)
		}
	}
	if diff := cmp.Diff(want, got.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestTombstoneAndBareEvent(t *testing.T) {
	t.Parallel()
	var got http.Header
	var length int64
	s := receiver(t, func(_ http.ResponseWriter, r *http.Request) { got, length = r.Header, r.ContentLength })
	w := webhook(t, s.URL, nil)
	// A record that the relay did not write has no id: its place is one.
	if err := w.Handle(t.Context(), consumer.Event{Topic: "t", Partition: 1, Offset: 9, Attempt: 1, ContentType: "bad\r\ntype", TraceParent: "a\nb", Replayed: true}); err != nil {
		t.Fatal(err)
	}
	want := http.Header{
		"Content-Length": {"0"}, "Content-Type": {"application/octet-stream"}, "User-Agent": {"outbox-relay/test"},
		"Idempotency-Key": {"t/1/9"}, "Outbox-Id": {"t/1/9"}, "Outbox-Topic": {"t"}, "Outbox-Partition": {"1"}, "Outbox-Offset": {"9"},
		"Outbox-Attempt": {"1"}, "Outbox-Tombstone": {"true"}, "Outbox-Replayed": {"true"},
	}
	if diff := cmp.Diff(want, got); diff != "" || length != 0 {
		t.Errorf("length %d (-want +got):\n%s", length, diff)
	}
}

// The vector of docs/pipeline.md.
func TestSignatureVector(t *testing.T) {
	t.Parallel()
	at := time.Unix(1795428900, 0)
	const key, old = "whsec-example-key-0123456789", "whsec-former-key-9876543210"
	body := []byte(`{"total": "12.50"}`)
	got := Sign(at, body, key, old)
	page, err := os.ReadFile("../../docs/pipeline.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(page, []byte(got)) {
		t.Errorf("docs/pipeline.md does not have the signature %s", got)
	}
	for name, other := range map[string]string{
		"time": Sign(at.Add(time.Second), body, key, old), "body": Sign(at, body[1:], key, old), "key": Sign(at, body, old, key),
	} {
		if other == got {
			t.Errorf("the signature does not depend on the %s", name)
		}
	}
}

// A request carries the signature by the keys of the moment: files are read
// again, and one that is missing meanwhile leaves the key in use.
func TestKeysRotate(t *testing.T) {
	t.Parallel()
	var got string
	s := receiver(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Get("Outbox-Signature") })
	file := filepath.Join(t.TempDir(), "key")
	write := func(key string) {
		if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const first, second, old = "first-key-0123456789", "second-key-0123456789", "old-key-0123456789"
	write(first)
	now := time.Unix(1795428900, 0)
	w, err := newWebhook(WebhookConfig{
		URL: secret.New(s.URL), Timeout: time.Second, Key: Credential{File: file}, OldKey: Credential{Text: secret.New(old)},
	}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	expect := func(key string) {
		t.Helper()
		if err := w.Handle(t.Context(), event()); err != nil {
			t.Fatal(err)
		}
		if want := Sign(now, event().Payload, key, old); got != want {
			t.Errorf("signature %s, want %s", got, want)
		}
	}
	expect(first)
	write(second)
	expect(first) // not yet
	now = now.Add(credentialAge)
	expect(second)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	now = now.Add(credentialAge)
	expect(second)
}

func TestAuthorization(t *testing.T) {
	t.Parallel()
	var got string
	s := receiver(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Get("Authorization") })
	for text, want := range map[string]string{"abc": "Bearer abc", "Basic dTpw": "Basic dTpw"} {
		w := webhook(t, s.URL, func(c *WebhookConfig) { c.Authorization = Credential{Text: secret.New(text)} })
		if err := w.Handle(t.Context(), event()); err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	var reached atomic.Bool
	other := receiver(t, func(http.ResponseWriter, *http.Request) { reached.Store(true) })
	s := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(other.URL, "http://", "http://u:"+planted+"@", 1)+"/"+planted, http.StatusTemporaryRedirect)
	})
	err := webhook(t, s.URL, nil).Handle(t.Context(), event())
	if v := judged(err); v.code != fault.WebhookRedirect || !v.permanent || reached.Load() {
		t.Errorf("%v, reached %t", err, reached.Load())
	}
	if !strings.Contains(err.Error(), other.URL) || strings.Contains(err.Error(), planted) {
		t.Errorf("%v does not name %s, or says too much", err, other.URL)
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := receiver(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	w := webhook(t, s.URL, func(c *WebhookConfig) { c.Timeout = 50 * time.Millisecond })
	err := w.Handle(t.Context(), event())
	if v := judged(err); v.code != fault.WebhookUnavailable || v.permanent || !strings.Contains(err.Error(), "within 50ms") {
		t.Errorf("%v", err)
	}
}

// Being told to stop is not the receiver's failure.
func TestStopWhileWaiting(t *testing.T) {
	t.Parallel()
	release, called := make(chan struct{}), make(chan struct{})
	s := receiver(t, func(http.ResponseWriter, *http.Request) { close(called); <-release })
	defer close(release)
	ctx, stop := context.WithCancel(t.Context())
	go func() { <-called; stop() }()
	if err := webhook(t, s.URL, nil).Handle(ctx, event()); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// The status is the answer. A body that drips or never ends is cut off, and
// does not hold up the next event.
func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	sent := make(chan int, 1)
	for name, h := range map[string]http.HandlerFunc{
		"drips": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("."))
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		},
		"huge": func(w http.ResponseWriter, r *http.Request) {
			n := 0
			for r.Context().Err() == nil && n < 1<<30 {
				m, err := w.Write(make([]byte, 64<<10))
				if n += m; err != nil {
					break
				}
			}
			sent <- n
		},
	} {
		s := receiver(t, h)
		w := webhook(t, s.URL, nil)
		begin := time.Now()
		if err := w.Handle(t.Context(), event()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := time.Since(begin); d > drainTimeout+2*time.Second {
			t.Errorf("%s: took %s", name, d)
		}
	}
	// Buffers of the two sockets hold a few MiB.
	if n := <-sent; n > 64<<20 {
		t.Errorf("%d bytes were read", n)
	}
}

func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	var connections atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(422)
		_, _ = io.WriteString(w, strings.Repeat("explanation ", 100))
	}))
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	w := webhook(t, s.URL, nil)
	for range 20 {
		if v := judged(w.Handle(t.Context(), event())); v.code != fault.WebhookRefused {
			t.Fatal(v)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections for 20 requests", n)
	}
}

func TestNetworkErrors(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // resets every connection
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := gone.Addr().String()
	gone.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	for name, place := range map[string]string{
		"reset": "http://" + l.Addr().String(), "refused": "http://" + closed, "unknown authority": secure.URL,
		"no TLS": "https://" + l.Addr().String(), "no such host": "http://no-such-host.invalid",
	} {
		url := strings.Replace(place, "://", "://user:"+planted+"@", 1) + "/" + planted + "?token=" + planted
		reg := prometheus.NewRegistry()
		w := webhook(t, url, func(c *WebhookConfig) { c.Metrics = NewMetrics(reg) })
		err := w.Handle(t.Context(), event())
		if v := judged(err); v.code != fault.WebhookUnavailable || v.permanent {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text := err.Error() + fault.As(err).Text() + fmt.Sprintf("%+v %#v", err, w.cfg.URL)
		if strings.Contains(text, planted) || !strings.Contains(text, place) {
			t.Errorf("%s: %s", name, text)
		}
		if n := counted(t, w.cfg.Metrics.responses.WithLabelValues("none")); n != 1 {
			t.Errorf("%s: %v requests without an answer were counted", name, n)
		}
	}
}

func TestCustomAuthority(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := webhook(t, s.URL, func(c *WebhookConfig) { c.CAFile = file }).Handle(t.Context(), event()); err != nil {
		t.Error(err)
	}
}

// Mistakes are found before the first event, and what is said of them holds
// nothing secret.
func TestWebhookMistakes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty, long := filepath.Join(dir, "empty"), filepath.Join(dir, "long")
	if os.WriteFile(empty, []byte("\n"), 0o600) != nil || os.WriteFile(long, make([]byte, maxSecretFile+1), 0o600) != nil {
		t.Fatal("cannot write")
	}
	const good = "https://service.example/"
	for name, c := range map[string]WebhookConfig{
		"no URL":           {URL: secret.New("::" + planted)},
		"bad port":         {URL: secret.New("https://user:" + planted + "@h:port/")},
		"other scheme":     {URL: secret.New("ftp://" + planted + "@h/")},
		"no host":          {URL: secret.New("https:///" + planted)},
		"fragment":         {URL: secret.New(good + "#" + planted)},
		"short key":        {URL: secret.New(good), Key: Credential{Text: secret.New(planted[:minKey-1])}},
		"missing key file": {URL: secret.New(good), Key: Credential{File: filepath.Join(dir, "none")}},
		"empty key file":   {URL: secret.New(good), Key: Credential{File: empty}},
		"long key file":    {URL: secret.New(good), Key: Credential{File: long}},
		"folder as key":    {URL: secret.New(good), Key: Credential{File: dir}},
		"old key alone":    {URL: secret.New(good), OldKey: Credential{Text: secret.New(planted)}},
		"broken token":     {URL: secret.New(good), Authorization: Credential{Text: secret.New("Bearer " + planted + "\nX: y")}},
		"missing CA":       {URL: secret.New(good), CAFile: filepath.Join(dir, "none")},
		"no certificate":   {URL: secret.New(good), CAFile: empty},
	} {
		_, err := NewWebhook(c)
		if fault.CodeOf(err) != fault.ConfigInvalid {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if text := fault.As(err).Text(); strings.Contains(text, planted[:minKey-1]) {
			t.Errorf("%s: %s", name, text)
		}
	}
	for url, want := range map[string]bool{"https://u:p@h/": true, "https://u@h/": false, "https://h/": false, "::": false} {
		if HasPassword(url) != want {
			t.Errorf("HasPassword(%q) is %t", url, !want)
		}
	}
}
