package health

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// timeFormat is RFC 3339 with milliseconds, in UTC.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// About names the process in the report.
type About struct {
	Service, Version, Instance string
}

type report struct {
	Status    string                    `json:"status"`
	Service   string                    `json:"service"`
	Version   string                    `json:"version"`
	Instance  string                    `json:"instance,omitempty"`
	Role      string                    `json:"role,omitempty"`
	State     string                    `json:"state"`
	Since     string                    `json:"since"`
	Guarantee string                    `json:"guarantee,omitempty"`
	Breaker   string                    `json:"breaker,omitempty"`
	Time      string                    `json:"time"`
	Uptime    float64                   `json:"uptime_seconds"`
	Checks    map[string]map[string]any `json:"checks"`
}

// trouble is what a person needs to act; its fields are absent when nothing is
// the matter.
type trouble struct {
	Code   string `json:"code,omitempty"`
	Name   string `json:"name,omitempty"`
	Detail string `json:"detail,omitempty"`
	Why    string `json:"why,omitempty"`
	Fix    string `json:"fix,omitempty"`

	Connection string `json:"connection,omitempty"`
}

func (st Status) trouble() trouble {
	return trouble{Code: st.Code, Name: st.Name, Detail: st.Detail, Why: st.Why, Fix: st.Fix, Connection: st.Connection}
}

// word is the status as one of pass, warn and fail. Only what needs a person
// fails: a relay that waits for Kafka is unready, but its events are safe and
// it comes back by itself.
func (st Status) word() string {
	switch {
	case st.Halted:
		return Fail
	case !st.Ready, st.Code != "":
		return Warn
	}
	return Pass
}

// check is the status as one entry of the report.
func (st Status) check() map[string]any {
	m := map[string]any{"status": st.word(), "state": st.State, "since": stamp(st.Since)}
	for k, v := range map[string]string{"code": st.Code, "name": st.Name, "detail": st.Detail, "why": st.Why, "fix": st.Fix, "connection": st.Connection} {
		if v != "" {
			m[k] = v
		}
	}
	return m
}

func (s *Server) report(r *http.Request) report {
	st, now := s.state.Get(), s.state.now()
	checks := map[string]map[string]any{"relay": st.check()}
	status := st.word()
	for name, res := range s.checks.results(r.Context()) {
		checks[name] = res.json()
		status = worse(status, res.Status)
	}
	return report{
		Status: status, Service: s.about.Service, Version: s.about.Version, Instance: s.about.Instance,
		Role: st.Role, State: st.State, Since: stamp(st.Since), Guarantee: st.Guarantee, Breaker: st.Breaker,
		Time: stamp(now), Uptime: now.Sub(s.state.started).Seconds(), Checks: checks,
	}
}

func (r Result) json() map[string]any {
	m := map[string]any{}
	for k, v := range r.Facts {
		m[k] = v
	}
	m["status"] = r.Status
	if r.Code != "" {
		m["code"] = r.Code
	}
	if r.Hint != "" {
		m["hint"] = r.Hint
	}
	return m
}

// draft is the report in the shape of the expired draft for
// application/health+json, which some tools read.
func (r report) draft() map[string]any {
	checks := map[string]any{}
	for name, c := range r.Checks {
		item := map[string]any{"componentId": name, "time": r.Time, "componentType": "component", "status": c["status"]}
		if sec, ok := c["latency_seconds"]; ok {
			item["observedValue"], item["observedUnit"], item["componentType"] = sec, "s", "datastore"
		}
		for _, said := range []string{"hint", "detail"} {
			if text, ok := c[said]; ok {
				item["output"] = text
			}
		}
		if item["status"] == Disabled {
			item["status"] = Pass // the draft has three words only
		}
		checks[name+":responseTime"] = []any{item}
	}
	return map[string]any{"status": r.Status, "version": r.Version, "serviceId": r.Instance, "description": r.Service, "checks": checks}
}

func wantsDraft(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "application/health+json")
}

func stamp(t time.Time) string { return t.UTC().Format(timeFormat) }

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	// Fixes hold commands with < and >, which people copy.
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the other side may have gone
}
