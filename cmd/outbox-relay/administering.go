package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/admin"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/live"
	"github.com/holdwall/outbox-relay/internal/page"
)

// pauser stops and continues the relay on purpose, whatever replica leads.
type pauser interface {
	Pause(ctx context.Context, by, reason string) error
	Resume(ctx context.Context, by string) error
}

// administer opens the admin listener, or returns nil if there is none to be.
// Its default port may be taken by another relay of this host: that nobody asked
// for it is told, and no reason not to relay.
func (s *service) administer(feed *live.Feed, web *health.Server) (*admin.Server, error) {
	cfg := s.cfg.Admin
	if cfg.Off() {
		return nil, nil
	}
	srv := admin.New(cfg, s.log)
	addr, err := srv.Listen()
	switch {
	case err != nil && cfg.Addr == admin.DefaultAddr:
		s.log.Warn().Err(err).Str("hint", "ADMIN_ADDR=127.0.0.1:<free port>, or ADMIN_ADDR=off").Msg("no admin listener")
		return nil, nil
	case err != nil:
		return nil, fault.Wrap(err, fault.Runtime, "serve admin").WithFix("ADMIN_ADDR=127.0.0.1:<free port>, or ADMIN_ADDR=off")
	}
	feed.About.Admin, feed.About.AdminToken = addr.String(), cfg.Token.Set()
	feed.Routes(srv.Open)
	page.AdminRoutes(srv.Open)
	srv.Open("GET /api/health", web)
	srv.Guarded("GET /api/config", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		admin.Answer(w, map[string]any{"fingerprint": s.opts.fingerprint, "settings": s.opts.entries})
	}))
	srv.Verb("/api/pause", func(ctx context.Context, r *http.Request, by string) (any, error) {
		var asked struct {
			Reason string `json:"reason"`
		}
		if f := admin.Read(r, &asked); f != nil {
			return nil, f
		}
		if s.pauser == nil {
			return nil, fault.New(fault.AdminUnavailable, "pause")
		}
		return map[string]any{"paused": true}, s.pauser.Pause(ctx, by, asked.Reason)
	})
	srv.Verb("/api/resume", func(ctx context.Context, r *http.Request, by string) (any, error) {
		if f := admin.Read(r, &struct{}{}); f != nil {
			return nil, f
		}
		if s.pauser == nil {
			return nil, fault.New(fault.AdminUnavailable, "resume")
		}
		return map[string]any{"paused": false}, s.pauser.Resume(ctx, by)
	})
	if err := s.letterRoutes(srv); err != nil {
		return nil, err
	}
	return srv, nil
}

const (
	letterTimeout = 45 * time.Second // for one request about letters
	letterMax     = 500              // letters in one answer
	replayMax     = 100              // letters in one replay, as without --yes on the command line
)

// letterRoutes serve what the commands under `dlq` do, in their words. One request
// at a time: the desk keeps what it has read of the marks.
func (s *service) letterRoutes(srv *admin.Server) error {
	var desk *letterDesk
	if s.cfg.Kafka.Enabled {
		var err error
		if desk, err = newLetterDesk(s.parts, "admin@"+instance()); err != nil {
			return err
		}
	}
	turn := make(chan struct{}, 1)
	at := func(ctx context.Context, do func(ctx context.Context) (any, error)) (any, error) {
		if desk == nil {
			return nil, fault.New(fault.AdminUnavailable, "dead letters").WithWhy("KAFKA_ENABLED is false").WithFix("ask a replica that relays")
		}
		ctx, cancel := context.WithTimeout(ctx, letterTimeout)
		defer cancel()
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
			return do(ctx)
		case <-ctx.Done():
			return nil, fault.Wrap(ctx.Err(), fault.AdminUnavailable, "dead letters").
				WithWhy("another request about them took too long").WithFix("try again")
		}
	}
	srv.Guarded("GET /api/dlq", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := at(r.Context(), func(ctx context.Context) (any, error) {
			f, most, f2 := letterQuery(r)
			if f2 != nil {
				return nil, f2
			}
			return desk.collect(ctx, f, most, r.URL.Query().Get("payload") == "true")
		})
		if err != nil {
			admin.Refuse(w, fault.As(err))
			return
		}
		admin.Answer(w, answer)
	}))
	srv.Verb("/api/dlq/replay", func(ctx context.Context, r *http.Request, by string) (any, error) {
		var asked struct {
			IDs       []string `json:"ids"`
			To        string   `json:"to"`
			FromTable bool     `json:"from_table"`
			Force     bool     `json:"force"`
			DryRun    bool     `json:"dry_run"`
		}
		if f := admin.Read(r, &asked); f != nil {
			return nil, f
		}
		if len(asked.IDs) == 0 || len(asked.IDs) > replayMax {
			return nil, fault.New(fault.AdminRequest, "%d ids", len(asked.IDs)).
				WithWhy("from 1 to %d letters are replayed in one request", replayMax).WithFix(`{"ids":["<event id>"]}; for many: outbox-relay dlq replay`)
		}
		return at(ctx, func(ctx context.Context) (any, error) {
			job := dlq.Job{Action: dlq.Replayed, To: asked.To, FromTable: asked.FromTable, MaxReplays: 3}
			if asked.Force {
				job.MaxReplays = 0
			}
			desk.replayer.By = by + "@" + instance()
			var out, notes bytes.Buffer
			err := desk.change(ctx, change{
				job: job, filter: dlq.Filter{IDs: asked.IDs, States: []dlq.State{dlq.StateOpen}},
				selection: selection{DryRun: asked.DryRun}, sure: replayMax,
			}, &out, &notes, formatJSON)
			if asked := exitStatus(0); err != nil && !errors.As(err, &asked) {
				return nil, err
			}
			return json.RawMessage(out.Bytes()), nil // also with refusals: they are in it, each with its code
		})
	})
	return nil
}

