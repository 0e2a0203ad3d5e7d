package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// record keeps log lines, and lets a test wait for one.
type record struct {
	mu    sync.Mutex
	lines []map[string]any
	more  chan struct{}
}

func newRecord() *record { return &record{more: make(chan struct{})} }

func (r *record) Write(p []byte) (int, error) {
	var line map[string]any
	if err := json.Unmarshal(p, &line); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	close(r.more)
	r.more = make(chan struct{})
	return len(p), nil
}

// await returns the first line that has all the texts.
func (r *record) await(t *testing.T, texts ...string) map[string]any {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		lines, more := r.lines, r.more
		r.mu.Unlock()
		for _, line := range lines {
			all, text := true, fmt.Sprint(line)
			for _, want := range texts {
				all = all && strings.Contains(text, want)
			}
			if all {
				return line
			}
		}
		select {
		case <-more:
		case <-late:
			t.Fatalf("no line with %q in %v", texts, lines[:min(len(lines), 9)])
		}
	}
}

// rig is a child under test and what was said of it.
type rig struct {
	*Child
	log  *record
	stop context.CancelFunc
	done chan error
}

func rear(t *testing.T, mode string, edit func(*ChildConfig)) *rig {
	t.Helper()
	r := &rig{log: newRecord(), done: make(chan error, 1)}
	cfg := ChildConfig{
		Command: []string{os.Args[0]}, Environ: append(os.Environ(), childVariable+"="+mode),
		Timeout: 5 * time.Second, MaxRetryAfter: time.Minute, Window: 8, Grace: 5 * time.Second,
		Log: zerolog.New(r.log), Metrics: NewMetrics(prometheus.NewRegistry()),
	}
	if edit != nil {
		edit(&cfg)
	}
	var err error
	if r.Child, err = NewChild(cfg); err != nil {
		t.Fatal(err)
	}
	r.backoff = func(int) time.Duration { return time.Millisecond }
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() { r.done <- r.Run(ctx) }()
	t.Cleanup(func() { r.end(t) })
	return r
}

// end stops the child and waits until it has gone.
func (r *rig) end(t *testing.T) {
	t.Helper()
	r.stop()
	select {
	case err, ok := <-r.done:
		if ok && err != nil {
			t.Error(err)
		}
		if ok {
			close(r.done)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the child does not end")
	}
}

func (r *rig) ends(t *testing.T, code *fault.Code) float64 {
	t.Helper()
	return counted(t, r.cfg.Metrics.ends.WithLabelValues(code.Name))
}

// counted reads one counter.
func counted(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func ask(verb string) consumer.Event {
	return consumer.Event{ID: "e-" + verb, Type: verb, Payload: []byte("{}"), ContentType: "application/json", Attempt: 1, Topic: "t"}
}

func TestChildAnswers(t *testing.T) {
	t.Parallel()
	r := rear(t, "plain", nil)
	for verb, want := range map[string]verdictOf{
		"ok":           {},
		"seq":          {},
		"retry":        {fault.ChildRetry, false, 0},
		"later:1.5":    {fault.ChildRetry, false, 1500 * time.Millisecond},
		"later:0":      {fault.ChildRetry, false, 0},
		"later:86400":  {fault.ChildRetry, false, time.Minute},
		"later:1e300":  {fault.ChildRetry, false, time.Minute},
		"fail":         {fault.ChildFailed, true, 0},
		"slow:50ms":    {},
		"mumble:hello": {},
	} {
		err := r.Handle(t.Context(), ask(verb))
		if diff := cmp.Diff(want, judged(err), cmp.AllowUnexported(verdictOf{})); diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", verb, err, diff)
		}
		if verb == "fail" && !strings.HasSuffix(err.Error(), ": bad total") || verb == "retry" && !strings.HasSuffix(err.Error(), ": not now really") {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if line := r.log.await(t, "hello"); line["line"] != "hello" || line["component"] != "child" {
		t.Errorf("%v", line)
	}
	if n := counted(t, r.cfg.Metrics.starts); n != 1 {
		t.Errorf("%v children", n)
	}
}

// Whatever a child does wrong ends its life by name, and the next one serves.
func TestChildMisbehaves(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		verb   string
		code   *fault.Code
		detail string
	}{
		{"die", fault.ChildDied, "ended with status 3"},
		{"kill", fault.ChildDied, "signal 9"},
		{"garbage-and-die", fault.ChildProtocol, "no JSON object"},
		{"close", fault.ChildProtocol, "writes no more answers"},
		{"huge", fault.ChildProtocol, "more than 65536 bytes"},
		{"silent", fault.ChildSilent, "answered nothing for 300ms"},
		{"say:hello, secret payload", fault.ChildProtocol, "no JSON object"},
		{`say:[1]`, fault.ChildProtocol, "no JSON object"},
		{`say:null`, fault.ChildProtocol, "without seq and without id"},
		{`say:{"status":"ok"}`, fault.ChildProtocol, "without seq and without id"},
		{`say:{"id":"another","status":"ok"}`, fault.ChildProtocol, "not outstanding"},
		{`say:{"seq":99,"status":"ok"}`, fault.ChildProtocol, "not outstanding"},
		{`say:{"seq":1,"id":"another","status":"ok"}`, fault.ChildProtocol, "belong to different events"},
		{`say:{"seq":1}`, fault.ChildProtocol, "without status"},
		{`say:{"seq":1,"status":"done"}`, fault.ChildProtocol, "none of ok, retry and fail"},
		{`say:{"seq":1,"status":"retry","retry_after_seconds":-1}`, fault.ChildProtocol, "negative"},
		{`say:{"seq":1,"status":"retry","retry_after_seconds":"5"}`, fault.ChildProtocol, "right types"},
	} {
		t.Run(c.verb, func(t *testing.T) {
			t.Parallel()
			r := rear(t, "plain", func(cfg *ChildConfig) {
				if c.verb == "silent" {
					cfg.Timeout = 300 * time.Millisecond
				}
			})
			err := r.Handle(t.Context(), ask(c.verb))
			v := judged(err)
			if v.code != c.code || v.permanent || !strings.Contains(err.Error(), c.detail) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v, want %s with %q", err, c.code.Name, c.detail)
			}
			if err := r.Handle(t.Context(), ask("ok")); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			if n := r.ends(t, c.code); n != 1 {
				t.Errorf("%v ends were counted", n)
			}
			if line := r.log.await(t, "child lost"); line["code"] != c.code.ID || line["hint"] == "" {
				t.Errorf("%v", line)
			}
		})
	}
}

// An answer counts even if it was the last thing that the child did.
func TestLastWordsCount(t *testing.T) {
	t.Parallel()
	r := rear(t, "plain", nil)
	for i := range 20 {
		if err := r.Handle(t.Context(), ask("answer-and-die")); err != nil {
			t.Fatalf("attempt %d: %v", i, err)
		}
	}
}

// A child that reads nothing is found out. The event has not been seen, so it
// is not to blame: it waits for a child that does read, and loses no attempt.
func TestDeafChild(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"deaf", "idle", "dead"} {
		for _, size := range []int{1, 1 << 20} { // the pipe holds 64 KiB
			r := rear(t, mode, func(c *ChildConfig) { c.Timeout, c.Grace = 100*time.Millisecond, 50*time.Millisecond })
			ev := ask("ok")
			ev.ContentType, ev.Payload = "", bytes.Repeat([]byte("x"), size)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.Handle(ctx, ev) }()
			r.log.await(t, "child lost")
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("%s, %d bytes: %v", mode, size, err)
			}
		}
	}
}

