package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/holdwall/outbox-relay/internal/kafka"
)

// serviceLink matches what Kubernetes sets for a service named kafka or
// outbox-something: nobody meant those as settings.
var serviceLink = regexp.MustCompile(`_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)$`)

// warn collects what will work and is likely not meant.
func (l *Loader) warn() {
	l.warnings = nil
	add := func(fix, format string, args ...any) {
		l.warnings = append(l.warnings, Warning{Detail: fmt.Sprintf(format, args...), Fix: fix})
	}
	var known []string
	for _, s := range l.settings {
		known = append(known, s.vars()...)
	}
	for _, name := range slices.Sorted(maps.Keys(l.environ)) {
		ours := strings.HasPrefix(name, "OUTBOX_") || strings.HasPrefix(name, "KAFKA_")
		if slices.Contains(known, name) || serviceLink.MatchString(name) {
			continue
		}
		// Another program's variable may resemble ours; one letter is a typing error.
		if n := slip(name, known); !ours && n != "" {
			add("did you mean "+n+"?", "the variable %s is no setting", name)
		}
		if !ours {
			continue
		}
		fix := "unset it, if it is meant for this program"
		if n := nearest(name, known); n != "" {
			fix = "did you mean " + n + "?"
		}
		add(fix, "the variable %s is no setting", name)
	}

	k := &l.cfg.Kafka.Client
	on, _ := k.TLSEnabled()
	if on && k.TLS.InsecureSkipVerify {
		add("KAFKA_TLS_CA_FILE=<PEM file>", "KAFKA_TLS_INSECURE_SKIP_VERIFY is true: whoever answers is taken for a broker")
	}
	if !on && len(k.Brokers) > 0 {
		if k.TLS.CAFile != "" || k.TLS.CertFile != "" || k.TLS.ServerName != "" {
			fix := "KAFKA_TLS=true"
			if k.TLS.Mode == kafka.Off {
				fix = "KAFKA_TLS=true, or unset the KAFKA_TLS_* settings"
			}
			add(fix, "KAFKA_TLS_* settings are given, but TLS is off")
		}
		if strings.EqualFold(k.SASL.Mechanism, "plain") {
			add("KAFKA_TLS=true", "the password goes to Kafka in the clear: mechanism plain without TLS")
		}
	}
}
