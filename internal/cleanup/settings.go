package cleanup

import (
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Settings are what cleanup is told by the configuration.
type Settings struct {
	Retention time.Duration `name:"outbox-retention" default:"168h" help:"How long rows stay in the table after they are in Kafka, for cleanup."`
	Interval  time.Duration `name:"outbox-partition-interval" default:"24h" help:"What one partition of a partitioned table holds: a part or a multiple of a day."`
	Ahead     int           `name:"outbox-partitions-ahead" default:"7" help:"How many partitions are made before they are needed."`
}

const (
	day         = 24 * time.Hour
	longest     = 10 * 365 * day
	mostPartsAt = 1000
)

// Validate returns every problem of the settings.
func (s Settings) Validate() []*fault.Error {
	var bad []*fault.Error
	add := func(name string, value any, why, fix string) {
		bad = append(bad, fault.New(fault.ConfigInvalid, "%s is %v", name, value).WithWhy("%s", why).WithFix("%s=%s", name, fix))
	}
	if s.Retention < 0 || s.Retention > longest {
		add("OUTBOX_RETENTION", s.Retention, "it is from 0 to ten years", "168h")
	}
	if s.Interval < time.Hour || s.Interval > 366*day || s.Interval%day != 0 && day%s.Interval != 0 {
		add("OUTBOX_PARTITION_INTERVAL", s.Interval, "it is at least an hour, and a whole part or a multiple of a day", "24h")
	}
	if s.Ahead < 1 || s.Ahead > mostPartsAt {
		add("OUTBOX_PARTITIONS_AHEAD", s.Ahead, "it is from 1 to 1000", "7")
	}
	return bad
}
