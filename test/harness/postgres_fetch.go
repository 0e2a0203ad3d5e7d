package harness

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/xi2/xz"
)

// postgresReleases are the releases that are fetched, by major version.
var postgresReleases = map[int]string{17: "17.5.0", 18: "18.0.0"}

// postgresOf returns the folder with the programs of a major version: the
// distribution's, or else what Maven has under the name of embedded-postgres,
// which is initdb, pg_ctl and postgres alone.
func postgresOf(ctx context.Context, as account, major int) (string, error) {
	if dir := filepath.Join("/usr/lib/postgresql", strconv.Itoa(major), "bin"); usablePostgres(ctx, dir) == nil {
		return dir, nil
	}
	release := postgresReleases[major]
	if release == "" {
		return "", fmt.Errorf("no release of postgres %d is known here", major)
	}
	// Root's own folders are closed to the user that Postgres runs as.
	cache := cacheDir()
	if as.switched && !passable(cache) {
		cache = "/var/cache/outbox-relay"
	}
	home := filepath.Join(cache, "test-postgres-"+release)
	bin := filepath.Join(home, "bin")
	if usablePostgres(ctx, bin) == nil {
		return bin, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, home+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if usablePostgres(ctx, bin) == nil {
		return bin, nil // another process did it while this one waited
	}
	staging, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(staging)
	if err := fetchPostgres(ctx, release, staging); err != nil {
		return "", &MissingError{What: "postgres " + strconv.Itoa(major), Err: err}
	}
	if err := os.Chmod(staging, 0o755); err != nil {
		return "", err
	}
	if err := errors.Join(os.RemoveAll(home), os.Rename(staging, home)); err != nil {
		return "", err
	}
	return bin, usablePostgres(ctx, bin)
}

// fetchPostgres has Maven bring one release and unpacks it into dir.
func fetchPostgres(ctx context.Context, release, dir string) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return err
	}
	arch := runtime.GOARCH
	if arch == "arm64" {
		arch = "arm64v8"
	}
	jars := filepath.Join(dir, "jars")
	artifact := fmt.Sprintf("io.zonky.test.postgres:embedded-postgres-binaries-%s-%s:%s:jar", runtime.GOOS, arch, release)
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "dependency:copy", "-Dartifact="+artifact, "-DoutputDirectory="+jars)
	cmd.Dir = dir // where no other pom is
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s with maven: %w: %s", artifact, err, tail(out, 10))
	}
	found, err := filepath.Glob(filepath.Join(jars, "*.jar"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("maven copied %v: %w", found, err)
	}
	jar, err := zip.OpenReader(found[0])
	if err != nil {
		return err
	}
	defer jar.Close()
	for _, f := range jar.File {
		if !strings.HasSuffix(f.Name, ".txz") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		defer r.Close()
		return errors.Join(unpack(r, dir), os.RemoveAll(jars))
	}
	return fmt.Errorf("%s holds no .txz", found[0])
}

// unpack writes a compressed tar archive into dir.
func unpack(r io.Reader, dir string) error {
	plain, err := xz.NewReader(r, 0)
	if err != nil {
		return err
	}
	for archive := tar.NewReader(plain); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("unpack: %q leads out of the folder", h.Name)
		}
		to := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeReg:
			err = writeFile(to, archive, os.FileMode(h.Mode).Perm())
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, to)
		}
		if err != nil {
			return err
		}
	}
}

func writeFile(to string, from io.Reader, mode os.FileMode) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}
