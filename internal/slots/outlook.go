package slots

import (
	"fmt"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/size"
)

// The verdicts about a slot.
const (
	Moves      = "moves"      // somebody reads it, and its position follows
	Waits      = "waits"      // somebody holds it, and it does not move
	Stands     = "stands"     // nobody holds it
	Unreserved = "unreserved" // its WAL may go with the next checkpoint of Postgres
	Lost       = "lost"
)

// Outlook is what follows if nothing is done; its keys are stable.
type Outlook struct {
	Verdict string `json:"verdict"`
	// Seconds until Postgres gives the slot up; nil: no such time is known.
	Seconds *float64 `json:"seconds_to_loss"`
	Text    string   `json:"text"`
	Next    string   `json:"next"` // what to type
}

// standsStill is below what an idle server writes: position and WAL differ by
// so much all the time.
const standsStill = 1 << 20

// outlook says what follows if nothing is done.
func (v *View) outlook(ours bool) Outlook {
	o := Outlook{}
	rate := v.Rate
	if v.AverageRate != nil {
		rate = max(rate, *v.AverageRate)
	}
	o.Seconds = v.untilLost(rate)
	switch {
	case v.WALStatus == Lost || v.Invalidation != "":
		reason := v.Invalidation
		if reason == "" {
			reason = "its WAL was removed"
		}
		o.Verdict, o.Seconds = Lost, new(float64)
		o.Text = fmt.Sprintf("Postgres has given it up (%s). No row that committed after %s is sent from it any more.", reason, v.ConfirmedLSN)
		o.Next = fault.SlotLost.Fix
	case v.WALStatus == Unreserved:
		o.Verdict = Unreserved
		o.Text = "it is lost with one of the next checkpoints of Postgres, unless its position moves before."
		o.Next = "ALTER SYSTEM SET max_slot_wal_keep_size = '<more>'; SELECT pg_reload_conf(); then start or repair the relay"
	case v.Active && (v.Moved || v.LagBytes < standsStill):
		o.Verdict, o.Seconds = Moves, nil
		o.Text = "nothing: its position follows the WAL."
		o.Next = "none needed"
	case v.Active:
		o.Verdict = Waits
		o.Text = "it is held and its position did not move while it was watched. " + v.growth(o.Seconds, rate)
		o.Next = "outbox-relay status says what its relay waits for"
	default:
		o.Verdict = Stands
		o.Text = "nobody reads it. " + v.growth(o.Seconds, rate)
		o.Next = "outbox-relay serve"
		if !ours {
			o.Next = fmt.Sprintf("if nobody needs it: outbox-relay slot drop %s", v.Name)
		}
	}
	return o
}

// untilLost is when the slot is lost if the server writes WAL at a rate and the
// slot stays where it is.
func (v *View) untilLost(rate float64) *float64 {
	var soonest *float64
	sooner := func(s float64) {
		if s = max(s, 0); soonest == nil || s < *soonest {
			soonest = &s
		}
	}
	if v.SafeBytes != nil && rate > 0 {
		sooner(float64(*v.SafeBytes) / rate)
	}
	if !v.Active && v.IdleSince != nil && v.IdleLimit > 0 {
		sooner(time.Until(v.IdleSince.Add(v.IdleLimit)).Seconds())
	}
	return soonest
}

func (v *View) growth(seconds *float64, rate float64) string {
	at := fmt.Sprintf("at the present rate of WAL (%s/s)", size.Of(int64(rate)))
	switch {
	case seconds != nil:
		return fmt.Sprintf("%s it is lost in about %s, and its rows have to be found from the table.", at, Span(time.Duration(*seconds*float64(time.Second))))
	case v.SafeBytes == nil && rate > 0:
		return fmt.Sprintf("No limit is set, so the disk of Postgres fills: %s by %s a day.", at, size.Of(int64(rate*86400)))
	}
	return "The server writes no WAL now."
}

// Span writes a duration for people, with the two units that matter.
func Span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
