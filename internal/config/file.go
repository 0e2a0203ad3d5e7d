package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

// maxFile is far above any file of settings, and low enough to refuse a
// database dump by its size.
const maxFile = 1 << 20

// entry is one value of a file.
type entry struct {
	text string
	line int
}

// file is what a configuration file says.
type file struct {
	name    string           // its base name, for messages
	entries map[string]entry // by the setting's key
	faults  []*fault.Error
}

func readFile(path string, settings []*setting) *file {
	f := &file{name: filepath.Base(path), entries: map[string]entry{}}
	data, err := readLimited(path)
	if err != nil {
		f.faults = append(f.faults, fault.Wrap(err, fault.ConfigFile, "read OUTBOX_CONFIG"))
		return f
	}
	f.parse(data, settings)
	return f
}

func readLimited(path string) ([]byte, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = errors.New("larger than 1 MiB")
	}
	return data, err
}

// parse reads one YAML document. Only mappings, lists of scalars and scalars
// are taken: anchors, tags and several documents would be ways to say one thing
// in many forms.
func (f *file) parse(data []byte, settings []*setting) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return // empty, or comments alone
	case err != nil:
		f.notYAML(err)
		return
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		f.add(fault.ConfigFile, 0, "holds more than one document", "only one is read", "keep one")
	}
	byKey := make(map[string]*setting, len(settings))
	for _, s := range settings {
		if s.env != "OUTBOX_CONFIG" { // a file cannot name itself
			byKey[s.key()] = s
		}
	}
	if len(doc.Content) == 1 {
		f.mapping("", doc.Content[0], byKey)
	}
}

// yamlLine finds the only part of the parser's message that is safe to show:
// the rest may quote the file, and with it a password that lacks its quotes.
var yamlLine = regexp.MustCompile(`line (\d+)`)

func (f *file) notYAML(err error) {
	line := 0
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		_, _ = fmt.Sscan(m[1], &line)
	}
	f.add(fault.ConfigFile, line, "is no YAML", "often a value lacks quotes: one that begins with @ * & ! % or a quote, or holds a colon and a space",
		"put the value in single quotes, and indent with spaces")
}

func (f *file) mapping(prefix string, n *yaml.Node, byKey map[string]*setting) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		f.add(fault.ConfigFile, n.Line, "has "+kind(n)+" where settings are expected", "settings are lines of name: value", "see outbox-relay config show for the names")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			f.add(fault.ConfigUnknown, k.Line, "has "+kind(k)+" as a key", "keys are names", "remove it")
			continue
		}
		key := normal(k.Value)
		if prefix != "" {
			key = prefix + "_" + key
		}
		s, known := byKey[key]
		_, isColumns := fieldOf(s).(*outbox.Columns)
		switch {
		case v.Kind == yaml.MappingNode && !isColumns && !(known && s.secret()):
			f.mapping(key, v, byKey)
		case !known:
			f.unknown(key, k.Line, byKey)
		default:
			f.value(s, k.Line, v)
		}
	}
}

func fieldOf(s *setting) any {
	if s == nil {
		return nil
	}
	return s.field.Addr().Interface()
}

func (f *file) value(s *setting, line int, v *yaml.Node) {
	text, ok := scalar(v)
	switch v.Kind {
	case yaml.SequenceNode:
		var parts []string
		ok = true
		for _, item := range v.Content {
			part, fine := scalar(item)
			ok = ok && fine
			parts = append(parts, part)
		}
		if _, isList := fieldOf(s).(*[]string); !isList {
			ok = false
		}
		text = strings.Join(parts, ",")
	case yaml.MappingNode:
		var parts []string
		// A secret in braces that lacks its quotes ends here, as no value.
		ok = !s.secret()
		for i := 0; i+1 < len(v.Content); i += 2 {
			left, fine := scalar(v.Content[i])
			right, good := scalar(v.Content[i+1])
			ok = ok && fine && good
			parts = append(parts, left+"="+right)
		}
		text = strings.Join(parts, ",")
	}
	if !ok {
		f.add(fault.ConfigInvalid, v.Line, s.key()+" is "+kind(v), "the setting has one plain value", "write "+s.key()+": value")
		return
	}
	if first, twice := f.entries[s.key()]; twice {
		f.add(fault.ConfigInvalid, line, fmt.Sprintf("%s is set a second time, after line %d", s.key(), first.line), "one of the two would be ignored", "remove one")
		return
	}
	f.entries[s.key()] = entry{text: text, line: line}
}

func scalar(n *yaml.Node) (string, bool) {
	if n.Kind != yaml.ScalarNode {
		return "", false
	}
	if n.Tag == "!!null" {
		return "", true
	}
	return n.Value, true
}

func (f *file) unknown(key string, line int, byKey map[string]*setting) {
	known := make([]string, 0, len(byKey))
	for k := range byKey {
		known = append(known, k)
	}
	bad := &fault.Error{Code: fault.ConfigUnknown, Detail: fmt.Sprintf("%s: %s is no setting", f.place(line), quoted(key))}
	if n := nearest(key, known); n != "" {
		bad = bad.WithFix("did you mean %s? Else remove it", n)
	}
	f.faults = append(f.faults, bad)
}

func (f *file) add(code *fault.Code, line int, what, why, fix string) {
	f.faults = append(f.faults, &fault.Error{Code: code, Detail: f.place(line) + ": " + what, Why: why, Fix: fix})
}

func (f *file) place(line int) string {
	if line == 0 {
		return f.name
	}
	return fmt.Sprintf("%s:%d", f.name, line)
}

// normal gives a key the form of settings' keys.
func normal(key string) string {
	return strings.NewReplacer("-", "_", ".", "_").Replace(strings.ToLower(strings.TrimSpace(key)))
}

func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	return "a single value"
}
