package pipeline

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// lastWords is how long the pipes of a process that has ended are read on, and
// how long a process that has closed its pipes is given to end by itself.
const lastWords = time.Second

// turn is one event on its way through a child.
type turn struct {
	seq  uint64
	id   string
	line []byte
	done chan outcome // takes one

	// Guarded by life.mu.
	taken bool      // writing has begun: the child may have seen it
	start int64     // of its line among all that was written
	since time.Time // of taken
	limit time.Duration
}

// outcome is an answer, or why there will be none.
type outcome struct {
	reply reply
	why   *fault.Error // nil: there is an answer
	among int          // of how many events it could be the fault; 0: not of this one
}

// life is one process from its start to its end.
type life struct {
	child  *Child
	proc   *process
	stdin  *os.File
	stdout *os.File
	stderr *os.File
	queue  chan *turn
	dead   chan struct{} // closed when it takes no more events
	served atomic.Bool

	trouble chan *fault.Error // the first is what it is killed for

	mu      sync.Mutex
	seq     uint64
	written int64 // bytes
	open    orders
	latest  time.Time    // of the last answer
	why     *fault.Error // set with dead
}

// start starts the process, and nothing else; run does the rest.
func (c *Child) start() (*life, error) {
	var ours, theirs []*os.File
	closeAll := func(files []*os.File) {
		for _, f := range files {
			f.Close()
		}
	}
	for i := range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(append(ours, theirs...))
			return nil, err
		}
		if i == 0 {
			r, w = w, r // its input: we write
		}
		ours, theirs = append(ours, r), append(theirs, w)
	}
	cmd := &exec.Cmd{
		Path: c.path, Args: c.cfg.Command, Env: c.cfg.Environ,
		Stdin: theirs[0], Stdout: theirs[1], Stderr: theirs[2],
	}
	proc, err := spawn(cmd)
	closeAll(theirs)
	if err != nil {
		closeAll(ours)
		return nil, err
	}
	c.cfg.Metrics.started()
	c.cfg.Log.Info().Str("component", "child").Int("pid", proc.pid()).Msg("child started")
	return &life{
		child: c, proc: proc, stdin: ours[0], stdout: ours[1], stderr: ours[2],
		queue: make(chan *turn), dead: make(chan struct{}), trouble: make(chan *fault.Error, 3), open: newOrders(),
	}, nil
}

// run lives with the process until it has gone. It returns nil if ctx ended
// first and the process was stopped for it, and otherwise why it is gone.
func (l *life) run(ctx context.Context) *fault.Error {
	var talk sync.WaitGroup
	talk.Go(l.write)
	talk.Go(l.read)
	talk.Go(func() {
		logLines(l.stderr, l.child.cfg.Log.With().Str("component", "child").Int("pid", l.proc.pid()).Logger())
	})
	talk.Go(l.watch)

	var why *fault.Error
	asked := false
	select {
	case <-ctx.Done():
		asked = true
		l.stop()
	case why = <-l.trouble:
		// A process that ends closes its pipes a moment before it is gone.
		if errors.Is(why, errPipeClosed) && l.proc.await(lastWords) {
			why = nil
		}
		l.proc.signal(syscall.SIGKILL)
	case <-l.proc.gone:
	}
	<-l.proc.gone
	// What it had written before it died still counts. A descendant that has
	// left the group may hold the pipes open for ever.
	ignored := unread(l.stdin)
	late := time.Now().Add(lastWords)
	_ = l.stdout.SetReadDeadline(late)
	_ = l.stderr.SetReadDeadline(late)
	_ = l.stdin.Close()
	why = l.bury(why, ignored, &talk)
	_, _ = l.stdout.Close(), l.stderr.Close()
	if asked {
		return nil
	}
	return why
}

