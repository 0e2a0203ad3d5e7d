package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// minPostgres is the oldest version the product supports.
const minPostgres = 14

var postgresVersion = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// findPostgres returns the folder with initdb and postgres: the one that the
// environment names, else the one of the pg_ctl in PATH, else the newest of
// the distribution's. A major version that is asked for is fetched where it is
// not installed.
func findPostgres(ctx context.Context, as account, major int) (string, error) {
	if major != 0 {
		return postgresOf(ctx, as, major)
	}
	if dir := os.Getenv("OUTBOX_TEST_PG_BIN"); dir != "" {
		if err := usablePostgres(ctx, dir); err != nil {
			// Named on purpose, so another one in its place would be a lie.
			return "", fmt.Errorf("OUTBOX_TEST_PG_BIN: %w", err)
		}
		return dir, nil
	}
	var dirs []string
	if path, err := exec.LookPath("pg_ctl"); err == nil {
		// Distributions put links into PATH; the siblings are at the target.
		if target, err := filepath.EvalSymlinks(path); err == nil {
			path = target
		}
		dirs = append(dirs, filepath.Dir(path))
	}
	debian, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	slices.SortFunc(debian, func(a, b string) int { return debianVersion(b) - debianVersion(a) })
	dirs = append(dirs, debian...)

	var tried []error
	for _, dir := range dirs {
		err := usablePostgres(ctx, dir)
		if err == nil {
			return dir, nil
		}
		tried = append(tried, err)
	}
	if len(tried) == 0 {
		tried = append(tried, errors.New("no pg_ctl in PATH and nothing in /usr/lib/postgresql"))
	}
	return "", &MissingError{What: "postgres", Err: errors.Join(tried...)}
}

// debianVersion reads 15 from /usr/lib/postgresql/15/bin. Compared as text, 9
// would be newer than 15.
func debianVersion(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
	return n
}

func usablePostgres(ctx context.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w", dir, err)
	}
	found := postgresVersion.FindSubmatch(out)
	if found == nil {
		return fmt.Errorf("ask %s for its version: it says %q", dir, out)
	}
	if major, _ := strconv.Atoi(string(found[1])); major < minPostgres {
		return fmt.Errorf("%s is version %d, older than %d", dir, major, minPostgres)
	}
	return nil
}
