package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/rs/zerolog"
)

const (
	stopTimeout = 3 * time.Second
	maxHeader   = 32 << 10
	maxBody     = 64 << 10
)

// Server is the listener. What it serves beside pprof is added by Open, Guarded
// and Verb before Run.
type Server struct {
	cfg Config
	log zerolog.Logger
	mux *http.ServeMux

	listener net.Listener
}

// New returns a server that does not listen yet.
func New(cfg Config, log zerolog.Logger) *Server {
	s := &Server{cfg: cfg, log: log.With().Str("component", "admin").Logger(), mux: http.NewServeMux()}
	s.Open("GET /api/admin", http.HandlerFunc(s.self))
	s.guarded("GET /debug/pprof/", http.HandlerFunc(pprof.Index), true)
	s.guarded("GET /debug/pprof/cmdline", http.NotFoundHandler(), true) // a command line may hold what is nobody's business
	s.guarded("GET /debug/pprof/profile", http.HandlerFunc(pprof.Profile), true)
	s.guarded("GET /debug/pprof/symbol", http.HandlerFunc(pprof.Symbol), true)
	s.guarded("GET /debug/pprof/trace", http.HandlerFunc(pprof.Trace), true)
	return s
}

// Open serves what anybody may see who reaches the listener.
func (s *Server) Open(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// Guarded serves what only those with the token may see.
func (s *Server) Guarded(pattern string, h http.Handler) { s.guarded(pattern, h, false) }

func (s *Server) guarded(pattern string, h http.Handler, basic bool) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if f := s.admit(r, basic); f != nil {
			if basic && r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="outbox-relay: any user, the token as password"`)
			}
			Refuse(w, f)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f := s.foreign(r); f != nil {
		Refuse(w, f)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	s.mux.ServeHTTP(w, r)
}

// self says what this listener is, without the token.
func (s *Server) self(w http.ResponseWriter, _ *http.Request) {
	Answer(w, map[string]any{"admin": true, "token_set": s.cfg.Token.Set()})
}

// Listen takes the address, and returns the one it got.
func (s *Server) Listen() (net.Addr, error) {
	l, err := net.Listen("tcp", s.cfg.Addr)
	if err != nil {
		return nil, &BindError{Addr: s.cfg.Addr, Err: err}
	}
	s.listener = l
	return l.Addr(), nil
}

// Run serves until the context ends. Listen comes before it.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      time.Minute, // a replay reads the topic of letters; profiles and events set their own
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if srv.Shutdown(ctx) == nil {
			stopped <- nil
			return
		}
		stopped <- srv.Close()
	}()
	if err := srv.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		cancel()
		<-stopped
		return fmt.Errorf("serve ADMIN_ADDR: %w", err)
	}
	return <-stopped
}
