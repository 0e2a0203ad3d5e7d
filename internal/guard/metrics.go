package guard

import (
	"github.com/prometheus/client_golang/prometheus"
)

// statuses are the words of wal_status, so that each has a series.
var statuses = []string{"reserved", "extended", "unreserved", "lost"}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	upDesc       = desc("outbox_postgres_up", "1 if the guard's last look at Postgres succeeded. Without it the metrics of the slot are absent.")
	retainedDesc = desc("outbox_slot_retained_bytes", "WAL that the server keeps because of the slot.", "slot")
	lagDesc      = desc("outbox_slot_lag_bytes", "WAL written and not yet confirmed by the relay.", "slot")
	safeDesc     = desc("outbox_slot_safe_wal_bytes", "WAL that may still be written before Postgres invalidates the slot; absent without a limit.", "slot")
	limitDesc    = desc("outbox_slot_limit_bytes", "max_slot_wal_keep_size; absent without a limit.", "slot")
	lossDesc     = desc("outbox_slot_seconds_to_loss", "Seconds until Postgres gives the slot up if nothing changes; absent while the slot keeps up.", "slot")
	activeDesc   = desc("outbox_slot_active", "1 if somebody streams from the slot.", "slot")
	statusDesc   = desc("outbox_slot_wal_status", "1 for the slot's wal_status.", "slot", "wal_status")
	skewDesc     = desc("outbox_clock_skew_seconds", "Clock of the database minus clock of the relay.")
	strayDesc    = desc("outbox_stray_slots", "Slots that this relay seems to have left behind.")
	strayWALDesc = desc("outbox_stray_slot_retained_bytes", "WAL that the server keeps because of the worst of them.")
	stalledDesc  = desc("outbox_source_stalled", "1 if the server writes WAL and nothing comes of the stream that this process reads.")
	pausedDesc   = desc("outbox_paused", "1 if somebody has paused the relay.")
	walRateDesc  = desc("outbox_server_wal_bytes_per_second", "WAL that the whole server writes, smoothed over a minute.")
)

var descs = []*prometheus.Desc{
	upDesc, retainedDesc, lagDesc, safeDesc, limitDesc, lossDesc, activeDesc, statusDesc, skewDesc, strayDesc, strayWALDesc, stalledDesc, pausedDesc, walRateDesc,
}

// Describe implements prometheus.Collector.
func (g *Guard) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It shows the newest picture, and of
// a server that cannot be asked nothing but that: a number that stands still is
// not to be taken for one that was read.
func (g *Guard) Collect(ch chan<- prometheus.Metric) {
	v := g.Latest()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	flag := func(d *prometheus.Desc, on bool, labels ...string) {
		value := 0.0
		if on {
			value = 1
		}
		gauge(d, value, labels...)
	}
	flag(upDesc, v.Reachable)
	flag(pausedDesc, v.Paused)
	flag(stalledDesc, v.Reachable && v.Stalled)
	if !v.Reachable {
		return
	}
	gauge(skewDesc, v.ClockSkew)
	gauge(walRateDesc, v.WALBytesPerSecond)
	gauge(strayDesc, float64(len(v.StraySlots)))
	worst := int64(0)
	for _, s := range v.StraySlots {
		worst = max(worst, s.RetainedBytes)
	}
	gauge(strayWALDesc, float64(worst))
	s := v.Slot
	if !s.Exists {
		return
	}
	gauge(retainedDesc, float64(s.RetainedBytes), s.Name)
	gauge(lagDesc, float64(s.LagBytes), s.Name)
	flag(activeDesc, s.Active, s.Name)
	for _, word := range statuses {
		flag(statusDesc, s.WALStatus == word, s.Name, word)
	}
	if s.SafeWALBytes != nil {
		gauge(safeDesc, float64(*s.SafeWALBytes), s.Name)
	}
	if s.LimitBytes != nil {
		gauge(limitDesc, float64(*s.LimitBytes), s.Name)
	}
	if v.SecondsToLoss != nil {
		gauge(lossDesc, *v.SecondsToLoss, s.Name)
	}
}
