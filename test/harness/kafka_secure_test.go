package harness

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/secret"
)

// unsigned is a token that the broker takes because nobody told it not to.
func unsigned(subject string, until time.Time) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"none"}`)) + "." +
		part(fmt.Appendf(nil, `{"sub":%q,"iat":%d,"exp":%d}`, subject, time.Now().Add(-time.Minute).Unix(), until.Unix())) + "."
}

// Every listener lets in who is entitled to, and says of everybody else what is
// wrong, through the configuration of the product.
func TestSecureKafka(t *testing.T) {
	t.Parallel()
	k := NewSecureKafka(t)
	trusted := kafka.TLS{Mode: kafka.On, CAFile: k.CA}
	client, stranger := trusted, trusted
	client.CertFile, client.KeyFile = k.ClientCert, k.ClientKey
	stranger.CertFile, stranger.KeyFile = k.StrangerCert, k.StrangerKey
	user := func(mechanism, password string) kafka.SASL {
		return kafka.SASL{Mechanism: mechanism, Username: SecureUser, Password: secret.New(password)}
	}
	token := func(until time.Duration) kafka.SASL {
		return kafka.SASL{Mechanism: "oauthbearer", Password: secret.New(unsigned(SecureUser, time.Now().Add(until)))}
	}
	for _, c := range []struct {
		name, listener string
		tls            kafka.TLS
		sasl           kafka.SASL
		code           *fault.Code // nil: let in
	}{
		{"plain", ListenPlain, trusted, user("plain", SecurePassword), nil},
		{"scram-sha-256", ListenSHA256, trusted, user("scram-sha-256", SecurePassword), nil},
		{"scram-sha-512", ListenSHA512, trusted, user("scram-sha-512", SecurePassword), nil},
		{"token", ListenToken, trusted, token(time.Hour), nil},
		{"without TLS", ListenSASL, kafka.TLS{}, user("plain", SecurePassword), nil},
		{"TLS alone", ListenTLS, trusted, kafka.SASL{}, nil},
		{"client certificate", ListenMutual, client, kafka.SASL{}, nil},
		{"any certificate", ListenNamed, kafka.TLS{Mode: kafka.On, InsecureSkipVerify: true}, kafka.SASL{}, nil},
		{"told the name", ListenNamed, kafka.TLS{Mode: kafka.On, CAFile: k.CA, ServerName: "elsewhere.example"}, kafka.SASL{}, nil},

		{"wrong password, plain", ListenPlain, trusted, user("plain", "wrong"), fault.KafkaAuth},
		{"wrong password, scram-sha-256", ListenSHA256, trusted, user("scram-sha-256", "wrong"), fault.KafkaAuth},
		{"wrong password, scram-sha-512", ListenSHA512, trusted, user("scram-sha-512", "wrong"), fault.KafkaAuth},
		{"token that has ended", ListenToken, trusted, token(-time.Hour), fault.KafkaAuth},
		{"other mechanism", ListenSHA256, trusted, user("plain", SecurePassword), fault.KafkaSASLMechanism},
		{"no SASL, with TLS", ListenPlain, trusted, kafka.SASL{}, fault.KafkaSASLMissing},
		{"no SASL, without TLS", ListenSASL, kafka.TLS{}, kafka.SASL{}, fault.KafkaSASLMissing},
		{"SASL that nobody wants", ListenTLS, trusted, user("plain", SecurePassword), fault.KafkaSASLUnwanted},
		{"other authority", ListenPlain, kafka.TLS{Mode: kafka.On, CAFile: k.OtherCA}, user("plain", SecurePassword), fault.KafkaCertAuthority},
		{"expired", ListenExpired, trusted, kafka.SASL{}, fault.KafkaCertExpired},
		{"other name", ListenNamed, trusted, kafka.SASL{}, fault.KafkaCertName},
		{"plaintext to TLS", ListenTLS, kafka.TLS{}, kafka.SASL{}, fault.KafkaTLSPort},
		{"plaintext to TLS, with SASL", ListenPlain, kafka.TLS{}, user("plain", SecurePassword), fault.KafkaTLSPort},
		{"TLS to plaintext", ListenSASL, trusted, user("plain", SecurePassword), fault.KafkaPlaintextPort},
		{"no client certificate", ListenMutual, trusted, kafka.SASL{}, fault.KafkaClientCert},
		{"client certificate of a stranger", ListenMutual, stranger, kafka.SASL{}, fault.KafkaClientRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := kafka.Config{Brokers: []string{k.Listener(c.listener)}, TLS: c.tls, SASL: c.sasl, ConnectionTimeout: 5 * time.Second}
			if faults := cfg.Validate(); len(faults) > 0 {
				t.Fatal(faults[0])
			}
			err := cfg.Reach(t.Context(), "test", zerolog.Nop(), nil)
			switch {
			case c.code == nil && err != nil:
				t.Error(err)
			case c.code != nil && !fault.Has(err, c.code):
				t.Errorf("%v, want %s", err, c.code.Name)
			}
		})
	}
}