// bury ends the conversation, tells those who wait, and returns what it was
// that ended it. A nil why is death without a known cause. The last bytes that
// were written, ignored of them, have not been read: it did not die of those.
func (l *life) bury(why *fault.Error, ignored int64, talk *sync.WaitGroup) *fault.Error {
	died := fault.New(fault.ChildDied, "the child %s", l.proc.end())
	l.mu.Lock()
	l.why = died // nothing more is handed over
	close(l.dead)
	l.mu.Unlock()
	talk.Wait() // answers that were under way have been given
	for why == nil && len(l.trouble) > 0 {
		// Rubbish may have been its last words.
		if last := <-l.trouble; !errors.Is(last, errPipeClosed) {
			why = last
		}
	}
	if why == nil {
		why = died
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	among := 0
	for _, t := range l.open.bySeq {
		if t.taken = t.taken && t.start < l.written-ignored; t.taken {
			among++
		}
	}
	for _, t := range l.open.bySeq {
		out := outcome{why: why}
		if t.taken {
			out.among = among
		}
		t.done <- out
	}
	l.open = newOrders()
	return why
}

// stop asks the process to end, in three steps.
func (l *life) stop() {
	_ = l.stdin.Close()
	if l.proc.await(l.child.cfg.Grace) {
		return
	}
	l.proc.signal(syscall.SIGTERM)
	if l.proc.await(l.child.cfg.Grace) {
		return
	}
	l.child.cfg.Log.Warn().Str("component", "child").Int("pid", l.proc.pid()).Msg("child killed: it did not end when asked to")
	l.proc.signal(syscall.SIGKILL)
}

// useful tells whether it has ever answered.
func (l *life) useful() bool { return l.served.Load() }

// ask hands over one event and waits.
func (l *life) ask(ctx context.Context, ev consumer.Event) (outcome, error) {
	l.mu.Lock()
	if l.why != nil {
		defer l.mu.Unlock()
		return outcome{why: l.why}, nil
	}
	l.seq++
	t := &turn{seq: l.seq, id: string([]rune(ev.Identity())), done: make(chan outcome, 1)} // as JSON will spell it
	l.open.add(t)
	l.mu.Unlock()

	var err error
	if t.line, err = encodeLine(t.seq, ev, l.child.cfg.RawPayload); err != nil {
		l.forget(t)
		return outcome{}, consumer.Permanent(fault.Wrap(err, fault.RowDecode, "write the event as JSON"))
	}
	select {
	case l.queue <- t:
	case out := <-t.done:
		return out, nil
	case <-ctx.Done():
		l.forget(t)
		return outcome{}, context.Cause(ctx)
	}
	select {
	case out := <-t.done:
		return out, nil
	case <-ctx.Done():
		// It stays open: the child may answer it yet, and that is no mistake.
		return outcome{}, context.Cause(ctx)
	}
}

func (l *life) forget(t *turn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open.remove(t)
}

var errPipeClosed = errors.New("the pipe is closed")

// write is the one writer of the child's input.
func (l *life) write() {
	for {
		select {
		case <-l.dead:
			return
		case t := <-l.queue:
			l.mu.Lock()
			t.taken, t.since, t.start = true, time.Now(), l.written
			// A child that takes one event after the other needs this long for
			// all that it has before this one.
			t.limit = time.Duration(len(l.open.bySeq)) * l.child.cfg.Timeout
			l.mu.Unlock()
			n, err := l.stdin.Write(t.line)
			l.mu.Lock()
			l.written += int64(n)
			l.mu.Unlock()
			if err != nil {
				l.complain(fault.Wrap(errPipeClosed, fault.ChildProtocol, "the child reads no more events"))
				return
			}
			t.line = nil
		}
	}
}

// read is the one reader of the child's answers.
func (l *life) read() {
	in := bufio.NewReaderSize(l.stdout, maxReply)
	for {
		text, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			l.complain(fault.New(fault.ChildProtocol, "the child wrote a line of more than %d bytes", maxReply))
			l.swallow()
			return
		case err != nil:
			// The end, or the deadline after it. A line that was cut is no answer.
			l.complain(fault.Wrap(errPipeClosed, fault.ChildProtocol, "the child writes no more answers"))
			return
		}
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		if err := l.answer(text); err != nil {
			l.complain(fault.New(fault.ChildProtocol, "the child wrote %s", err))
			l.swallow()
			return
		}
	}
}

// swallow reads the rest, so that a process that is being killed does not hang
// in a write meanwhile.
func (l *life) swallow() { _, _ = io.Copy(io.Discard, l.stdout) }

func (l *life) answer(text []byte) error {
	r, err := parseReply(text)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t, err := l.open.take(r)
	if err != nil {
		return err
	}
	l.latest = time.Now()
	l.served.Store(true)
	t.done <- outcome{reply: r}
	return nil
}

// complain asks run to end the process. The first complaint counts.
func (l *life) complain(why *fault.Error) {
	select {
	case l.trouble <- why:
	default:
	}
}

// watch looks for silence.
func (l *life) watch() {
	tick := time.NewTicker(max(l.child.cfg.Timeout/20, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-l.dead:
			return
		case now := <-tick.C:
			if why := l.silent(now); why != nil {
				l.complain(why)
				return
			}
		}
	}
}

// silent says what the child owes. It owes a sign of life within the time-out
// while anything is outstanding, and each answer within what it would take to
// handle the events before it one after the other.
func (l *life) silent(now time.Time) *fault.Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := now
	var owed *turn
	for _, t := range l.open.bySeq {
		if !t.taken {
			continue
		}
		if t.since.Before(oldest) {
			oldest = t.since
		}
		if now.Sub(t.since) > t.limit {
			owed = t
		}
	}
	if l.latest.After(oldest) {
		oldest = l.latest
	}
	switch {
	case now.Sub(oldest) > l.child.cfg.Timeout:
		return fault.New(fault.ChildSilent, "the child answered nothing for %s", l.child.cfg.Timeout)
	case owed != nil:
		return fault.New(fault.ChildSilent, "the child left event %d of its life unanswered for %s", owed.seq, owed.limit)
	}
	return nil
}
