package demo

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestScreenKeepsToItsWidth(t *testing.T) {
	for _, test := range []struct {
		width, height int
		colour        bool
	}{{80, 24, true}, {80, 24, false}, {200, 60, false}, {40, 10, false}} {
		var out bytes.Buffer
		s := &screen{out: &out, colour: test.colour, version: "v1.2.3", began: time.Now(), size: func() (int, int) { return test.width, test.height }}
		s.step("postgres", "15.18, temporary, socket in /tmp/outbox-demo-1234567890", time.Second)
		for range 20 {
			s.say(strings.Repeat("a long note about a kill ", 6))
		}
		s.show(view{First: time.Second, Label: " (in-process broker)", state: state{counts: counts{Committed: 1234567}}})
		text := out.String()
		if strings.Contains(text, "\x1b[1;32m") != test.colour {
			t.Errorf("colour is %t", !test.colour)
		}
		if strings.ContainsAny(text, "\x01\x02") {
			t.Error("marks reach the terminal")
		}
		for _, control := range []string{"\x1b[H", "\x1b[K", "\x1b[J", "\x1b[1;32m", "\x1b[0m"} {
			text = strings.ReplaceAll(text, control, "")
		}
		lines := strings.Split(text, "\r\n")
		if len(lines) > test.height {
			t.Errorf("%d lines on a screen of %d", len(lines), test.height)
		}
		for _, line := range lines {
			if n := utf8.RuneCountInString(line); n > min(test.width, screenWidth) {
				t.Errorf("%d columns on a screen of %d: %q", n, test.width, line)
			}
		}
	}
}

func TestFiguresAreReadable(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000"} {
		if got := grouped(n); got != want {
			t.Errorf("grouped(%d) = %q, want %q", n, got, want)
		}
	}
	for us, want := range map[int64]string{0: "0.0 ms", 640: "0.6 ms", 9_900: "9.9 ms", 12_345: "12 ms", 2_500_000: "2.50 s"} {
		if got := micros(us); got != want {
			t.Errorf("micros(%d) = %q, want %q", us, got, want)
		}
	}
}

func TestSummaryOfAnInterruptedRun(t *testing.T) {
	r := &result{state: state{Waiting: 7}, interrupted: true, early: true}
	if err := r.verdict(); err != nil {
		t.Errorf("an interrupt is a finding: %v", err)
	}
	var out strings.Builder
	if err := r.write(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "stopped early") || !strings.Contains(out.String(), "0 lost") {
		t.Errorf("summary is\n%s", out.String())
	}
}
