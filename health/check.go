package health

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// The words of a result, from good to bad. Disabled counts as good.
const (
	Pass     = "pass"
	Warn     = "warn"
	Fail     = "fail"
	Disabled = "disabled"
)

const (
	checkTimeout = 2 * time.Second
	reportMaxAge = time.Second
)

// Result is the answer of a check. Facts are shown as they are: no secrets.
type Result struct {
	Status string
	Code   string
	Hint   string
	Facts  map[string]any
}

// Check asks one thing. It returns when its context ends.
type Check func(ctx context.Context) Result

// checks runs a set of checks, all at once, and keeps the results for a moment:
// a probe storm must not become a storm on Postgres.
type checks struct {
	byName map[string]Check
	now    func() time.Time

	mu    sync.Mutex // held while checks run: those who ask meanwhile share the answer
	taken time.Time
	last  map[string]Result
}

func (c *checks) results(ctx context.Context) map[string]Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && c.now().Sub(c.taken) < reportMaxAge {
		return c.last
	}
	// The answer is shared, so the first asker's going away must not spoil it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
	defer cancel()
	names := slices.Sorted(maps.Keys(c.byName))
	out := make([]chan Result, len(names))
	for i, name := range names {
		out[i] = make(chan Result, 1)
		check := c.byName[name] // a check that hangs is not to read the map after the answer
		go func() { out[i] <- c.run(ctx, check) }()
	}
	last := make(map[string]Result, len(names))
	for i, name := range names {
		select {
		case r := <-out[i]:
			last[name] = r
		case <-ctx.Done():
			last[name] = Result{Status: Warn, Hint: fmt.Sprintf("no answer within %s", checkTimeout)}
		}
	}
	c.last, c.taken = last, c.now()
	return last
}

func (c *checks) run(ctx context.Context, check Check) (r Result) {
	start := c.now()
	defer func() {
		// A check that panics is a finding, not the end of the relay.
		// Its value is not shown: nobody knows what it holds.
		if recover() != nil {
			r = Result{Status: Fail, Hint: "the check panicked, which is a bug"}
		}
		if r.Status == "" {
			r.Status = Pass
		}
		if r.Status != Disabled {
			facts := maps.Clone(r.Facts)
			if facts == nil {
				facts = make(map[string]any, 1)
			}
			if _, set := facts["latency_seconds"]; !set {
				facts["latency_seconds"] = c.now().Sub(start).Seconds()
			}
			r.Facts = facts
		}
	}()
	return check(ctx)
}

// worse returns the worse of two words.
func worse(a, b string) string {
	rank := func(s string) int { return slices.Index([]string{Disabled, Pass, Warn, Fail}, s) }
	if rank(b) > rank(a) {
		return b
	}
	return a
}
