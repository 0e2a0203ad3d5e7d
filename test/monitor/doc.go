// Package monitor holds dashboards and alert rules against what the relay
// exports: by their names, which docs/metrics.md lists, by promtool, and by
// asking a real Prometheus that scrapes a real relay.
package monitor
