package config

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const chartSchema = "../../deploy/helm/outbox-relay/values.schema.json"

// renderDefs is what the chart knows of settings, so that a name with a typing error is
// refused before anything is installed.
func renderDefs(t *testing.T) []byte {
	t.Helper()
	settings, secrets := map[string]any{}, map[string]any{}
	for _, k := range Reference() {
		for _, name := range append([]string{k.Name}, k.Also...) {
			if k.Secret {
				// Let through here, and refused by the templates, which say why.
				settings[name] = map[string]any{"description": "a secret: existingSecret"}
				secrets[name] = map[string]any{"type": "string", "description": k.Help}
				continue
			}
			one := map[string]any{"type": []string{"string", "number", "boolean"}, "description": k.Help}
			if len(k.Values) > 0 {
				one = map[string]any{"enum": k.Values, "description": k.Help}
			}
			settings[name] = one
		}
	}
	foreign := "^(PG[A-Z]+|OTEL_[A-Z_]+|GO[A-Z]+|SSL_CERT_(FILE|DIR)|HTTPS?_PROXY|NO_PROXY)$"
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("  ", "  ")
	if err := enc.Encode(map[string]any{
		"settings": map[string]any{
			"type": "object", "additionalProperties": false, "properties": settings,
			"patternProperties": map[string]any{foreign: map[string]any{"type": []string{"string", "number", "boolean"}}},
		},
		"secrets": map[string]any{"type": "object", "additionalProperties": false, "properties": secrets},
	}); err != nil {
		t.Fatal(err)
	}
	return append(bytes.TrimSpace(b.Bytes()), "\n}\n"...)
}

// The chart knows every setting, as the program does.
func TestChartSchemaPage(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile(chartSchema)
	if err != nil {
		t.Fatal(err)
	}
	mark := []byte("\n  \"$defs\": ")
	at := bytes.Index(file, mark)
	if at < 0 {
		t.Fatal("the schema has lost its end")
	}
	want := append(bytes.Clone(file[:at+len(mark)]), renderDefs(t)...)
	if *update {
		if err := os.WriteFile(chartSchema, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(file), string(want)); diff != "" {
		t.Errorf("values.schema.json is not what `make docs` writes (-file +settings):\n%s", diff)
	}
}
