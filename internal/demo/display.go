package demo

import (
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"
)

// display is where the demo shows what happens: a redrawn screen or lines.
type display interface {
	step(name, about string, took time.Duration) // a part is up
	say(text string)                             // something worth a line happened
	show(view)                                   // called ten times a second
	close()                                      // gives the terminal back
}

// view is what changes all the time.
type view struct {
	state
	Elapsed    time.Duration // since the generator began
	Total      time.Duration
	First      time.Duration // process start to first event, 0 until then
	Label      string        // of the broker, where figures depend on it
	Checkpoint string
	Kills      int
	Phase      string
	Hint       string // how to look at the parts from outside
}

// lines is the display of pipes and of CI.
type lines struct {
	began time.Time
	every time.Duration

	mu    sync.Mutex
	out   io.Writer
	shown time.Time
}

func newLines(out io.Writer, began time.Time) *lines {
	return &lines{out: out, began: began, every: 2 * time.Second}
}

func (l *lines) step(name, about string, took time.Duration) {
	l.say(fmt.Sprintf("%-9s %s (%s)", name, about, seconds(took)))
}

// say drops what cannot be written: a reader that left is no reason to leave
// the run unfinished.
func (l *lines) say(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, "[%5.1f s] %s\n", time.Since(l.began).Seconds(), text)
}

func (l *lines) show(v view) {
	now := time.Now()
	if l.shown.IsZero() {
		l.shown = now
	}
	if now.Sub(l.shown) < l.every || v.Phase != "" {
		return
	}
	l.shown = now
	l.say(fmt.Sprintf("committed %s  rolled back %s  published %s  dead letters %s  waiting %s  p50 %s  p99 %s",
		grouped(v.Committed), grouped(v.RolledBack), grouped(v.Published), grouped(v.Letters),
		grouped(v.Waiting), micros(v.Steady.P50), micros(v.Steady.P99)))
}

func (l *lines) close() {}

// grouped writes 12345 as 12,345.
func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// micros writes a latency with two or three digits that matter.
func micros(us int64) string {
	switch {
	case us < 10_000:
		return fmt.Sprintf("%.1f ms", float64(us)/1e3)
	case us < 1_000_000:
		return fmt.Sprintf("%d ms", us/1e3)
	}
	return fmt.Sprintf("%.2f s", float64(us)/1e6)
}
