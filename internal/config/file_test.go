package config

import (
	"strings"
	"testing"
)

// A password that lacks its quotes breaks the file; it must not end in the
// message about that.
func TestBrokenFilesDoNotShowTheirContent(t *testing.T) {
	t.Parallel()
	settings := settingsOf(new(Config))
	for _, text := range []string{
		"kafka_sasl_password: *" + planted,
		"kafka_sasl_password: @" + planted,
		"kafka_sasl_password: !" + planted + " x",
		"kafka_sasl_password: &" + planted,
		"kafka_sasl_password: x: " + planted,
		"kafka_sasl_password: [" + planted,
		"kafka_sasl_password: {a: " + planted + "}",
		"kafka_sasl_password: [" + planted + "]",
		"kafka_sasl_password: '" + planted,
		"kafka_sasl_password: \"\\q" + planted + "\"",
		"kafka_sasl_password: {" + planted + "}",
		"kafka: {sasl: {password: {" + planted + "}}}",
		"- " + planted,
		planted,
		"a: 1\n---\nb: " + planted,
		"? [" + planted + "]\n: x",
	} {
		f := &file{name: "relay.yaml", entries: map[string]entry{}}
		f.parse([]byte(text), settings)
		if len(f.faults) == 0 && f.entries["kafka_sasl_password"].text == "" {
			if !strings.Contains(text, "&") { // an anchor without a value is an empty value
				t.Errorf("%q was accepted", text)
			}
		}
		for _, bad := range f.faults {
			if strings.Contains(bad.Text(), planted) {
				t.Errorf("%q: %s", text, bad.Text())
			}
		}
	}
}

func FuzzFile(f *testing.F) {
	for _, s := range []string{
		"kafka:\n  brokers: [a:9092, b:9092]\n", "outbox: {columns: {payload: data}}", "kafka.tls: true\nkafka-tls: false",
		"a: &x [1]\nb: *x", "? {a: b}\n: c", "---\n---\n", "\xff\xfe", "kafka: null", "- 1", "<<: {log_level: x}", "log_level: !!binary aGk=", "\t: x",
	} {
		f.Add([]byte(s))
	}
	settings := settingsOf(new(Config))
	known := map[string]bool{}
	for _, s := range settings {
		known[s.key()] = true
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := &file{name: "f", entries: map[string]entry{}}
		got.parse(data, settings)
		for key, e := range got.entries {
			if !known[key] || e.line < 1 || key == "outbox_config" {
				t.Fatalf("entry %q: %+v", key, e)
			}
		}
		for _, bad := range got.faults {
			if bad.Reason() == "" || bad.Remedy() == "" || strings.ContainsAny(bad.Error(), "\n\x1b\x00") {
				t.Fatalf("fault %q", bad.Text())
			}
		}
	})
}
