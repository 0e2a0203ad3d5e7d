package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// admit says why a request may not come in, or nil. Basic is what `go tool pprof`
// can send; a browser keeps it and sends it again by itself, so it opens nothing
// that changes anything.
func (s *Server) admit(r *http.Request, basic bool) *fault.Error {
	if !s.cfg.Token.Set() {
		return fault.New(fault.AdminTokenUnset, "%s %s", r.Method, r.URL.Path)
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if basic && !ok {
		_, token, ok = r.BasicAuth()
	}
	// Hashes are of one length, so that the comparison does not tell that of the token.
	want, got := sha256.Sum256([]byte(s.cfg.Token.Reveal())), sha256.Sum256([]byte(strings.TrimSpace(token)))
	if same := subtle.ConstantTimeCompare(want[:], got[:]) == 1; !same || !ok {
		s.log.Warn().Str("code", fault.AdminTokenWrong.ID).Str("method", r.Method).Str("path", cut(r.URL.Path)).
			Str("remote", r.RemoteAddr).Bool("token_given", ok).Msg("request refused")
		return fault.New(fault.AdminTokenWrong, "%s %s", r.Method, r.URL.Path)
	}
	return nil
}

// foreign says what shows that a request was made by another site's page.
func (s *Server) foreign(r *http.Request) *fault.Error {
	host := r.Host
	if h, _, err := net.SplitHostPort(r.Host); err == nil {
		host = h
	}
	if s.cfg.loopback() && !localName(host) {
		// Somebody's name that resolves to 127.0.0.1 would make his page of our origin.
		return fault.New(fault.AdminCrossOrigin, "the host asked for is %.100q", host)
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		navigation := r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate"
		if !navigation { // a link to the page is no harm
			return fault.New(fault.AdminCrossOrigin, "Sec-Fetch-Site is %.40q", site)
		}
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		u, err := url.Parse(origin)
		if err != nil || !strings.EqualFold(u.Host, r.Host) {
			return fault.New(fault.AdminCrossOrigin, "Origin is %.100q", origin)
		}
	}
	return nil
}

// Read reads the JSON body of a verb into v. No body is an empty object.
func Read(r *http.Request, v any) *fault.Error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); r.ContentLength != 0 && (err != nil || kind != "application/json") {
		return fault.New(fault.AdminRequest, "Content-Type is %.100q", r.Header.Get("Content-Type")).WithFix("curl -H 'Content-Type: application/json'")
	}
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	tooLarge := (*http.MaxBytesError)(nil)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.As(err, &tooLarge):
		return fault.New(fault.AdminRequest, "the body is larger than %d bytes", tooLarge.Limit).WithFix("ask for less at once")
	case err != nil:
		return fault.Wrap(err, fault.AdminRequest, "read the body")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fault.New(fault.AdminRequest, "something follows the JSON object in the body")
	}
	return nil
}

func cut(s string) string { return s[:min(len(s), 200)] }
