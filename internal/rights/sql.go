package rights

import (
	"fmt"
	"io"
	"strings"

	"github.com/holdwall/outbox-relay/outbox"
)

// Role is a role of Postgres and what it is given.
type Role struct {
	Purpose Purpose
	Name    string
	About   string
	Login   bool
	Grants  []Grant
}

// Grant is one right, the statement that takes it away again, and what it is for.
type Grant struct {
	SQL, Undo, For string
	// AfterInit: what it is granted on is created by init.
	AfterInit bool
}

// Roles returns the roles, in the order in which they are made.
func (s Setup) Roles() []Role {
	on := func(right, object, role, reason string, after bool) Grant {
		return Grant{
			SQL: fmt.Sprintf("GRANT %s ON %s TO %s", right, object, quoted(role)), Undo: fmt.Sprintf("REVOKE %s ON %s FROM %s", right, object, quoted(role)),
			For: reason, AfterInit: after,
		}
	}
	connect := func(role string) Grant {
		return on("CONNECT", "DATABASE "+quoted(s.Database), role, "to connect, where PUBLIC may not", false)
	}
	replication := func(role, reason string) Grant {
		return Grant{
			SQL: "ALTER ROLE " + quoted(role) + " REPLICATION", Undo: "ALTER ROLE " + quoted(role) + " NOREPLICATION", For: reason,
		}
	}
	schema, table := "SCHEMA "+quoted(s.Table.Schema), s.Table.SQL()
	return []Role{
		{Init, s.Admin, "runs init, and owns table and publication; not needed afterwards", true, []Grant{
			replication(s.Admin, "to create the slot"),
			connect(s.Admin),
			on("CREATE", "DATABASE "+quoted(s.Database), s.Admin, "to create schema and publication", false),
		}},
		{Relay, s.Relay, "runs serve; needs no right on the outbox table", true, append([]Grant{
			replication(s.Relay, "to stream from the slot"),
			connect(s.Relay),
		}, s.surface()...)},
		{Writer, WriterRole, "writes events; grant it to the services that do", false, []Grant{
			connect(WriterRole),
			on("USAGE", schema, WriterRole, "to name the table", true),
			on("INSERT", table, WriterRole, "to write rows; they are never read or changed", true),
		}},
		{Operator, OperatorRole, "runs verify --data and dlq replay --from-table", true, []Grant{
			connect(OperatorRole),
			on("USAGE", schema, OperatorRole, "to name the table", true),
			on("SELECT", table, OperatorRole, "to compare rows with records", true),
		}},
		{Monitor, MonitorRole, "runs slot inspect and looks at the views", true, []Grant{
			connect(MonitorRole),
			on("USAGE", "SCHEMA outbox", MonitorRole, "to name the views", true),
			on("SELECT", "outbox.relay_status, outbox.relay_slots", MonitorRole, "to look at the relay in psql", true),
			{
				SQL: "GRANT pg_read_all_stats TO " + quoted(MonitorRole), Undo: "REVOKE pg_read_all_stats FROM " + quoted(MonitorRole),
				For: "to see who holds the slot, from where and since when, and how old transactions are",
			},
		}},
	}
}

// surface is what the relay needs to fill what people see of it in psql. init
// grants it by itself; that is a reason to print it, not to leave it out.
func (s Setup) surface() []Grant {
	var all []Grant
	for _, sql := range outbox.SurfaceGrants(s.Relay) {
		g := Grant{SQL: sql, Undo: strings.Replace(strings.Replace(sql, "GRANT ", "REVOKE ", 1), " TO ", " FROM ", 1), AfterInit: true}
		switch {
		case strings.Contains(sql, "SCHEMA"):
			g.For = "to name what follows"
		case strings.Contains(sql, "relay_state"):
			g.For = "to say what it does; init grants it"
		case strings.Contains(sql, "relay_pause"):
			g.For = "to see that it is paused; init grants it"
		case strings.Contains(sql, "FUNCTION"):
			g.For = "for outbox-relay pause and resume; init grants it"
		case strings.Contains(sql, "canary"):
			if !s.Canary {
				continue
			}
			g.For = "OUTBOX_CANARY; init grants it"
		}
		all = append(all, g)
	}
	return all
}

// Create is the statement that makes the role, without any right.
func (r Role) Create() string {
	if r.Login {
		return "CREATE ROLE " + quoted(r.Name) + " LOGIN"
	}
	return "CREATE ROLE " + quoted(r.Name)
}

// WriteSQL prints the roles as a script for psql, what needs init at the end.
func (s Setup) WriteSQL(w io.Writer) error {
	var b strings.Builder
	roles := s.Roles()
	for i, r := range roles {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "-- %s: %s\n%s;\n", r.Purpose, r.About, r.Create())
		if r.Login {
			fmt.Fprintf(&b, "\\password %s\n", quoted(r.Name))
		}
		for _, g := range r.Grants {
			if !g.AfterInit {
				fmt.Fprintf(&b, "%s; -- %s\n", g.SQL, g.For)
			}
		}
	}
	fmt.Fprintf(&b, "\n-- after outbox-relay init, as %s\n", s.Admin)
	for _, r := range roles {
		for _, g := range r.Grants {
			if g.AfterInit {
				fmt.Fprintf(&b, "%s; -- %s\n", g.SQL, g.For)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
