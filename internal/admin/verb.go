package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Verb is something that can be done to the relay. By is who says so, as far as
// the request tells. What it returns is the answer.
type Verb func(ctx context.Context, r *http.Request, by string) (any, error)

// Verb serves a verb under POST, with the token, and writes a line to the log for
// each time that it is used, whatever comes of it.
func (s *Server) Verb(path string, do Verb) {
	s.Guarded("POST "+path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		by := author(r)
		answer, err := do(r.Context(), r, by)
		line := s.log.Info()
		if err != nil {
			line = s.log.Warn().Err(err).Str("code", fault.As(err).Code.ID)
		}
		line.Str("verb", strings.TrimPrefix(path, "/api/")).Str("by", by).Str("remote", r.RemoteAddr).
			Float64("duration_seconds", time.Since(began).Seconds()).Msg("admin request")
		if err != nil {
			Refuse(w, fault.As(err))
			return
		}
		Answer(w, answer)
	}))
	// Another method is a mistake to be told, not a page that does not exist.
	s.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", http.MethodPost)
		f := fault.New(fault.AdminRequest, "%s %s", r.Method, path).WithWhy("it changes something, and is a POST").
			WithFix("curl -X POST -H \"Authorization: Bearer $ADMIN_TOKEN\" http://%s%s", r.Host, path)
		respond(w, http.StatusMethodNotAllowed, failure(f))
	})
}

// author is who asks: the header X-Outbox-By, for the line in the log and for
// what is kept of a verb. It proves nothing; the token does.
func author(r *http.Request) string {
	by := strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, r.Header.Get("X-Outbox-By"))
	by = strings.TrimSpace(by)
	if by = strings.ToValidUTF8(by[:min(len(by), 100)], ""); by == "" {
		return "admin"
	}
	return by
}

// Refuse answers with a failure: code, name, detail, why and fix, as everywhere.
func Refuse(w http.ResponseWriter, f *fault.Error) { respond(w, statusOf(f), failure(f)) }

func failure(f *fault.Error) map[string]any {
	return map[string]any{"error": map[string]string{
		"code": f.Code.ID, "name": f.Code.Name, "detail": strings.TrimPrefix(f.Error(), f.Code.ID+" "), "why": f.Reason(), "fix": f.Remedy(),
		"docs": "docs/errors.md#" + strings.ToLower(f.Code.ID),
	}}
}

func statusOf(f *fault.Error) int {
	switch f.Code {
	case fault.AdminTokenWrong:
		return http.StatusUnauthorized
	case fault.AdminTokenUnset, fault.AdminCrossOrigin:
		return http.StatusForbidden
	case fault.LetterUnknown:
		return http.StatusNotFound
	case fault.AdminUnavailable:
		return http.StatusServiceUnavailable
	}
	switch {
	case errors.Is(f.Err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	case f.Code.Class == fault.Usage:
		return http.StatusBadRequest
	case f.Code.Class == fault.Retry:
		return http.StatusServiceUnavailable
	case f.Code.Class == fault.Finding:
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}

// Answer writes a result.
func Answer(w http.ResponseWriter, v any) { respond(w, http.StatusOK, v) }

func respond(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the other side may have gone
}
