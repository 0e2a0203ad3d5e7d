package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
)

// Each secret can come from a file, named by variable, flag or key.
func TestEverySecretHasAFile(t *testing.T) {
	t.Parallel()
	all := settingsOf(new(Config))
	byName := map[string]*setting{}
	for _, s := range all {
		byName[s.name] = s
	}
	seen := 0
	for _, s := range all {
		if !s.secret() {
			continue
		}
		seen++
		if byName[s.name+"-file"] == nil {
			t.Errorf("%s has no %s_FILE", s.env, s.env)
		}
	}
	if seen < 4 {
		t.Errorf("only %d secrets: the search is blind", seen)
	}

	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	if err := os.WriteFile(path, []byte(planted+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	long := filepath.Join(dir, "long")
	yaml := filepath.Join(dir, "relay.yaml")
	for name, text := range map[string]string{empty: " \n", long: strings.Repeat("x", maxSecretFile+1), yaml: "kafka:\n  sasl:\n    session_token_file: " + path + "\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sasl := []string{"KAFKA_SASL_MECHANISM=aws-msk-iam", "KAFKA_SASL_USERNAME=u", "KAFKA_SASL_PASSWORD=p", "KAFKA_TLS=true"}
	const token = "KAFKA_SASL_SESSION_TOKEN"
	for _, c := range []struct {
		name    string
		environ []string
		args    []string
		bad     string
	}{
		{"variable", []string{token + "_FILE=" + path}, nil, ""},
		{"flag", nil, []string{"--kafka-sasl-session-token-file", path}, ""},
		{"key", []string{"OUTBOX_CONFIG=" + yaml}, nil, ""},
		{"both", []string{token + "_FILE=" + path, token + "=x"}, nil, "both set"},
		{"missing", []string{token + "_FILE=" + path + ".gone"}, nil, "cannot be opened"},
		{"folder", []string{token + "_FILE=" + dir}, nil, "cannot be read"},
		{"empty", []string{token + "_FILE=" + empty}, nil, "is empty"},
		{"too long", []string{token + "_FILE=" + long}, nil, "too long"},
		{"on the command line", nil, []string{"--kafka-sasl-session-token", planted}, "every user of this host"},
	} {
		l := parse(t, append(sasl, c.environ...), c.args...)
		cfg, err := l.Load()
		e := entryOf(l, token)
		if c.bad == "" {
			if err != nil || cfg.Kafka.Client.SASL.SessionToken.Reveal() != planted || e.Value != secret.Token || e.From != token+"_FILE" {
				t.Errorf("%s: %v, %+v", c.name, err, e)
			}
			continue
		}
		p, _ := err.(Problems)
		if len(p) != 1 || p[0].Code != fault.ConfigInvalid || !strings.Contains(p.Text(), c.bad) || strings.Contains(p.Text(), planted) {
			t.Errorf("%s: want one problem with %q:\n%v", c.name, c.bad, err)
		}
	}
}

// Variables of others are let be, unless they are one letter away from ours.
func TestMisspeltVariables(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"DATABSE_URL": "DATABASE_URL", "HEALTH_ADRR": "HEALTH_ADDR", "LOG_LEVLE": "LOG_LEVEL", "OUTBOX_SLTO": "OUTBOX_SLOT", "KAFKA_BORKERS": "KAFKA_BROKERS",
		"DATABASE_USER": "", "LOG_DIR": "", "HOME": "", "POSTGRES_URL": "", "ADMIN_URL": "",
	} {
		l := parse(t, []string{name + "=x"})
		_, _ = l.Load()
		w := l.Warnings()
		if want == "" && len(w) == 0 {
			continue
		}
		if len(w) != 1 || want == "" || !strings.Contains(w[0].Detail, name) || !strings.Contains(w[0].Fix, want) {
			t.Errorf("%s: %v, want a hint at %q", name, w, want)
		}
	}
}
