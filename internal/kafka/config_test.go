package kafka_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/secret"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	pki := newPKI(t)
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	full := kafka.SASL{Mechanism: "plain", Username: "u", Password: secret.New(planted)}
	for _, c := range []struct {
		name string
		cfg  kafka.Config
		want []string // one part of each fault, in order
	}{
		{"nothing", kafka.Config{}, nil},
		{"all good", kafka.Config{Brokers: []string{"a:9092"}, ConnectionTimeout: time.Second, Compression: "LZ4", SASL: full}, nil},
		{"certificates", kafka.Config{TLS: kafka.TLS{CAFile: pki.caFile, CertFile: pki.certFile, KeyFile: pki.keyFile}}, nil},
		{"everything wrong at once", kafka.Config{
			Brokers: []string{"a", "b:0"}, ConnectionTimeout: time.Millisecond, RequestTimeout: time.Hour, Compression: "lzma",
			TLS:  kafka.TLS{CAFile: junk, CertFile: pki.certFile},
			SASL: kafka.SASL{Mechanism: "kerberos"},
		}, []string{
			"entry 1", "entry 2", "KAFKA_CONNECTION_TIMEOUT is 1ms", "KAFKA_REQUEST_TIMEOUT is 1h0m0s", "KAFKA_COMPRESSION",
			"only one is set", "KAFKA_TLS_CA_FILE", "KAFKA_SASL_MECHANISM", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD is not set",
		}},
		{"user without mechanism", kafka.Config{SASL: kafka.SASL{Username: "u"}}, []string{"KAFKA_SASL_MECHANISM is not set"}},
		{"password twice", kafka.Config{SASL: kafka.SASL{Mechanism: "plain", Username: "u", Password: secret.New(planted), PasswordFile: junk}}, []string{"both set"}},
		{"empty password file", kafka.Config{SASL: kafka.SASL{Mechanism: "plain", Username: "u", PasswordFile: junk}}, []string{"PASSWORD_FILE"}},
		{"endless password file", kafka.Config{SASL: kafka.SASL{Mechanism: "plain", Username: "u", PasswordFile: "/dev/zero"}}, []string{"too long"}},
		{"key of another", kafka.Config{TLS: kafka.TLS{CertFile: pki.certFile, KeyFile: newPKI(t).keyFile}}, []string{"KAFKA_TLS_CERT_FILE and KAFKA_TLS_KEY_FILE"}},
		{"mixed ports", kafka.Config{Brokers: []string{"a:9092", "b:9094"}}, []string{"KAFKA_TLS is not set"}},
		{"mixed ports, spoken", kafka.Config{Brokers: []string{"a:9092", "b:9094"}, TLS: kafka.TLS{Mode: kafka.Off}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			faults := c.cfg.Validate()
			for i := range max(len(faults), len(c.want)) {
				switch {
				case i >= len(faults):
					t.Errorf("missing: %s", c.want[i])
				case i >= len(c.want):
					t.Errorf("unexpected: %v", faults[i])
				case !strings.Contains(faults[i].Error(), c.want[i]):
					t.Errorf("got %v, want %s", faults[i], c.want[i])
				}
			}
			for _, f := range faults {
				if f.Code.Class != fault.Usage || f.Reason() == "" || f.Remedy() == "" || strings.Contains(f.Text(), planted) {
					t.Errorf("fault %+v", f)
				}
			}
		})
	}
}

func TestTLSEnabled(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		brokers string
		mode    kafka.Switch
		want    bool
	}{
		{"a:9094", kafka.Auto, true},
		{"a:9094,b:9094", kafka.Auto, true},
		{"a:9094,b:9094", kafka.Off, false},
		{"a:9094,b:9092", kafka.Auto, false},
		{"a:9094,b:9092", kafka.On, true},
		{"a:9092", kafka.Auto, false},
		{"a:9092", kafka.On, true},
	} {
		cfg := kafka.Config{Brokers: strings.Split(c.brokers, ","), TLS: kafka.TLS{Mode: c.mode}}
		if got, why := cfg.TLSEnabled(); got != c.want || why == "" {
			t.Errorf("%s, %s: %v (%s)", c.brokers, c.mode, got, why)
		}
	}
}

func TestSwitch(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]kafka.Switch{"": kafka.Auto, "auto": kafka.Auto, "True": kafka.On, "1": kafka.On, "off": kafka.Off, " no ": kafka.Off} {
		var s kafka.Switch
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%q: %s, %v", text, s, err)
		}
	}
	var s kafka.Switch
	if err := s.UnmarshalText([]byte("maybe")); err == nil {
		t.Error("maybe was accepted")
	}
}

// A Config written as a literal and one read from nowhere are the same.
func TestDefaultsAgreeWithTags(t *testing.T) {
	t.Parallel()
	typ := reflect.TypeFor[kafka.Config]()
	for field, want := range map[string]time.Duration{"ConnectionTimeout": kafka.DefaultConnectionTimeout, "RequestTimeout": kafka.DefaultRequestTimeout} {
		f, _ := typ.FieldByName(field)
		if got, err := time.ParseDuration(f.Tag.Get("default")); err != nil || got != want {
			t.Errorf("%s: tag %v, constant %v (%v)", field, got, want, err)
		}
	}
	if s := fmt.Sprintf("%+v", kafka.Config{SASL: kafka.SASL{Password: secret.New(planted)}}); strings.Contains(s, planted) {
		t.Error("a printed configuration holds the password")
	}
}
