package doctor

import (
	"fmt"
	"strings"
)

// titles of the groups, and what each is about.
var titles = map[Group][2]string{
	Settings:    {"Config", "The settings, without asking anybody."},
	Postgres:    {"Postgres", "The server, as the role in `DATABASE_URL` sees it."},
	Slot:        {"Slot", "The replication slot, and whether it and the checkpoint in Kafka belong together."},
	Publication: {"Publication", "The outbox table and its publication."},
	Kafka:       {"Kafka", "Brokers, topics and settings."},
	Rights:      {"Rights", "What the roles and principals may do: what is missing, and what is too much."},
	Host:        {"Host", "The machine or container that doctor runs on."},
}

// Page is the table of all checks, in Markdown. Codes link to errors.md.
func Page() string {
	var b strings.Builder
	for _, g := range Groups() {
		var rows strings.Builder
		for _, c := range checks() {
			if c.group != g {
				continue
			}
			links := make([]string, len(c.codes))
			for i, code := range c.codes {
				links[i] = fmt.Sprintf("[%s](errors.md#%s)", strings.TrimPrefix(code.ID, "OBX-"), strings.ToLower(code.ID))
			}
			fmt.Fprintf(&rows, "| `%s` | %s | %s |\n", c.name, c.about, strings.Join(links, ", "))
		}
		if rows.Len() > 0 {
			fmt.Fprintf(&b, "\n### %s\n\n%s\n\n| check | passes if | codes |\n|---|---|---|\n%s", titles[g][0], titles[g][1], rows.String())
		}
	}
	return b.String()
}
