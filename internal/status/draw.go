package status

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/internal/size"
	"github.com/holdwall/outbox-relay/internal/slots"
)

// Width is that of the screen, in columns.
const Width = 80

const (
	label     = 10
	barWidth  = 24
	mostFinds = 3
	mostLines = 3 // of one text; -o json has all of it
)

// Lines returns the picture. \x01 and \x02 stand for the begin and the end of
// emphasis. No line is wider than Width.
func (p *Picture) Lines() []string {
	head := fmt.Sprintf(" \x01outbox-relay status\x02   relay %s", p.Relay)
	stamp := p.Time.UTC().Format("2006-01-02 15:04:05Z")
	d := &drawing{}
	d.lines = append(d.lines, head+strings.Repeat(" ", max(1, Width-columns(head)-len(stamp)))+stamp, "")
	d.row("relay", p.state())
	d.row("Postgres", p.postgres())
	d.row("Kafka", p.kafka())
	d.lines = append(d.lines, "")
	d.row("lag", p.lag())
	d.row("rows", p.rows())
	p.slot(d)
	d.lines = append(d.lines, "")
	if len(p.Findings) == 0 {
		d.row("findings", "none")
	}
	for i, f := range p.Findings {
		if i == mostFinds {
			d.row("", fmt.Sprintf("and %d more: -o json", len(p.Findings)-i))
			break
		}
		d.row(map[bool]string{true: "findings"}[i == 0], fmt.Sprintf("\x01%s\x02 %s", f.Code, f.Detail))
		d.row("", "why: "+f.Why)
	}
	d.row("next", "\x01"+p.Next+"\x02")
	return d.lines
}

// drawing collects lines of a label and a text that may go on below it.
type drawing struct{ lines []string }

func (d *drawing) row(name, text string) {
	for i, line := range wrap(text, Width-label-2) {
		if i > 0 {
			name = ""
		}
		if i == mostLines {
			d.lines[len(d.lines)-1] += "\x02"
			return
		}
		d.lines = append(d.lines, fmt.Sprintf(" %-*s %s", label, name, line))
	}
}

func (p *Picture) postgres() string {
	switch pg := p.Postgres.Value; {
	case pg != nil:
		return fmt.Sprintf("%s, version %s, timeline %d, WAL at %s", pg.Server, pg.Version, pg.Identity.Timeline, pg.Position.CurrentLSN)
	case p.Postgres.Error != nil:
		return "does not answer: " + p.Postgres.Error.Code
	}
	return "..."
}

func (p *Picture) kafka() string {
	breaker := ""
	if proc := p.Process.Value; proc != nil && proc.Breaker != "" {
		breaker = "; breaker " + proc.Breaker
	}
	if proc := p.Process.Value; proc != nil && proc.Guarantee != "" {
		breaker += "; guarantee " + proc.Guarantee
	}
	switch kf := p.Kafka.Value; {
	case kf != nil && kf.Checkpoint == nil:
		return "no checkpoint" + breaker
	case kf != nil:
		c := kf.Checkpoint
		return fmt.Sprintf("checkpoint %s at %s, %s ago%s", thousands(c.Seq), c.Position, slots.Span(max(0, p.Time.Sub(c.Time))), breaker)
	case p.Kafka.Error != nil:
		return "does not answer: " + p.Kafka.Error.Code + breaker
	}
	return "..." + breaker
}

func (p *Picture) lag() string {
	var parts []string
	if pg := p.Postgres.Value; pg != nil && pg.Slot != nil {
		parts = append(parts, size.Of(pg.Slot.LagBytes)+" of WAL not confirmed")
	}
	if proc := p.Process.Value; proc != nil && proc.Lag.Seconds != nil {
		parts = append(parts, slots.Span(seconds(*proc.Lag.Seconds)))
	}
	return orUnknown(parts)
}

func (p *Picture) rows() string {
	var parts []string
	switch {
	case p.Kafka.Value != nil && p.Kafka.Value.Checkpoint != nil:
		c := p.Kafka.Value.Checkpoint
		parts = append(parts, fmt.Sprintf("%s in Kafka, dead letters %s", thousands(c.Rows), thousands(c.DeadLetters)))
		if c.ParkedKeys > 0 {
			parts = append(parts, fmt.Sprintf("%d keys parked", c.ParkedKeys))
		}
	case p.Process.Value != nil:
		t := p.Process.Value.Totals
		parts = append(parts, fmt.Sprintf("%s in Kafka, dead letters %s", thousands(t.Rows), thousands(t.DeadLetters)))
	}
	switch {
	case p.Process.Value != nil:
		parts = append(parts, fmt.Sprintf("%.0f rows/s", p.Process.Value.Rates.Rows))
	case p.RowsPerSecond != nil:
		parts = append(parts, fmt.Sprintf("%.0f rows/s", *p.RowsPerSecond))
	}
	return orUnknown(parts)
}

func (p *Picture) slot(d *drawing) {
	pg := p.Postgres.Value
	switch {
	case pg == nil:
		d.row("slot", p.Slot+": not known")
		return
	case pg.Slot == nil:
		d.row("slot", p.Slot+": does not exist")
		return
	}
	v := pg.Slot
	holder := "nobody"
	if v.Holder != "" {
		holder = v.Holder
	}
	d.row("slot", fmt.Sprintf("%s, held by %s, %s", v.Name, holder, v.WALStatus))
	kept := size.Of(v.RetainedBytes)
	if v.LimitBytes != nil && *v.LimitBytes > 0 {
		full := int(min(v.RetainedBytes, *v.LimitBytes) * barWidth / *v.LimitBytes)
		kept = fmt.Sprintf("[%s%s] %s of %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), kept, size.Of(*v.LimitBytes))
	} else {
		kept += ", without a limit"
	}
	d.row("retained", kept)
	wal := size.Of(int64(v.Rate)) + "/s"
	if v.Outlook.Seconds != nil {
		wal += ", lost in " + slots.Span(seconds(*v.Outlook.Seconds)) + " if the slot stays where it is"
	}
	d.row("WAL", wal)
}

func orUnknown(parts []string) string {
	if len(parts) == 0 {
		return "not known"
	}
	return strings.Join(parts, ", ")
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// thousands writes 12345 as 12,345.
func thousands(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// columns counts what is seen of a line.
func columns(s string) int {
	n := 0
	for _, r := range s {
		if r != '\x01' && r != '\x02' {
			n++
		}
	}
	return n
}

// wrap breaks a text at blanks, and a word that is too long where it must.
// What comes from outside may hold controls, which a terminal would obey.
func wrap(text string, width int) []string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\x01' && r != '\x02' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	var out []string
	line := ""
	for _, word := range strings.Fields(text) {
		for columns(word) > width {
			if line != "" {
				out, line = append(out, line), ""
			}
			cut := []rune(word)
			out, word = append(out, string(cut[:width])), string(cut[width:])
		}
		if line != "" && columns(line)+1+columns(word) > width {
			out, line = append(out, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(out, line)
}
