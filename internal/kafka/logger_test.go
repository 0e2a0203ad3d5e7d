package kafka

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestLoggerCollapsesRepeats(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Unix(0, 0)
	l := newLogger(zerolog.New(&out))
	l.now = func() time.Time { return now }

	refused, reset := errors.New("refused"), errors.New("reset")
	for i := range 50 {
		l.Log(kgo.LogLevelWarn, "dial", "addr", i, "err", refused)
	}
	l.Log(kgo.LogLevelWarn, "dial", "err", reset) // another error is another line
	l.Log(kgo.LogLevelWarn, "dial", "err", reset)
	now = now.Add(repeatEvery)
	l.Log(kgo.LogLevelWarn, "dial", "err", reset, "backoff", 1500*time.Millisecond) // still there after a while
	l.Log(kgo.LogLevelInfo, "metadata")                                             // below the level: not a line, breaks no count
	l.Log(kgo.LogLevelError, "gone", "level", "x")

	want := []map[string]any{
		{"level": "warn", "message": "dial", "addr": 0.0, "error": "refused"},
		{"level": "warn", "message": "the kafka client repeated its last line", "repeated": 49.0},
		{"level": "warn", "message": "dial", "error": "reset"},
		{"level": "warn", "message": "dial", "error": "reset", "repeated": 1.0, "backoff_seconds": 1.5},
		{"level": "error", "message": "gone", "client_level": "x"},
	}
	var got []map[string]any
	for line := range strings.Lines(out.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		got = append(got, m)
	}
	// The level of this logger is trace, so the info line is there too.
	for i, m := range got {
		if m["message"] == "metadata" {
			got = append(got[:i], got[i+1:]...)
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestLoggerLevel(t *testing.T) {
	t.Parallel()
	for ours, want := range map[zerolog.Level]kgo.LogLevel{
		zerolog.TraceLevel: kgo.LogLevelDebug, zerolog.DebugLevel: kgo.LogLevelInfo, zerolog.InfoLevel: kgo.LogLevelWarn,
		zerolog.WarnLevel: kgo.LogLevelWarn, zerolog.ErrorLevel: kgo.LogLevelError, zerolog.Disabled: kgo.LogLevelNone,
	} {
		if got := newLogger(zerolog.Nop().Level(ours)).Level(); got != want {
			t.Errorf("%s: %s, want %s", ours, got, want)
		}
	}
}