// letterQuery reads what GET /api/dlq asks for.
func letterQuery(r *http.Request) (dlq.Filter, int, *fault.Error) {
	q := r.URL.Query()
	state := q.Get("state")
	switch state {
	case "":
		state = string(dlq.StateOpen)
	case "open", "replayed", "purged", "released", "all":
	default:
		return dlq.Filter{}, 0, fault.New(fault.AdminRequest, "state=%.40q", state).WithFix("state=open, replayed, purged, released or all")
	}
	most := 100
	if text := q.Get("max"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > letterMax {
			return dlq.Filter{}, 0, fault.New(fault.AdminRequest, "max=%.40q", text).WithFix("max=1 to max=%d", letterMax)
		}
		most = n
	}
	lf := letterFilter{Reason: q["reason"], Code: q["code"], Aggregate: q["aggregate"], Since: q.Get("since"), Until: q.Get("until")}
	f, err := lf.filter(q["id"], statesOf(state)...)
	if err != nil {
		bad := fault.As(err)
		return f, 0, fault.New(fault.AdminRequest, "%s", bad.Detail).WithWhy("%s", bad.Reason()).WithFix("%s", bad.Remedy())
	}
	return f, most, nil
}

// collected is the answer of GET /api/dlq.
type collected struct {
	Topic   string       `json:"topic"`
	Letters []postedView `json:"letters"`
	More    bool         `json:"more"` // there are more than were asked for
}

// postedView is a letter as HTTP shows it. The payload is a text if it is one,
// JSON too: a browser that reads a large number of it rounds it.
type postedView struct {
	wholeView
	Payload *string `json:"payload,omitempty"`
}

func viewOfPosted(i *dlq.Item, content bool) postedView {
	v := postedView{wholeView: viewOfWhole(i, content)}
	if !content {
		return v
	}
	v.contentView.Payload = nil
	if text, ok := asText(i.Value); ok && i.Value != nil {
		v.Payload, v.contentView.PayloadBase64 = &text, nil
	} else {
		v.contentView.PayloadBase64 = i.Value
	}
	return v
}

// collect gathers letters, the newest last, with their content if asked.
func (d *letterDesk) collect(ctx context.Context, f dlq.Filter, most int, content bool) (any, error) {
	if err := d.reach(ctx, "dlq"); err != nil {
		return nil, err
	}
	got := collected{Topic: d.replayer.View.Topic, Letters: []postedView{}}
	size := 0
	err := d.replayer.View.Letters(ctx, func(i *dlq.Item) error {
		if !f.Match(i) {
			return nil
		}
		size += i.Size
		if len(got.Letters) == most || content && size > contentMax && len(got.Letters) > 0 {
			got.More = true
			return errEnough
		}
		got.Letters = append(got.Letters, viewOfPosted(i, content))
		return nil
	}, func(dlq.Spot, error) {})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return got, nil
}

// contentMax bounds an answer with payloads.
const contentMax = 8 << 20
