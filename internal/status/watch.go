package status

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Sources ask. Each returns soon, whatever happens.
type Sources struct {
	Process  func(context.Context) (*Process, error)
	Postgres func(context.Context) (*Postgres, error)
	Kafka    func(context.Context) (*Kafka, error) // nil: none is configured
}

// Look is how a relay is looked at.
type Look struct {
	Relay, Slot string
	Sources     Sources
	// Every is the time between two questions to Postgres and to the relay.
	Every time.Duration
	// KafkaEvery is that of Kafka, where a question costs a connection.
	KafkaEvery time.Duration

	mu   sync.Mutex
	now  Picture
	rows struct {
		total uint64
		at    time.Time
	}
}

// Once asks everybody side by side, and waits for all.
func (l *Look) Once(ctx context.Context) Picture {
	var wg sync.WaitGroup
	for _, ask := range l.questions() {
		wg.Go(func() { ask(ctx) })
	}
	wg.Wait()
	return l.picture()
}

func (l *Look) questions() []func(context.Context) {
	all := []func(context.Context){
		func(ctx context.Context) {
			put(ctx, l, l.Sources.Process, func(p *Picture) *Answer[Process] { return &p.Process })
		},
		func(ctx context.Context) {
			put(ctx, l, l.Sources.Postgres, func(p *Picture) *Answer[Postgres] { return &p.Postgres })
		},
	}
	if l.Sources.Kafka != nil {
		all = append(all, func(ctx context.Context) {
			put(ctx, l, l.Sources.Kafka, func(p *Picture) *Answer[Kafka] { return &p.Kafka })
			l.count()
		})
	}
	return all
}

// put asks and keeps what came.
func put[T any](ctx context.Context, l *Look, ask func(context.Context) (*T, error), where func(*Picture) *Answer[T]) {
	v, err := ask(ctx)
	a := Answer[T]{Value: v, Asked: true}
	if err != nil {
		a = Answer[T]{Error: troubleOf(err), Asked: true}
	}
	l.mu.Lock()
	*where(&l.now) = a
	l.mu.Unlock()
}

// count makes a rate of two checkpoints.
func (l *Look) count() {
	l.mu.Lock()
	defer l.mu.Unlock()
	kf := l.now.Kafka.Value
	if kf == nil || kf.Checkpoint == nil {
		l.rows.at, l.now.RowsPerSecond = time.Time{}, nil
		return
	}
	now := time.Now()
	if total := kf.Checkpoint.Rows; !l.rows.at.IsZero() && total >= l.rows.total {
		rate := float64(total-l.rows.total) / now.Sub(l.rows.at).Seconds()
		l.now.RowsPerSecond = &rate
	}
	l.rows.total, l.rows.at = kf.Checkpoint.Rows, now
}

func (l *Look) picture() Picture {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.now
	p.Time, p.Relay, p.Slot = time.Now(), l.Relay, l.Slot
	p.Judge()
	return p
}

// Watch asks again and again, and hands a picture to show once a second, the
// first when everybody has answered once or a second has passed. It returns
// when ctx ends or show does not want to go on.
func (l *Look) Watch(ctx context.Context, show func(Picture) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var first sync.WaitGroup
	for i, ask := range l.questions() {
		every := l.Every
		if i == 2 {
			every = l.KafkaEvery
		}
		first.Add(1)
		g.Go(fault.Guard(func() error {
			func() {
				defer first.Done()
				ask(ctx)
			}()
			for pause(ctx, every) {
				ask(ctx)
			}
			return nil
		}))
	}
	all := make(chan struct{})
	g.Go(func() error { first.Wait(); close(all); return nil })
	g.Go(fault.Guard(func() error {
		select {
		case <-all:
		case <-time.After(l.Every):
		case <-ctx.Done():
		}
		for ctx.Err() == nil {
			if err := show(l.picture()); err != nil {
				return err
			}
			pause(ctx, l.Every)
		}
		return nil
	}))
	if err := g.Wait(); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Screen redraws the picture in place, on the terminal's second page, so that
// the first is as it was when the watch ends.
type Screen struct {
	Out    io.Writer
	Colour bool
	Size   func() (width, height int)
}

// Open and Close frame the pictures.
func (s *Screen) Open() { _, _ = io.WriteString(s.Out, "\x1b[?1049h\x1b[?25l") }

// Close gives the terminal back.
func (s *Screen) Close() { _, _ = io.WriteString(s.Out, "\x1b[?25h\x1b[?1049l") }

// Show draws one picture. Carriage returns, because reading single keys puts a
// terminal into raw mode.
func (s *Screen) Show(p Picture) error {
	_, height := s.Size()
	var b bytes.Buffer
	b.WriteString("\x1b[H")
	lines := append(p.Lines(), "", " q quits")
	for i, line := range lines[:min(len(lines), max(height, 1))] {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(Paint(line, s.Colour))
		b.WriteString("\x1b[K")
	}
	b.WriteString("\x1b[J")
	_, err := s.Out.Write(b.Bytes())
	return err
}

// Paint replaces the marks of emphasis.
func Paint(line string, colour bool) string {
	if !colour {
		return strings.NewReplacer("\x01", "", "\x02", "").Replace(line)
	}
	return strings.NewReplacer("\x01", "\x1b[1m", "\x02", "\x1b[0m").Replace(line)
}

// Line is a picture in one line, for pipes.
func (p *Picture) Line() string {
	code := "-"
	if len(p.Findings) > 0 {
		code = p.Findings[0].Code
	}
	state, retained := "not answering", "-"
	if proc := p.Process.Value; proc != nil {
		state = proc.State
	}
	if pg := p.Postgres.Value; pg != nil && pg.Slot != nil {
		retained = fmt.Sprint(pg.Slot.RetainedBytes)
	}
	at := "-"
	if kf := p.Kafka.Value; kf != nil && kf.Checkpoint != nil {
		at = kf.Checkpoint.Position
	}
	return fmt.Sprintf("%s relay=%s state=%q checkpoint=%s retained_bytes=%s lag=%q rows=%q code=%s",
		p.Time.UTC().Format(time.RFC3339), p.Relay, state, at, retained, p.lag(), p.rows(), code)
}
