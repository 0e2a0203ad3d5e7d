package demo

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	screenWidth = 80
	notesShown  = 8
)

// screen redraws the whole picture in place. It draws on the terminal's second
// page, so that the first one is as it was when the demo ends.
type screen struct {
	out     io.Writer
	size    func() (width, height int)
	colour  bool
	version string
	began   time.Time

	mu    sync.Mutex
	steps []string
	notes []string
}

// newScreen returns nil if the output is no terminal that can be redrawn.
func newScreen(stdout io.Writer, environ func(string) string, version string, began time.Time) *screen {
	f, ok := stdout.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || environ("TERM") == "dumb" || environ("TERM") == "" {
		return nil
	}
	s := &screen{
		out: stdout, version: version, began: began, colour: environ("NO_COLOR") == "",
		size: func() (int, int) {
			w, h, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return screenWidth, 24
			}
			return w, h
		},
	}
	io.WriteString(s.out, "\x1b[?1049h\x1b[?25l") // second page, no cursor
	return s
}

func (s *screen) close() { io.WriteString(s.out, "\x1b[?25h\x1b[?1049l") }

func (s *screen) step(name, about string, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, fmt.Sprintf(" \x01✓\x02 %-9s %-*s %7s", name, screenWidth-23, about, seconds(took)))
}

func (s *screen) say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stamp := fmt.Sprintf(" [%5.1f s] ", time.Since(s.began).Seconds())
	for i, line := range wrap(text, screenWidth-len(stamp)) {
		if i > 0 {
			stamp = strings.Repeat(" ", len(stamp))
		}
		s.notes = append(s.notes, stamp+line)
	}
	s.notes = s.notes[max(0, len(s.notes)-notesShown):]
}

func (s *screen) show(v view) {
	s.mu.Lock()
	picture := s.draw(v)
	s.mu.Unlock()
	width, height := s.size()
	var b bytes.Buffer
	b.WriteString("\x1b[H")
	for i, line := range picture {
		if i == height {
			break
		}
		// Carriage returns, because reading single keys puts the terminal into
		// raw mode.
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(s.paint(cut(line, min(width, screenWidth))))
		b.WriteString("\x1b[K")
	}
	b.WriteString("\x1b[J")
	_, _ = s.out.Write(b.Bytes()) // a terminal that went away ends the demo by signal
}

// draw returns the picture. \x01 and \x02 stand for the begin and the end of
// emphasis.
func (s *screen) draw(v view) []string {
	phase := v.Phase
	if phase == "" {
		phase = fmt.Sprintf("%d of %d s", int(v.Elapsed.Seconds()), int(v.Total.Seconds()))
	}
	p := []string{fmt.Sprintf(" \x01outbox-relay demo\x02  %-40s %18s", s.version, phase), ""}
	p = append(p, s.steps...)
	if v.First > 0 {
		p = append(p, fmt.Sprintf(" first event in Kafka \x01%s\x02 after process start%s", seconds(v.First), v.Label))
	}
	p = append(p, "",
		" generator ──▶ outbox.events ──▶ WAL ──▶ relay ──▶ Kafka ──▶ consumer",
		fmt.Sprintf(" committed \x01%s\x02   rolled back %s   published \x01%s\x02   dead letters %s",
			grouped(v.Committed), grouped(v.RolledBack), grouped(v.Published), grouped(v.Letters)),
		fmt.Sprintf(" waiting %-7s p50 %-9s p99 %-9s kills %-3d checkpoint %s",
			grouped(v.Waiting), micros(v.Steady.P50), micros(v.Steady.P99), v.Kills, v.Checkpoint),
		fmt.Sprintf(" so far  \x01%d duplicated, %d reordered\x02, %d from rolled back transactions",
			v.Duplicated, v.Reordered, v.Phantom), "")
	p = append(p, s.notes...)
	return append(p, "", v.Hint, " q quit   k kill the relay")
}

func (s *screen) paint(line string) string {
	if !s.colour {
		return strings.NewReplacer("\x01", "", "\x02", "").Replace(line)
	}
	return strings.NewReplacer("\x01", "\x1b[1;32m", "\x02", "\x1b[0m").Replace(line)
}

// cut shortens a line to a number of columns, not counting the marks.
func cut(line string, width int) string {
	columns := 0
	for i, r := range line {
		if r == '\x01' || r == '\x02' {
			continue
		}
		if columns++; columns > width {
			return line[:i] + "\x02"
		}
	}
	return line
}

func wrap(text string, width int) []string {
	var out []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			out = append(out, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(out, line)
}
