package demo

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The first release whose pgoutput and slot behaviour the relay is built on.
const oldestPostgres = 14

// binaries is one installation of the Postgres server.
type binaries struct {
	dir     string // holds initdb and postgres
	version string // "15.13"
	major   int
}

// distributionFolders are where packages put server binaries without linking
// them into PATH.
func distributionFolders() []string {
	return []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/pgsql-*/bin",
		"/usr/libexec/postgresql*",
		"/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
		"/Library/PostgreSQL/*/bin",
	}
}

// findBinaries returns the server binaries to use: those in PATH, else the
// newest in the distributions' folders or in the demo's own cache. Installed
// ones go first, because they are what the user runs.
func findBinaries(ctx context.Context, path string, globs []string, cache string) (binaries, bool) {
	for _, dir := range filepath.SplitList(path) {
		if b, err := probe(ctx, dir); err == nil {
			return b, true
		}
	}
	for _, patterns := range [][]string{globs, {filepath.Join(cache, "postgres-*", "bin")}} {
		var found []binaries
		for _, pattern := range patterns {
			dirs, _ := filepath.Glob(pattern) // the patterns are constants
			for _, dir := range dirs {
				if b, err := probe(ctx, dir); err == nil {
					found = append(found, b)
				}
			}
		}
		if len(found) > 0 {
			return slices.MaxFunc(found, func(a, b binaries) int { return cmp.Compare(a.major, b.major) }), true
		}
	}
	return binaries{}, false
}

// probe asks a folder's postgres for its version. Links are resolved first:
// initdb looks for its companions beside the real file.
func probe(ctx context.Context, dir string) (binaries, error) {
	server, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return binaries{}, err
	}
	dir = filepath.Dir(server)
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return binaries{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, server, "--version").Output()
	if err != nil {
		return binaries{}, err
	}
	version, major, ok := parseVersion(string(out))
	if !ok || major < oldestPostgres {
		return binaries{}, fmt.Errorf("postgres in %s is %q, %d or newer is needed", dir, strings.TrimSpace(string(out)), oldestPostgres)
	}
	return binaries{dir: dir, version: version, major: major}, nil
}

// parseVersion reads "postgres (PostgreSQL) 15.13 (Debian ...)", also of betas
// and development builds ("18beta1", "19devel").
func parseVersion(s string) (version string, major int, ok bool) {
	m := regexp.MustCompile(`\(PostgreSQL\) ((\d+)[^\s]*)`).FindStringSubmatch(s)
	if m == nil {
		return "", 0, false
	}
	major, err := strconv.Atoi(m[2])
	return m[1], major, err == nil
}
