package live

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/holdwall/outbox-relay/health"
)

const (
	interval = time.Second
	// patience is how long a client may take to read one event.
	patience = 10 * time.Second
	// defaultClients is how many may listen at once: a page that many people
	// have open must not become a load.
	defaultClients = 32
)

// Feed serves what is known. Its fields are set before Run and not changed
// after.
type Feed struct {
	About    About
	Recorder *Recorder
	State    func() health.Status
	// Slot is the newest view of the slot; nil: there is none.
	Slot func() Slot
	// Lag is the age of the oldest commit that is not in Kafka yet; nil: not known.
	Lag     func() (seconds float64, known bool)
	Clients int // most listeners at once; 0: 32

	mu      sync.Mutex
	history history
	newest  []byte // the last status that was sent
	clients map[chan []byte]struct{}
	ended   bool
}

// Run samples and sends, once a second, until ctx ends. Whoever listens is told
// then, by the end of the stream.
func (f *Feed) Run(ctx context.Context) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	defer f.end()
	for {
		f.tick()
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Now is the status of this moment.
func (f *Feed) Now() *Status { return f.status() }

func (f *Feed) tick() {
	s := f.status()
	text, err := line(s)
	if err != nil {
		return // a view that is no JSON is a bug, which the tests find
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.history.add(s.sampled)
	f.newest = text
	for c := range f.clients {
		// The newest takes the place of one that was not fetched.
		select {
		case <-c:
		default:
		}
		c <- text
	}
}

func (f *Feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	for c := range f.clients {
		delete(f.clients, c)
		close(c)
	}
}

// Routes tells where the feed is served.
func (f *Feed) Routes(handle func(pattern string, h http.Handler)) {
	handle("GET /api/status", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, f.status()) }))
	handle("GET /api/recent", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"events": f.Recorder.Recent()})
	}))
	handle("GET /api/history", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		h := f.history.columns()
		f.mu.Unlock()
		answer(w, h)
	}))
	handle("GET /api/events", http.HandlerFunc(f.stream))
}

// stream is /api/events.
func (f *Feed) stream(w http.ResponseWriter, r *http.Request) {
	c, first, ok := f.listen()
	if !ok {
		w.Header().Set("Retry-After", "5")
		respond(w, http.StatusServiceUnavailable, map[string]any{
			"status": "fail", "why": "as many clients listen as may, or the server is about to end", "fix": "read /api/status instead, or try again in 5 seconds",
		})
		return
	}
	defer f.leave(c)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no") // a proxy in between must not collect
	conn := http.NewResponseController(w)
	send := func(text []byte) bool {
		// The server's own time-out is for whole answers, and this one has no end.
		_ = conn.SetWriteDeadline(time.Now().Add(patience))
		if _, err := w.Write(text); err != nil {
			return false
		}
		return conn.Flush() == nil
	}
	if !send([]byte("retry: 2000\n\n")) || first != nil && !send(frame(first)) {
		return
	}
	for {
		select {
		case text, more := <-c:
			if !more || !send(frame(text)) {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

func frame(text []byte) []byte {
	return append(append([]byte("event: status\ndata: "), text...), "\n\n"...)
}

func (f *Feed) listen() (c chan []byte, newest []byte, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	most := f.Clients
	if most == 0 {
		most = defaultClients
	}
	if f.ended || len(f.clients) >= most {
		return nil, nil, false
	}
	if f.clients == nil {
		f.clients = map[chan []byte]struct{}{}
	}
	c = make(chan []byte, 1)
	f.clients[c] = struct{}{}
	return c, f.newest, true
}

func (f *Feed) leave(c chan []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.clients, c)
}

// line is a value as JSON, on one line.
func line(v any) ([]byte, error) {
	var b bytes.Buffer
	if err := encode(&b, v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func encode(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // fixes hold commands with < and >, which people copy
	return enc.Encode(v)
}

func answer(w http.ResponseWriter, v any) { respond(w, http.StatusOK, v) }

func respond(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = encode(w, v) // the other side may have gone
}
