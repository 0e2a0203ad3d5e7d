package main

import (
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// The status says whether Kafka could be used at all, and what was found.
func TestVerifyStatus(t *testing.T) {
	t.Parallel()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("PLAIN", "app", planted))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for name, policy := range map[string]string{"outbox.events": "delete", "outbox.events.dlq": "delete", "outbox.events.dlq.state": "compact", "outbox.outbox.checkpoint": "compact"} {
		if err := c.CreateTopic(name, 1, map[string]string{"cleanup.policy": policy, "retention.ms": "-1"}); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	login := []string{"KAFKA_SASL_MECHANISM=plain", "KAFKA_SASL_USERNAME=app", "KAFKA_CONNECTION_TIMEOUT=2000", "KAFKA_REQUEST_TIMEOUT=5000"}
	for _, tc := range []struct {
		name    string
		environ []string
		status  int
		result  string
	}{
		{"sound", []string{"KAFKA_BROKERS=" + c.ListenAddrs()[0], "KAFKA_SASL_PASSWORD=" + planted}, 0, "warn"},
		{"wrong password", []string{"KAFKA_BROKERS=" + c.ListenAddrs()[0], "KAFKA_SASL_PASSWORD=x" + planted}, 3, "unreachable"},
		{"nobody there", []string{"KAFKA_BROKERS=" + closed, "KAFKA_SASL_PASSWORD=" + planted}, 3, "unreachable"},
		{"one of two is there", []string{"KAFKA_BROKERS=" + closed + "," + c.ListenAddrs()[0], "KAFKA_SASL_PASSWORD=" + planted}, 4, "fail"},
		{"another relay", []string{"KAFKA_BROKERS=" + c.ListenAddrs()[0], "KAFKA_SASL_PASSWORD=" + planted, "OUTBOX_NAME=new"}, 4, "fail"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			environ := append(append([]string{}, login...), tc.environ...)
			status, stdout, stderr := try(t, environ, "verify")
			if status != tc.status || !strings.Contains(stdout, "\n"+tc.result+": ") {
				t.Errorf("status %d, want %d\n%s%s", status, tc.status, stdout, stderr)
			}
			jsonStatus, document, jsonErr := try(t, environ, "verify", "-o", "json")
			var body struct {
				Result string
				Steps  []stepView
			}
			if err := json.Unmarshal([]byte(document), &body); err != nil || jsonStatus != tc.status || body.Result != tc.result || len(body.Steps) < 10 {
				t.Errorf("status %d, %v\n%s%s", jsonStatus, err, document, jsonErr)
			}
			for _, s := range body.Steps {
				if bad := s.Status == "warn" || s.Status == "fail"; bad && (s.Code == "" || s.Why == "" || s.Fix == "" || s.Docs == "") {
					t.Errorf("%+v", s)
				}
			}
			if strings.Contains(stdout+stderr+document+jsonErr, planted) {
				t.Error("the output holds the password")
			}
		})
	}
}

func TestParseSince(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":                          {},
		"24h":                       now.Add(-24 * time.Hour),
		"2026-01-31":                time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC),
		"2026-01-31 12:30:00":       time.Date(2026, 1, 31, 12, 30, 0, 0, time.UTC),
		"2026-01-31T12:30:00Z":      time.Date(2026, 1, 31, 12, 30, 0, 0, time.UTC),
		"2026-01-31T12:30:00+02:00": time.Date(2026, 1, 31, 10, 30, 0, 0, time.UTC),
	} {
		if got, err := readTime("--since", text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"yesterday", "-3h", "2026-13-01", "12:30"} {
		if _, err := readTime("--since", text, now); !fault.Has(err, fault.CommandLine) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A line that is drawn over where somebody watches, lines now and then where
// nobody does, and nothing at all of what is over in a moment.
func TestProgress(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		redraw bool
		want   string
	}{
		"watched": {true, "\r\x1b[Ktable    [######..................]  25 %  1,000,000 of 4,000,000  500,000/s  ETA 6s" +
			"\r\x1b[Ktopics   3,000, 1,000/s\r\x1b[K"},
		"not watched": {false, "table    [############............]  50 %  2,000,000 of 4,000,000  100,000/s  ETA 20s\n"},
	} {
		var out strings.Builder
		now := time.Unix(0, 0)
		p := newProgress(&out, c.redraw)
		p.now = func() time.Time { return now }
		p.at("table", 1, 4_000_000)
		now = now.Add(time.Millisecond)
		p.at("table", 2, 4_000_000)
		now = time.Unix(2, 0)
		p.at("table", 1_000_000, 4_000_000)
		if !c.redraw {
			now = time.Unix(20, 0)
			p.at("table", 2_000_000, 4_000_000)
		}
		now = now.Add(time.Second)
		p.at("topics", 0, 0)
		now = now.Add(3 * time.Second)
		p.at("topics", 3000, 0)
		p.end()
		p.end()
		if got := out.String(); got != c.want {
			t.Errorf("%s:\n%q\nwant\n%q", name, got, c.want)
		}
	}
}
