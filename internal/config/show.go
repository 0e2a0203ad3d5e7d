package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/holdwall/outbox-relay/internal/secret"
)

// Entry is one setting as it is shown.
type Entry struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Origin Origin `json:"origin"`
	From   string `json:"from,omitempty"` // the variable, flag, file and line, or reason
	Group  string `json:"group,omitempty"`
	Help   string `json:"help,omitempty"`
}

// markDerived corrects value and origin of what derive filled in.
func (l *Loader) markDerived() {
	for name, from := range map[string]string{
		"kafka-dlq-topic":        "KAFKA_EVENTS_TOPIC",
		"kafka-checkpoint-topic": "OUTBOX_NAME",
	} {
		if s := l.byName[name]; s.origin == FromDefault {
			s.origin, s.from = Derived, from
		}
	}
}

// Entries returns every setting in a fixed order. It is complete after Load.
func (l *Loader) Entries() []Entry {
	entries := make([]Entry, 0, len(l.settings))
	for _, s := range l.settings {
		e := Entry{Name: s.env, Value: s.value(), Origin: s.origin, From: s.from, Group: s.group, Help: s.help}
		switch s.name {
		case "database-url":
			l.showDatabase(&e)
		case "outbox-admin-url":
			if l.cfg.Database.AdminURL.Set() {
				e.Value = secret.Token
				if cfg, err := l.cfg.Database.AdminConn(); err == nil {
					e.Value = shownURL(cfg)
				}
			}
		case "kafka-tls":
			if s.origin == FromDefault && s.bad == nil && len(l.cfg.Kafka.Client.Brokers) > 0 {
				on, why := l.cfg.Kafka.Client.TLSEnabled()
				e.Value, e.Origin, e.From = fmt.Sprint(on), Derived, why
			}
		case "kafka-brokers":
			// An entry with a user may hold a password as well.
			if strings.Contains(e.Value, "@") {
				e.Value = secret.Token
			}
		}
		if s.secret() && s.bad != nil {
			e.Value = secret.Token
		}
		entries = append(entries, e)
	}
	return entries
}

func (l *Loader) showDatabase(e *Entry) {
	d := l.cfg.Database
	if !d.URL.Set() && !l.hasPG() {
		return
	}
	if !d.URL.Set() {
		e.Origin, e.From = FromEnv, "PG*"
	} else {
		e.Value = secret.Token
	}
	if cfg, err := d.Conn(); err == nil {
		e.Value = shownURL(cfg)
	}
}

// Fingerprint names a configuration without telling it: equal settings have
// equal fingerprints. Secrets count as set or not set.
func (l *Loader) Fingerprint() string {
	h := sha256.New()
	for _, e := range l.Entries() {
		fmt.Fprintf(h, "%s=%s\n", e.Name, e.Value)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// WriteTable prints entries for people.
func WriteTable(w io.Writer, entries []Entry) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SETTING\tVALUE\tORIGIN")
	for _, e := range entries {
		origin := string(e.Origin)
		if e.From != "" {
			origin += " " + e.From
		}
		value := e.Value
		if value == "" {
			value = "-"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", e.Name, printable(value), printable(origin))
	}
	return tw.Flush()
}

// printable keeps a value on its line and out of the terminal's controls.
func printable(s string) string {
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			return fmt.Sprintf("%q", s)
		}
	}
	return s
}
