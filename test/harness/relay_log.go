package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
)

// logBook keeps the lines that a child writes, and wakes who waits for one.
type logBook struct {
	mu      sync.Mutex
	raw     []byte           // all output, as it came
	lines   []map[string]any // the JSON lines among it
	changed chan struct{}    // closed and replaced with each new line
	ended   bool
}

func newLogBook() *logBook { return &logBook{changed: make(chan struct{})} }

// stream is one of the outputs of the child. Each keeps its own unfinished
// line, so that two streams do not mix within one.
type stream struct {
	book *logBook
	part []byte
	all  []byte
}

// Write is called by one goroutine per stream.
func (s *stream) Write(p []byte) (int, error) {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	s.all = append(s.all, p...)
	s.part = append(s.part, p...)
	for {
		line, rest, ok := bytes.Cut(s.part, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		s.part = rest
		s.book.add(line)
	}
}

func (b *logBook) add(line []byte) {
	b.raw = append(append(b.raw, line...), '\n')
	var fields map[string]any
	if json.Unmarshal(line, &fields) == nil {
		b.lines = append(b.lines, fields)
		b.wake()
	}
}

// wake is called with mu held.
func (b *logBook) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// end tells those who wait that nothing more will come. What is left of a
// line without an end counts as one: a crash leaves such.
func (b *logBook) end(streams ...*stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range streams {
		if len(s.part) > 0 {
			b.add(s.part)
			s.part = nil
		}
	}
	b.ended = true
	b.wake()
}

var errNoSuchLine = errors.New("the process has ended and no line matched")

// wait returns the first line from position from on that matches.
func (b *logBook) wait(ctx context.Context, from int, match func(map[string]any) bool) (map[string]any, error) {
	for {
		b.mu.Lock()
		lines, ended, changed := b.lines, b.ended, b.changed
		b.mu.Unlock()
		for ; from < len(lines); from++ {
			if match(lines[from]) {
				return lines[from], nil
			}
		}
		if ended {
			return nil, errNoSuchLine
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a log line: %w", context.Cause(ctx))
		}
	}
}

func (b *logBook) tail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(tail(b.raw, n))
}

func (s *stream) text() string {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	return string(s.all)
}
