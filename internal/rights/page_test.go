package rights_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/rights"
)

var update = flag.Bool("update", false, "write the rights into docs/operations.md")

const page = "../../docs/operations.md"

// docs/operations.md has the rights of the defaults, as the program prints them.
func TestRightsPage(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	s := rights.Of(config.Default())
	for _, block := range []struct {
		name, lang string
		write      func(b *strings.Builder) error
	}{
		{"sql", "sql", func(b *strings.Builder) error { return s.WriteSQL(b) }},
		{"acls", "sh", func(b *strings.Builder) error { return s.WriteACLs(b) }},
	} {
		begin, end := "<!-- rights: "+block.name+" -->\n", "<!-- end -->\n"
		before, rest, ok := strings.Cut(text, begin)
		old, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("the page has no place for %s", block.name)
		}
		var b strings.Builder
		b.WriteString("```" + block.lang + "\n")
		if err := block.write(&b); err != nil {
			t.Fatal(err)
		}
		b.WriteString("```\n")
		if !*update {
			if diff := cmp.Diff(old, b.String()); diff != "" {
				t.Errorf("docs/operations.md is not what `make docs` writes (-file +code):\n%s", diff)
			}
		}
		text = before + begin + b.String() + end + after
	}
	if *update {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// What is listed depends on the settings.
func TestSettings(t *testing.T) {
	t.Parallel()
	lists := func(change func(*config.Config)) string {
		c := config.Default()
		change(&c)
		var b strings.Builder
		if err := rights.Of(c).WriteACLs(&b); err != nil {
			t.Fatal(err)
		}
		relay, _, _ := strings.Cut(b.String(), "# init")
		return relay
	}
	for name, c := range map[string]struct {
		change      func(*config.Config)
		has, hasNot string
	}{
		"default":      {func(*config.Config) {}, "--transactional-id outbox-outbox-0", "dlq.state"},
		"parks":        {func(c *config.Config) { c.Outbox.ParkKeys = true }, "--operation Read --operation Write --topic outbox.events.dlq.state", "outbox-outbox-tools"},
		"retries":      {func(c *config.Config) { c.Outbox.DLQRetry = true }, "--transactional-id outbox-outbox-tools", "Create"},
		"creates":      {func(c *config.Config) { c.Kafka.CreateTopics = true }, "--operation Create --topic outbox.events", "prefixed"},
		"template":     {func(c *config.Config) { c.Outbox.TopicTemplate = "shop.event.{type}" }, "--topic shop.event. --resource-pattern-type prefixed", "--topic outbox.events\n"},
		"all topics":   {func(c *config.Config) { c.Outbox.TopicTemplate = "{type}" }, "--topic '*'", "prefixed"},
		"another name": {func(c *config.Config) { c.Outbox.Name = "orders" }, "--transactional-id outbox-orders-0", "outbox-outbox"},
	} {
		got := lists(c.change)
		if !strings.Contains(got, c.has) || strings.Contains(got, c.hasNot) {
			t.Errorf("%s: want %q and not %q:\n%s", name, c.has, c.hasNot, got)
		}
	}
}

// Nothing is listed that something else implies, and nothing twice.
func TestNothingTwice(t *testing.T) {
	t.Parallel()
	for _, a := range rights.Of(config.Default()).Accesses() {
		seen := map[string]bool{}
		for _, acl := range a.ACLs {
			key := string(acl.Resource) + acl.Name
			if seen[key+acl.Operation] {
				t.Errorf("%s: %s on %s is there twice", a.Purpose, acl.Operation, acl.Name)
			}
			seen[key+acl.Operation] = true
			if acl.For == "" {
				t.Errorf("%s: %s on %s is for nothing", a.Purpose, acl.Operation, acl.Name)
			}
		}
		for _, acl := range a.ACLs {
			key := string(acl.Resource) + acl.Name
			if acl.Operation == "Describe" && (seen[key+"Read"] || seen[key+"Write"]) {
				t.Errorf("%s: Describe on %s is implied", a.Purpose, acl.Name)
			}
		}
	}
}
