package secret_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"go.yaml.in/yaml/v3"

	"github.com/holdwall/outbox-relay/internal/secret"
)

const planted = "pl4nted-Passw0rd"

type holder struct {
	User   string
	Pass   secret.Text
	hidden secret.Text
	Ptr    *secret.Text
}

func TestNoPrintedFormHoldsTheSecret(t *testing.T) {
	t.Parallel()
	s := secret.New(planted)
	h := holder{User: "u", Pass: s, hidden: s, Ptr: &s}

	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p"} {
		for _, v := range []any{s, &s, h, &h, []secret.Text{s}, map[string]secret.Text{"k": s}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	fmt.Fprintln(&out, s, h, errors.New(fmt.Sprint(s)), fmt.Errorf("dial with %v", s))
	js, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(js)
	ym, err := yaml.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(ym)
	z := zerolog.New(&out)
	z.Info().Interface("h", h).Interface("s", s).Stringer("st", s).Any("p", &s).Msg("zerolog")
	slog.New(slog.NewTextHandler(&out, nil)).Info("slog", "s", s, "h", h, "p", &s)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("slog", "s", s, "h", h)

	got := out.String()
	for _, leak := range []string{planted, fmt.Sprintf("%x", planted), fmt.Sprintf("%X", planted)} {
		if strings.Contains(got, leak) {
			t.Errorf("a printed form holds %q:\n%s", leak, got)
		}
	}
	if !strings.Contains(got, secret.Token) {
		t.Errorf("the token is missing, so the test printed nothing:\n%s", got)
	}
}

func TestReveal(t *testing.T) {
	t.Parallel()
	if got := secret.New(planted).Reveal(); got != planted {
		t.Errorf("Reveal() = %q", got)
	}
	var none secret.Text
	if none.Set() || none.Reveal() != "" || none.String() != "" || secret.New("").Set() {
		t.Error("the zero value is not none")
	}
}
