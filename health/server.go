package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// stopTimeout is how long answers that are under way may take after the end.
const stopTimeout = 3 * time.Second

// Server serves one State.
type Server struct {
	addr   string
	about  About
	state  *State
	checks *checks
	mux    *http.ServeMux

	mu       sync.Mutex
	listener net.Listener
}

// New returns a server that does not listen yet. byName are the further checks
// of the report; gatherer is what /metrics shows, nil for no metrics.
func New(cfg Config, about About, state *State, byName map[string]Check, gatherer prometheus.Gatherer) *Server {
	s := &Server{
		addr: cfg.Addr, about: about, state: state,
		checks: &checks{byName: byName, now: state.now},
		mux:    http.NewServeMux(),
	}
	s.mux.HandleFunc("GET /livez", s.livez)
	s.mux.HandleFunc("GET /healthz", s.livez)
	s.mux.HandleFunc("GET /readyz", s.readyz)
	s.mux.HandleFunc("GET /startupz", s.startupz)
	s.mux.HandleFunc("GET /api/health", s.health)
	if gatherer != nil {
		own := prometheus.NewRegistry()
		own.MustRegister(newCheckGauges(s))
		s.mux.Handle("GET /metrics", MetricsHandler(prometheus.Gatherers{gatherer, own}, cfg.BareNames))
	}
	return s
}

// Handle serves something more, before Run. The server's time-outs are those of
// short answers; one that has no end sets its own, and has to end with Run's
// context.
func (s *Server) Handle(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Listen takes the address, so that a taken port is known before anything else
// is begun, and returns the one it got. Run does it if nobody has.
func (s *Server) Listen() (net.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		l, err := net.Listen("tcp", s.addr)
		if err != nil {
			return nil, &BindError{Addr: s.addr, Err: err}
		}
		s.listener = l
	}
	return s.listener.Addr(), nil
}

// Run serves until the context ends, then lets answers that are under way
// finish. It returns nil if it was told to stop.
func (s *Server) Run(ctx context.Context) error {
	if _, err := s.Listen(); err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
	}
	// Serve ends at once when Shutdown begins, so the goroutine is what knows
	// whether the last answers got out.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		stopped <- stop(srv)
	}()
	if err := srv.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		cancel()
		<-stopped
		return fmt.Errorf("serve HEALTH_ADDR: %w", err)
	}
	return <-stopped
}

func stop(srv *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if srv.Shutdown(ctx) == nil {
		return nil
	}
	return srv.Close() // who still reads after that is cut off
}

func (s *Server) livez(w http.ResponseWriter, _ *http.Request) {
	body := map[string]any{"status": Pass, "since_beat_seconds": s.state.sinceBeat().Seconds()}
	status := http.StatusOK
	if !s.state.Alive() {
		body["status"], status = Fail, http.StatusServiceUnavailable
		body["why"] = "the relay's loop has not turned for 30 seconds"
		body["fix"] = "restart the process; send it SIGQUIT first and keep the stacks it prints"
	}
	writeJSON(w, status, "application/json", body)
}

func (s *Server) startupz(w http.ResponseWriter, _ *http.Request) {
	if !s.state.Up() {
		writeJSON(w, http.StatusServiceUnavailable, "application/json", map[string]any{"status": Fail, "state": s.state.Get().State})
		return
	}
	writeJSON(w, http.StatusOK, "application/json", map[string]any{"status": Pass})
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	st := s.state.Get()
	body := struct {
		Status    string `json:"status"`
		State     string `json:"state"`
		Role      string `json:"role,omitempty"`
		Since     string `json:"since"`
		Guarantee string `json:"guarantee,omitempty"`
		Breaker   string `json:"breaker,omitempty"`
		trouble
		Checks map[string]map[string]any `json:"checks,omitempty"`
	}{Status: Pass, State: st.State, Role: st.Role, Since: stamp(st.Since), Guarantee: st.Guarantee, Breaker: st.Breaker, trouble: st.trouble()}
	status := http.StatusOK
	if !st.Ready || st.Halted {
		body.Status, status = Fail, http.StatusServiceUnavailable
	}
	if r.URL.Query().Has("verbose") {
		body.Checks = s.report(r).Checks
	}
	writeJSON(w, status, "application/json", body)
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	rep := s.report(r)
	status := http.StatusOK
	// A page that asks each few seconds would have its browser complain each time.
	if rep.Status == Fail && r.URL.Query().Get("always") != "200" {
		status = http.StatusServiceUnavailable
	}
	if wantsDraft(r) {
		writeJSON(w, status, "application/health+json", rep.draft())
		return
	}
	writeJSON(w, status, "application/json", rep)
}
