package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestParseVersion(t *testing.T) {
	tests := []struct {
		out, version string
		major        int
		ok           bool
	}{
		{"postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n", "15.13", 15, true},
		{"postgres (PostgreSQL) 9.6.24\n", "9.6.24", 9, true},
		{"postgres (PostgreSQL) 18beta1\n", "18beta1", 18, true},
		{"postgres (EnterpriseDB) \n", "", 0, false},
		{"", "", 0, false},
	}
	for _, test := range tests {
		version, major, ok := parseVersion(test.out)
		if version != test.version || major != test.major || ok != test.ok {
			t.Errorf("%q gives %q, %d, %t", test.out, version, major, ok)
		}
	}
}

func TestFindBinaries(t *testing.T) {
	root := t.TempDir()
	install := func(dir, version string, initdb bool) string {
		dir = filepath.Join(root, dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf("#!/bin/sh\necho 'postgres (PostgreSQL) %s'\n", version)
		if err := os.WriteFile(filepath.Join(dir, "postgres"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		if initdb {
			if err := os.WriteFile(filepath.Join(dir, "initdb"), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	old := install("old", "13.9", true)
	client := install("client", "17.1", false)
	path := install("path", "14.2", true)
	install("dist/15/bin", "15.1", true)
	newest := install("dist/18/bin", "18.0", true)
	cache := install("cache/postgres-17.5.0/bin", "17.5", true)
	linked := filepath.Join(root, "linked")
	if err := os.Mkdir(linked, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(path, "postgres"), filepath.Join(linked, "postgres")); err != nil {
		t.Fatal(err)
	}
	globs := []string{filepath.Join(root, "dist/*/bin")}
	tests := []struct {
		name, path string
		globs      []string
		cache      string
		want       string
	}{
		{"PATH goes first", path, globs, filepath.Join(root, "cache"), path},
		{"links are resolved", linked, nil, "", path},
		{"too old and incomplete are passed over", old + string(filepath.ListSeparator) + client, globs, "", newest},
		{"cache goes last", "", nil, filepath.Join(root, "cache"), cache},
		{"none", old, nil, root, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ok := findBinaries(context.Background(), test.path, test.globs, test.cache)
			want := test.want
			if want != "" { // the folder of tests may itself lie behind a link
				var err error
				if want, err = filepath.EvalSymlinks(want); err != nil {
					t.Fatal(err)
				}
			}
			if got.dir != want || ok != (want != "") {
				t.Errorf("got %q, want %q", got.dir, want)
			}
		})
	}
}
