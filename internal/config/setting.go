package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/secret"
	"github.com/holdwall/outbox-relay/outbox"
)

// Origin is where a value came from.
type Origin string

// The origins, from strong to weak. Derived values follow from other settings.
const (
	FromFlag    Origin = "flag"
	FromEnv     Origin = "env"
	FromFile    Origin = "file"
	FromDefault Origin = "default"
	Derived     Origin = "derived"
)

// setting is one leaf of the tree.
type setting struct {
	name  string // kafka-brokers
	env   string // KAFKA_BROKERS
	also  []string
	group string
	help  string
	def   string
	oneOf []string
	field reflect.Value
	argv  bool     // a value may stand on the command line
	file  *setting // of a secret: names a file that holds it; nil: its room reads one itself

	origin Origin
	from   string // what exactly: a variable, file:line, the reason of a derivation
	bad    *badValue
}

// badValue is a text that could not be read.
type badValue struct {
	text string
	err  error
}

// walk returns the settings of a tree in the order of its fields, each secret
// followed by the setting that names a file of it. The second result holds the
// values of those, as a pointer to a struct; nil: there are none.
func walk(c *Config) ([]*setting, any) {
	return withFiles(walkStruct(reflect.ValueOf(c).Elem(), ""))
}

// settingsOf is walk for those that need no values of files.
func settingsOf(c *Config) []*setting {
	all, _ := walk(c)
	return all
}

func walkStruct(v reflect.Value, group string) []*setting {
	var all []*setting
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		g := group
		if t := tag.Get("group"); t != "" {
			g = t
		}
		name, named := tag.Lookup("name")
		if !named {
			if _, inner := tag.Lookup("embed"); inner {
				all = append(all, walkStruct(v.Field(i), g)...)
			}
			continue
		}
		s := &setting{
			name: name, env: strings.ToUpper(strings.ReplaceAll(name, "-", "_")), group: g,
			help: tag.Get("help"), def: tag.Get("default"), field: v.Field(i), origin: FromDefault,
		}
		// Every user of a host can read the command lines of its processes. A
		// URL is more than its password, so it may stand there.
		s.argv = !s.secret() || tag.Get("argv") == "allowed"
		if t := tag.Get("also"); t != "" {
			s.also = strings.Split(t, ",")
		}
		if t := tag.Get("oneof"); t != "" {
			s.oneOf = strings.Split(t, ",")
		}
		all = append(all, s)
	}
	return all
}

// key is the setting's name in a file.
func (s *setting) key() string { return strings.ToLower(s.env) }

func (s *setting) vars() []string { return append([]string{s.env}, s.also...) }

// flag is how the setting is given on a command line, or nothing.
func (s *setting) flag() string {
	if !s.argv {
		return ""
	}
	return "--" + s.name
}

func (s *setting) secret() bool { return s.field.Type() == reflect.TypeFor[secret.Text]() }

// isBool tells whether the flag may stand without a value.
func (s *setting) isBool() bool {
	return s.field.Kind() == reflect.Bool || s.field.Type() == reflect.TypeFor[kafka.Switch]()
}

// parse reads a text into the field.
func (s *setting) parse(text string) error { return parseInto(s.field, text, s.oneOf) }

func parseInto(field reflect.Value, text string, oneOf []string) error {
	raw, text := text, strings.TrimSpace(text)
	switch p := field.Addr().Interface().(type) {
	case *string:
		if len(oneOf) > 0 {
			text = strings.ToLower(text)
			if !slices.Contains(oneOf, text) {
				return fmt.Errorf("it is one of %s%s", strings.Join(oneOf, ", "), didYouMean(text, oneOf))
			}
		}
		*p = text
	case *[]string:
		*p = strings.Split(text, ",")
		for i := range *p {
			(*p)[i] = strings.TrimSpace((*p)[i])
		}
	case *bool:
		switch strings.ToLower(text) {
		case "true", "1", "yes", "on":
			*p = true
		case "false", "0", "no", "off":
			*p = false
		default:
			return errors.New("it is true or false")
		}
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return errors.New("it is a whole number")
		}
		*p = n
	case *time.Duration:
		if n, err := strconv.ParseInt(text, 10, 32); err == nil {
			*p = time.Duration(n) * time.Millisecond
			return nil
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			return errors.New("a duration is a number of milliseconds, or a number with a unit: 10000, 10s, 1m30s")
		}
		*p = d
	case *secret.Text:
		*p = secret.New(raw) // a space may be part of it
	case *outbox.Columns:
		c, err := outbox.ParseColumns(text)
		if err != nil {
			return err
		}
		*p = c
	case *outbox.Table:
		t, err := outbox.ParseTable(text)
		if err != nil {
			return err
		}
		*p = t
	case encoding.TextUnmarshaler:
		return p.UnmarshalText([]byte(text))
	default:
		return fmt.Errorf("settings of type %s are not known", field.Type())
	}
	return nil
}

// value is the setting as a person would write it. Secrets are a token.
func (s *setting) value() string {
	if s.bad != nil {
		return s.bad.text
	}
	switch v := s.field.Interface().(type) {
	case []string:
		return strings.Join(v, ",")
	case outbox.Columns:
		return v.String()
	default:
		return fmt.Sprint(v)
	}
}

// same tells whether two texts mean the same value.
func (s *setting) same(a, b string) bool {
	x, y := reflect.New(s.field.Type()).Elem(), reflect.New(s.field.Type()).Elem()
	if parseInto(x, a, s.oneOf) != nil || parseInto(y, b, s.oneOf) != nil {
		return strings.TrimSpace(a) == strings.TrimSpace(b)
	}
	return reflect.DeepEqual(x.Interface(), y.Interface())
}
