package pipeline

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// judge says what a status means for the event.
//
// A 4xx is about the event: sent again it would be refused again, so it is a
// dead letter, 410 included, which other systems take for a cancelled
// subscription: here the operator stops the pipeline, not the receiver. 408,
// 425 and 429 are about the moment.
func (w *Webhook) judge(resp *http.Response) error {
	code := resp.StatusCode
	said := strconv.Itoa(code)
	if text := http.StatusText(code); text != "" {
		said += " " + text
	}
	switch {
	case code >= 200 && code <= 299:
		return nil
	case w.again(code):
		err := fault.New(fault.WebhookUnavailable, "%s answered %s", w.Place(), said)
		if d := w.retryAfter(resp.Header.Get("Retry-After")); d > 0 {
			return consumer.RetryAfter(err, d)
		}
		return err
	case code >= 300 && code <= 399:
		return consumer.Permanent(fault.New(fault.WebhookRedirect, "%s answered %s%s", w.Place(), said, w.toward(resp.Header.Get("Location"))))
	}
	return consumer.Permanent(fault.New(fault.WebhookRefused, "%s answered %s", w.Place(), said))
}

func (w *Webhook) again(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return code >= 500 && code <= 599 || slices.Contains(w.cfg.RetryStatus, code)
}

// toward tells where a redirect leads, as far as it may be shown.
func (w *Webhook) toward(location string) string {
	u, err := url.Parse(location)
	if err != nil || location == "" {
		return ""
	}
	return fmt.Sprintf(", to %s", place(w.target.ResolveReference(u)))
}

// retryAfter reads the header in both of its forms. 0 means "not said": the
// usual backoff is right then.
func (w *Webhook) retryAfter(text string) time.Duration {
	text = strings.TrimSpace(text)
	var d time.Duration
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		d = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		d = at.Sub(w.now())
	}
	return min(max(d, 0), w.cfg.MaxRetryAfter)
}
