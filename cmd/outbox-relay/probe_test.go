package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/fault"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	state := health.NewState()
	srv := httptest.NewServer(health.New(health.Config{}, health.About{}, state, nil, prometheus.NewRegistry()))
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, addr, which string
		status            int
		says              string
	}{
		{"alive", u.Host, "live", 0, `"pass"`},
		{"on every address", ":" + u.Port(), "live", 0, `"pass"`},
		{"on every address of version 4", "0.0.0.0:" + u.Port(), "live", 0, `"pass"`},
		{"not ready", u.Host, "ready", 4, `"starting"`},
		{"not started", u.Host, "startup", 4, `"fail"`},
		{"nobody there", "127.0.0.1:1", "ready", 3, "OBX-1060"},
	} {
		var out, errs bytes.Buffer
		status := run(process{
			args: []string{"probe", c.which}, environ: []string{"HEALTH_ADDR=" + c.addr}, stdout: &out, stderr: &errs,
		})
		if status != c.status || !strings.Contains(out.String()+errs.String(), c.says) {
			t.Errorf("%s: status %d, want %d\n%s%s", c.name, status, c.status, &out, &errs)
		}
	}
}

// A probe asks this host and never a proxy.
func TestProbeTakesNoProxy(t *testing.T) {
	proxy := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(proxy.Close)
	t.Setenv("HTTP_PROXY", proxy.URL)
	err := probe(context.Background(), "192.0.2.1:0", "/livez", &bytes.Buffer{})
	if !fault.Has(err, fault.NobodyAnswers) {
		t.Errorf("%v", err)
	}
}