// Several events are with the child at a time, answered in any order; no more
// than the window.
func TestWindow(t *testing.T) {
	t.Parallel()
	const window = 4
	r := rear(t, "plain", func(c *ChildConfig) { c.Window = window; c.Timeout = 20 * time.Second })
	var all sync.WaitGroup
	for i := range 3 * window {
		all.Go(func() {
			ev := ask("hold:" + strconv.Itoa(window))
			ev.ID = fmt.Sprint("e-", i)
			if err := r.Handle(t.Context(), ev); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	all.Wait()
}

// The same event may be outstanding twice: once from before a rebalance, once
// from after it. Answers by id go to the older one first.
func TestSameEventTwice(t *testing.T) {
	t.Parallel()
	r := rear(t, "plain", nil)
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			if err := r.Handle(t.Context(), ask("hold:2")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// The event that kills pays with an attempt, those that were there by chance
// do not.
func TestInnocentNeighbours(t *testing.T) {
	t.Parallel()
	r := rear(t, "mark:"+t.TempDir()+"/born", func(c *ChildConfig) { c.Window = 6; c.Timeout = 20 * time.Second })
	results := make([]error, 6)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			ev := ask("bystander")
			if i == 0 {
				ev = ask("die")
				r.awaitOutstanding(t, 5)
			}
			ev.ID = fmt.Sprint("e-", i)
			results[i] = r.Handle(t.Context(), ev)
		})
	}
	all.Wait()
	for i, err := range results {
		if i == 0 && fault.CodeOf(err) != fault.ChildDied || i > 0 && err != nil {
			t.Errorf("event %d: %v", i, err)
		}
	}
	if n := r.ends(t, fault.ChildDied); n != 2 {
		t.Errorf("%v deaths, want 2: in company and alone", n)
	}
}

// awaitOutstanding returns when the child has so many events. There is no
// signal for it outside of the tests.
func (r *rig) awaitOutstanding(t *testing.T, want int) {
	for n := 0; n < want && t.Context().Err() == nil; time.Sleep(time.Millisecond) {
		l, err := r.living(t.Context(), nil)
		if err != nil {
			return
		}
		n = 0
		l.mu.Lock()
		for _, turn := range l.open.bySeq {
			if turn.taken {
				n++
			}
		}
		l.mu.Unlock()
	}
}

// A handler that is told to stop leaves its event with the child, whose late
// answer is no mistake.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	r := rear(t, "plain", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Handle(ctx, ask("slow:300ms")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if err := r.Handle(t.Context(), ask("ok")); err != nil {
		t.Error(err)
	}
	if n := counted(t, r.cfg.Metrics.starts); n != 1 {
		t.Errorf("%v children", n)
	}
}

