package config

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
)

// maxSecretFile bounds what is read as a secret: a path that names a log or a
// device by mistake must not fill memory.
const maxSecretFile = 64 << 10

// withFiles adds NAME_FILE to each secret NAME whose room does not bring one of
// its own. The values live in a struct made here, so that the command line gets
// its flags from tags as everywhere else.
func withFiles(settings []*setting) ([]*setting, any) {
	named := map[string]bool{}
	for _, s := range settings {
		named[s.name] = true
	}
	var fields []reflect.StructField
	var owners []*setting
	for _, s := range settings {
		if !s.secret() || named[s.name+"-file"] {
			continue
		}
		owners = append(owners, s)
		fields = append(fields, reflect.StructField{
			Name: fmt.Sprintf("File%d", len(fields)), Type: reflect.TypeFor[string](),
			Tag: reflect.StructTag(fmt.Sprintf(`name:"%s-file" group:"%s" placeholder:"FILE" help:"File that holds %s, read at start."`, s.name, s.group, s.env)),
		})
	}
	if len(fields) == 0 {
		return settings, nil
	}
	values := reflect.New(reflect.StructOf(fields))
	for i, f := range walkStruct(values.Elem(), "") {
		owners[i].file = f
	}
	all := make([]*setting, 0, len(settings)+len(fields))
	for _, s := range settings {
		all = append(all, s)
		if s.file != nil {
			all = append(all, s.file)
		}
	}
	return all, values.Interface()
}

// path is the file that a secret is to be read from, or nothing.
func (s *setting) path() string {
	if s.file == nil {
		return ""
	}
	return s.file.field.String()
}

// readSecrets fills the secrets that files were named for.
func (l *Loader) readSecrets() []*fault.Error {
	var faults []*fault.Error
	for _, s := range l.settings {
		if s.path() == "" {
			continue
		}
		if f := readSecret(s.env, s.path(), s.field.Addr().Interface().(*secret.Text)); f != nil {
			faults = append(faults, f)
			continue
		}
		s.origin, s.from = Derived, s.file.env
	}
	return faults
}

// readSecret fills a secret from its file.
func readSecret(name, path string, into *secret.Text) *fault.Error {
	if into.Set() {
		return fault.New(fault.ConfigInvalid, "%s and %s_FILE are both set", name, name).
			WithWhy("they may differ, and one of them would be ignored").WithFix("keep one")
	}
	bad := func(err error, why string) *fault.Error {
		f := fault.New(fault.ConfigInvalid, "%s_FILE", name)
		f.Err = err
		return f.WithWhy("%s", why).WithFix("name a readable file that holds the value alone")
	}
	in, err := os.Open(path)
	if err != nil {
		return bad(err, "the file cannot be opened")
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxSecretFile+1))
	text := strings.TrimSpace(string(data))
	switch {
	case err != nil:
		return bad(err, "the file cannot be read")
	case len(data) > maxSecretFile:
		return bad(nil, "the file is too long: a value of that size is none")
	case text == "":
		return bad(nil, "the file is empty: there is no value in it")
	}
	*into = secret.New(text)
	return nil
}
