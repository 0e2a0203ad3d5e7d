package harness

import (
	"errors"
	"path/filepath"
	"testing"
)

// The listeners of a SecureKafka.
const (
	ListenPlain   = "PLAINSSL"  // SASL_SSL, PLAIN
	ListenSHA256  = "SHA256SSL" // SASL_SSL, SCRAM-SHA-256
	ListenSHA512  = "SHA512SSL" // SASL_SSL, SCRAM-SHA-512
	ListenToken   = "TOKENSSL"  // SASL_SSL, OAUTHBEARER with tokens that nobody has signed
	ListenSASL    = "SASLPLAIN" // SASL_PLAINTEXT, PLAIN
	ListenTLS     = "SSL"       // nobody authenticates
	ListenMutual  = "MUTUAL"    // SSL with client certificates
	ListenExpired = "EXPIRED"   // SSL with a certificate that has ended
	ListenNamed   = "OTHERNAME" // SSL with a certificate for another host
)

// The users of a SecureKafka. Guest is let in and has no rights.
const (
	SecureUser, SecureGuest = "app", "guest"
	SecurePassword          = "pl4nted-hush" // what no output may hold
)

// SecureKafka is one broker with a listener for each way to be let in, and for
// some ways not to be. The listeners of every broker are there as well, and
// who comes through them may do everything.
type SecureKafka struct {
	*KafkaServer
	// Certificates, as files. Stranger's is of an authority that the broker
	// does not know.
	CA, OtherCA                                      string
	ClientCert, ClientKey, StrangerCert, StrangerKey string
}

// NewSecureKafka starts one for a test; see NewKafka.
func NewSecureKafka(t testing.TB) *SecureKafka {
	t.Helper()
	dir := t.TempDir()
	ca, err := newAuthority(dir, "test")
	other, err2 := newAuthority(dir, "other")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		ca.issue("broker", loopback, false),
		ca.issue("expired", loopback, true),
		ca.issue("elsewhere", "elsewhere.example", false),
		ca.issue("client", "client.example", false),
		other.issue("stranger", "client.example", false),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	k := NewKafka(t, KafkaConfig{
		Listeners: secureListeners(in, ca.file),
		Scram:     scramUsers(),
		Properties: map[string]string{
			"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
			// Nobody is who came without authentication: the listeners for
			// checking, and those with TLS alone.
			"super.users": "User:ANONYMOUS;User:" + SecureUser + ";User:CN=client",
		},
	})
	return &SecureKafka{
		KafkaServer: k, CA: ca.file, OtherCA: other.file,
		ClientCert: in("client.pem"), ClientKey: in("client-key.pem"),
		StrangerCert: in("stranger.pem"), StrangerKey: in("stranger-key.pem"),
	}
}

func scramUsers() []string {
	var all []string
	for _, user := range []string{SecureUser, SecureGuest} {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			all = append(all, mechanism+"=[name="+user+",password="+SecurePassword+"]")
		}
	}
	return all
}

func secureListeners(file func(string) string, ca string) []KafkaListener {
	tls := func(store string, more map[string]string) map[string]string {
		props := map[string]string{
			"ssl.keystore.type": "PEM", "ssl.keystore.location": file(store + "-store.pem"),
			"ssl.truststore.type": "PEM", "ssl.truststore.location": ca,
		}
		for key, value := range more {
			props[key] = value
		}
		return props
	}
	const modules = "org.apache.kafka.common.security."
	plain := map[string]string{
		"sasl.enabled.mechanisms": "PLAIN",
		"plain.sasl.jaas.config": modules + "plain.PlainLoginModule required user_" + SecureUser + `="` + SecurePassword +
			`" user_` + SecureGuest + `="` + SecurePassword + `";`,
	}
	scram := func(mechanism, lower string) map[string]string {
		return map[string]string{
			"sasl.enabled.mechanisms": mechanism, lower + ".sasl.jaas.config": modules + "scram.ScramLoginModule required;",
		}
	}
	token := map[string]string{
		"sasl.enabled.mechanisms":      "OAUTHBEARER",
		"oauthbearer.sasl.jaas.config": modules + `oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";`,
	}
	return []KafkaListener{
		{ListenPlain, "SASL_SSL", tls("broker", plain)},
		{ListenSHA256, "SASL_SSL", tls("broker", scram("SCRAM-SHA-256", "scram-sha-256"))},
		{ListenSHA512, "SASL_SSL", tls("broker", scram("SCRAM-SHA-512", "scram-sha-512"))},
		{ListenToken, "SASL_SSL", tls("broker", token)},
		{ListenSASL, "SASL_PLAINTEXT", plain},
		{ListenTLS, "SSL", tls("broker", nil)},
		{ListenMutual, "SSL", tls("broker", map[string]string{"ssl.client.auth": "required"})},
		{ListenExpired, "SSL", tls("expired", nil)},
		{ListenNamed, "SSL", tls("elsewhere", nil)},
	}
}