func TestHandleAfterTheEnd(t *testing.T) {
	t.Parallel()
	r := rear(t, "plain", nil)
	r.end(t)
	if err := r.Handle(t.Context(), ask("ok")); !errors.Is(err, errOver) {
		t.Errorf("%v", err)
	}
}

func TestCommandsThatCannotStart(t *testing.T) {
	t.Parallel()
	for _, command := range [][]string{{"/nonexistent/handler"}, {"no-such-command-anywhere"}, {t.TempDir()}} {
		if _, err := NewChild(ChildConfig{Command: command}); fault.CodeOf(err) != fault.ChildStart {
			t.Errorf("%v: %v", command, err)
		}
	}
	if _, err := NewChild(ChildConfig{}); fault.CodeOf(err) != fault.CommandLine {
		t.Errorf("%v", err)
	}
	// Executable, and no program.
	file := t.TempDir() + "/handler"
	if err := os.WriteFile(file, []byte("\x7fELF nonsense"), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := NewChild(ChildConfig{Command: []string{file}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); fault.CodeOf(err) != fault.ChildStart {
		t.Errorf("%v", err)
	}
}

// A child that ends as soon as it is started is started again, more and more
// slowly.
func TestBackoff(t *testing.T) {
	t.Parallel()
	for deaths, want := range map[int]time.Duration{1: 1, 2: 2, 3: 4, 4: 8, 5: 10, 6: 10, 1000: 10} {
		for range 100 {
			if d := backoff(deaths); d > want*time.Second || d < want*time.Second*3/4 {
				t.Errorf("after %d deaths: %s", deaths, d)
			}
		}
	}
	var mu sync.Mutex
	var asked []int
	enough := make(chan struct{})
	r := &rig{log: newRecord(), done: make(chan error, 1)}
	var up []bool
	c, err := NewChild(ChildConfig{
		Command: []string{os.Args[0]}, Environ: append(os.Environ(), childVariable+"=dead"), Timeout: time.Second, Log: zerolog.New(r.log),
		OnState: func(is bool, why *fault.Error) {
			if up = append(up, is); !is && (why == nil || why.Code != fault.ChildDied) {
				t.Errorf("%v", why)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.backoff = func(deaths int) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		if asked = append(asked, deaths); deaths == 4 {
			close(enough)
			return time.Hour
		}
		return 0
	}
	ctx, stop := context.WithCancel(t.Context())
	go func() { r.done <- c.Run(ctx) }()
	<-enough
	stop()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]int{1, 2, 3, 4}, asked); diff != "" {
		t.Error(diff)
	}
	if len(up) != 8 || !up[0] || up[7] {
		t.Errorf("states %v", up)
	}
}

// The end of its input is enough for a good child; a bad one gets SIGTERM, and
// a stubborn one SIGKILL. What it has started goes with it.
func TestStop(t *testing.T) {
	t.Parallel()
	for mode, c := range map[string]struct {
		grace, least time.Duration
		killed       bool
	}{
		"plain":       {20 * time.Second, 0, false},
		"slow-to-end": {200 * time.Millisecond, 200 * time.Millisecond, false},
		"stubborn":    {200 * time.Millisecond, 400 * time.Millisecond, true},
	} {
		t.Run(mode, func(t *testing.T) {
			r := rear(t, mode, func(cfg *ChildConfig) { cfg.Grace = c.grace; cfg.Timeout = 20 * time.Second })
			if err := r.Handle(t.Context(), ask("ok")); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			r.end(t)
			if d := time.Since(begin); d < c.least || d > 10*time.Second {
				t.Errorf("took %s", d)
			}
			if killed := strings.Contains(fmt.Sprint(r.log.lines), "child killed"); killed != c.killed {
				t.Errorf("killed: %t", killed)
			}
		})
	}
	t.Run("family", func(t *testing.T) {
		r := rear(t, "parent", nil)
		line := r.log.await(t, "sleeper")
		pid, err := strconv.Atoi(strings.TrimPrefix(fmt.Sprint(line["line"]), "sleeper "))
		if err != nil {
			t.Fatal(err)
		}
		r.end(t)
		awaitGone(t, pid)
	})
}

// awaitGone fails if a process that is nobody's child of ours lives on.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	for late := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		// It is a zombie at most, until whoever adopted it collects it.
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return
		}
		if time.Now().After(late) {
			t.Errorf("process %d lives on: %s", pid, stat)
			_ = syscall.Kill(pid, syscall.SIGKILL)
			return
		}
	}
}

// A pipeline that is killed takes its child along.
func TestNoOrphan(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a parent-death signal")
	}
	host := exec.Command(os.Args[0])
	host.Env = append(os.Environ(), childVariable+"=host")
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	var line struct{ PID int }
	err = json.NewDecoder(out).Decode(&line)
	if kill := host.Process.Kill(); err != nil || kill != nil || line.PID == 0 {
		t.Errorf("%v %v %+v", err, kill, line)
	}
	_ = host.Wait()
	awaitGone(t, line.PID)
}
