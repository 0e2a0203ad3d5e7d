package doctor

import (
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
)

func settingsChecks() []check {
	return []check{
		{Settings, "settings", "every setting can be read and fits the others", 0, []*fault.Code{
			fault.ConfigInvalid, fault.ConfigUnknown, fault.ConfigMissing, fault.BrokerList, fault.DatabaseURL, fault.ConfigFile,
		}, settingsRead},
		{Settings, "meant", "no setting looks like a mistake: misspelt names, contradictions, secrets in the clear", 0, []*fault.Code{fault.SettingOdd}, settingsMeant},
		{Settings, "database_tls", "the way to a Postgres on another host is encrypted, and the server is verified", 0, []*fault.Code{fault.DatabasePlaintext}, databaseTLS},
		{Settings, "auto_init", "OUTBOX_AUTO_INIT is off", 0, []*fault.Code{fault.AutoInitOn}, autoInit},
		{Settings, "enabled", "KAFKA_ENABLED is not false", 0, []*fault.Code{fault.RelayDisabled}, enabled},
		{Settings, "timeouts", "a Kafka transaction has time for one request that is slow", 0, []*fault.Code{fault.TimeoutsContradict}, timeouts},
	}
}

func settingsRead(w *world) answer {
	var a answer
	for _, f := range w.Problems {
		a.add(Fail, "", f)
	}
	return a.or("all can be read")
}

func settingsMeant(w *world) answer {
	var a answer
	for _, o := range w.Warnings {
		f := fault.New(fault.SettingOdd, "%s", o.Detail)
		if o.Fix != "" {
			f = f.WithFix("%s", o.Fix)
		}
		a.add(Warn, "", f)
	}
	return a.or("nothing odd")
}

// databaseTLS judges the settings, not the connection: with sslmode=prefer the
// same settings may give either.
func databaseTLS(w *world) answer {
	conn, err := w.Settings.Database.Conn()
	if err != nil {
		return skip("needs a DATABASE_URL that can be read")
	}
	var a answer
	for _, c := range tries(conn) {
		if near(c.Host) || len(a.problems) > 0 {
			continue
		}
		switch {
		case c.TLSConfig == nil:
			a.add(Warn, "", fault.New(fault.DatabasePlaintext, "the connection to %s may be unencrypted", c.Host).
				WithWhy("sslmode allows plaintext, and the stream holds every payload"))
		case c.TLSConfig.InsecureSkipVerify && c.TLSConfig.VerifyPeerCertificate == nil:
			a.add(Warn, "", fault.New(fault.DatabasePlaintext, "the certificate of %s is not verified", c.Host).
				WithWhy("sslmode=require encrypts, and takes whoever answers for the server"))
		}
	}
	return a.or("%s", "local, or encrypted and verified")
}

// tries are all ways in which a connection would be tried, plaintext ones too.
func tries(c *pgconn.Config) []*pgconn.FallbackConfig {
	return append([]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}, c.Fallbacks...)
}

// near tells whether a host is this machine.
func near(host string) bool {
	if strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || host == "localhost" || host == "" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func autoInit(w *world) answer {
	if w.Settings.Outbox.AutoInit {
		return warn(fault.New(fault.AutoInitOn, "OUTBOX_AUTO_INIT is true"))
	}
	return pass("off")
}

func enabled(w *world) answer {
	if !w.Settings.Kafka.Enabled {
		return warn(fault.New(fault.RelayDisabled, "KAFKA_ENABLED is false"))
	}
	return pass("on")
}

func timeouts(w *world) answer {
	_, request := w.Settings.Kafka.Client.Timeouts()
	// Half of the transaction's time is the patience for the read-back.
	if t := w.Settings.Kafka.TransactionTimeout; t/2 < min(request, 5*time.Second) {
		return warn(fault.New(fault.TimeoutsContradict, "KAFKA_TRANSACTION_TIMEOUT is %s and KAFKA_REQUEST_TIMEOUT %s", t, request))
	}
	return pass("transaction %s, request %s", w.Settings.Kafka.TransactionTimeout, request)
}
