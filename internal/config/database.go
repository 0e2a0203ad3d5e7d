package config

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
)

// maxSecretFile bounds what is read as a secret: a path that names a log or a
// device by mistake must not fill memory.
const maxSecretFile = 64 << 10

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

// readSecret fills a secret from its file.
func readSecret(name, path string, into *secret.Text) *fault.Error {
	if path == "" {
		return nil
	}
	if into.Set() {
		return fault.New(fault.ConfigInvalid, "%s and %s_FILE are both set", name, name).
			WithWhy("they may differ, and one of them would be ignored").WithFix("keep one")
	}
	bad := func(err error, why string) *fault.Error {
		return fault.Wrap(err, fault.ConfigInvalid, "%s_FILE", name).WithWhy("%s", why).WithFix("name a readable file that holds the value alone")
	}
	f, err := os.Open(path)
	if err != nil {
		return bad(err, "the file cannot be opened")
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	text := strings.TrimSpace(string(data))
	switch {
	case err != nil:
		return bad(err, "the file cannot be read")
	case len(data) > maxSecretFile:
		return bad(errors.New("the file is too long"), "a value of that size is none")
	case text == "":
		return bad(errors.New("the file is empty"), "there is no value in it")
	}
	*into = secret.New(text)
	return nil
}
