package gate

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
)

const (
	// mostWaits bounds the connections that requests open.
	mostWaits   = 8
	defaultWait = 30 * time.Second
	longestWait = 5 * time.Minute
	// answerTime is what writing an answer may take.
	answerTime = 10 * time.Second
)

// refusal is the body of an answer that is no 200; its keys are stable.
type refusal struct {
	Answer
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Why    string `json:"why"`
	Fix    string `json:"fix"`
}

// Handler answers GET with the parameters lsn (default: now) and timeout
// (default: 30s, at most 5m): 200 when the position is reached, 504 when it is
// not in time, 400 for a request that cannot be read, 429 if as many wait
// already as may, 503 if there is nothing that could be waited for.
func (g *Gate) Handler() http.Handler {
	seats := make(chan struct{}, mostWaits)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit, err := timeout(r.URL.Query().Get("timeout"))
		if err != nil {
			refuse(w, http.StatusBadRequest, Answer{}, err)
			return
		}
		select {
		case seats <- struct{}{}:
			defer func() { <-seats }()
		default:
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusTooManyRequests, Answer{}, fault.New(fault.WaitTimeout, "%d requests wait already", mostWaits).
				WithWhy("each holds a connection to Postgres").WithFix("wait for a later position, once, instead of for each"))
			return
		}
		// The listener's own limit is for answers that come at once.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit + answerTime))
		a, err := g.Wait(r.Context(), r.URL.Query().Get("lsn"), limit, nil)
		if err == nil {
			answer(w, http.StatusOK, a)
			return
		}
		status := http.StatusServiceUnavailable
		switch fault.CodeOf(err) {
		case fault.WaitTimeout:
			status = http.StatusGatewayTimeout
		case fault.WaitTarget:
			status = http.StatusBadRequest
		}
		refuse(w, status, a, err)
	})
}

// timeout reads a duration, where a bare number is of milliseconds.
func timeout(text string) (time.Duration, error) {
	if text == "" {
		return defaultWait, nil
	}
	d, err := time.ParseDuration(text)
	if ms, nerr := strconv.ParseInt(text, 10, 32); nerr == nil {
		d, err = time.Duration(ms)*time.Millisecond, nil
	}
	if err != nil || d < 0 || d > longestWait {
		return 0, fault.New(fault.WaitTarget, "timeout is %q", text).WithWhy("it is a duration of at most %s", longestWait).WithFix("timeout=30s")
	}
	return d, nil
}

func refuse(w http.ResponseWriter, status int, a Answer, err error) {
	f := fault.As(err)
	answer(w, status, refusal{a, f.Code.ID, f.Error(), f.Reason(), f.Remedy()})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the other side may have gone
}
