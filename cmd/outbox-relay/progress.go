package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	barWidth   = 24
	redrawEach = 100 * time.Millisecond
	lineEach   = 10 * time.Second
)

// progress shows how far something is that takes a while: a line that is drawn
// over where somebody watches, else a line now and then. What is over within a
// moment says nothing.
type progress struct {
	out    io.Writer
	redraw bool
	now    func() time.Time

	step  string
	since time.Time // of the step
	drawn time.Time
	dirty bool // a line stands there that has to be wiped
}

func newProgress(out io.Writer, redraw bool) *progress {
	return &progress{out: out, redraw: redraw, now: time.Now}
}

// at tells how far a step is; a total of 0 is not known.
func (p *progress) at(step string, done, total int64) {
	now := p.now()
	if step != p.step {
		p.step, p.since, p.drawn = step, now, now
	}
	each := lineEach
	if p.redraw {
		each = redrawEach
	}
	if now.Sub(p.drawn) < each {
		return
	}
	p.drawn = now
	text := p.line(done, total, now.Sub(p.since))
	if !p.redraw {
		fmt.Fprintln(p.out, text)
		return
	}
	fmt.Fprint(p.out, "\r\x1b[K"+text)
	p.dirty = true
}

func (p *progress) line(done, total int64, took time.Duration) string {
	rate := float64(done) / max(took.Seconds(), 0.001)
	if total <= 0 {
		return fmt.Sprintf("%-8s %s, %s/s", p.step, thousands(done), thousands(int64(rate)))
	}
	done = min(done, total)
	full := int(done * barWidth / total)
	eta := "-"
	if rate > 0 {
		eta = (time.Duration(float64(total-done)/rate) * time.Second).String()
	}
	return fmt.Sprintf("%-8s [%s%s] %3d %%  %s of %s  %s/s  ETA %s", p.step,
		strings.Repeat("#", full), strings.Repeat(".", barWidth-full), done*100/total,
		thousands(done), thousands(total), thousands(int64(rate)), eta)
}

// end wipes what was drawn.
func (p *progress) end() {
	if p.dirty {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.dirty = false
	}
}

// thousands writes a number with commas.
func thousands(n int64) string {
	if n < 0 {
		return "-" + thousands(-n)
	}
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
