package rights

import (
	"fmt"
	"io"
	"strings"
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
		{Relay, s.Relay, "runs serve; needs no right on the outbox table", true, []Grant{
			replication(s.Relay, "to stream from the slot"),
			connect(s.Relay),
		}},
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
		{Monitor, MonitorRole, "runs slot inspect and status", true, []Grant{
			connect(MonitorRole),
			{
				SQL: "GRANT pg_read_all_stats TO " + quoted(MonitorRole), Undo: "REVOKE pg_read_all_stats FROM " + quoted(MonitorRole),
				For: "to see who holds the slot, from where and since when, and how old transactions are",
			},
		}},
	}
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
