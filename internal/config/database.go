package config

import (
	"errors"
	"io/fs"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
)

// Conn returns how to connect to the database.
func (d Database) Conn() (*pgconn.Config, error) { return parseURL("DATABASE_URL", d.URL) }

// AdminConn returns how init connects: with the stronger credentials if there
// are any.
func (d Database) AdminConn() (*pgconn.Config, error) {
	if !d.AdminURL.Set() {
		return d.Conn()
	}
	return parseURL("OUTBOX_ADMIN_URL", d.AdminURL)
}

// parseURL reads a URL or keyword string; pgx adds what the PG* variables and
// password files say. What the driver says of a text that it cannot read is
// withheld: it quotes the text, and where the password in it ends is just what
// could not be read.
func parseURL(name string, url secret.Text) (*pgconn.Config, error) {
	bad := fault.New(fault.DatabaseURL, "%s cannot be read", name).
		WithFix("%s=postgres://user@host:5432/database; in a URL write @ : / # %% of a password as %%40 %%3A %%2F %%23 %%25", name)
	cfg, err := pgconn.ParseConfig(url.Reveal())
	if err != nil {
		if file := (*fs.PathError)(nil); errors.As(err, &file) {
			return nil, bad.WithWhy("a file that it names cannot be opened: %s", file).WithFix("check the sslcert, sslkey, sslrootcert and passfile settings")
		}
		return nil, bad.WithWhy("it is neither a Postgres URL nor a keyword string")
	}
	for _, host := range hosts(cfg) {
		if strings.ContainsAny(host, "@?#") {
			return nil, bad.WithWhy("a host name in it has one of @ ? #, so a part of the password was taken for a host")
		}
	}
	return cfg, nil
}

func hosts(cfg *pgconn.Config) []string {
	all := []string{net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))}
	for _, f := range cfg.Fallbacks {
		// TLS and plaintext tries of one host follow each other.
		if h := net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port))); h != all[len(all)-1] {
			all = append(all, h)
		}
	}
	return all
}

// shownURL rebuilds a URL from what was understood, so that no part of the
// text itself is ever shown.
func shownURL(cfg *pgconn.Config) string {
	user := cfg.User
	if cfg.Password != "" {
		user += ":" + secret.Token
	}
	return "postgres://" + user + "@" + strings.Join(hosts(cfg), ",") + "/" + cfg.Database
}
