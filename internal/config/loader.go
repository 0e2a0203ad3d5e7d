package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Loader fills one Config. It is used once: Options go into the parser of the
// command line, and when that has run, Load judges what was found.
type Loader struct {
	cfg      Config
	settings []*setting
	files    any // values of the settings that name files of secrets
	byName   map[string]*setting
	environ  map[string]string

	file       *file // nil: none was named
	started    bool  // flags have been marked and the file has been read
	faults     []*fault.Error
	warnings   []Warning
	conflicted map[*setting]bool
}

// NewLoader returns a loader for an environment as os.Environ gives it.
func NewLoader(environ []string) *Loader {
	l := &Loader{environ: map[string]string{}, byName: map[string]*setting{}, conflicted: map[*setting]bool{}}
	for _, kv := range environ {
		// An empty variable counts as unset: compose files and charts have no
		// other way to leave one out.
		if k, v, _ := strings.Cut(kv, "="); v != "" {
			l.environ[k] = v
		}
	}
	l.settings, l.files = walk(&l.cfg)
	for _, s := range l.settings {
		l.byName[s.name] = s
	}
	return l
}

// Options adds the settings to a command line: flags on the root, and values
// from environment and file for flags that are not given. The library itself
// never looks at the environment, so that there is one place for precedence.
func (l *Loader) Options() []kong.Option {
	opts := []kong.Option{
		kong.Embed(&l.cfg),
		kong.Resolvers(kong.ResolverFunc(l.resolve)),
		kong.ValueFormatter(l.help),
	}
	if l.files != nil {
		opts = append(opts, kong.Embed(l.files))
	}
	for _, s := range l.settings {
		var m kong.Mapper = mapper{s}
		if s.isBool() {
			m = boolMapper{mapper{s}}
		}
		opts = append(opts, kong.ValueMapper(s.field.Addr().Interface(), m))
	}
	return opts
}

// IsSetting tells whether a flag is one of the settings, for the help, and
// whether a value for it may stand on a command line.
func (l *Loader) IsSetting(flag string) (is, argv bool) {
	s := l.byName[flag]
	return s != nil, s != nil && s.argv
}

func (l *Loader) help(v *kong.Value) string {
	s := l.byName[v.Name]
	if s == nil {
		return kong.DefaultHelpValueFormatter(v)
	}
	return strings.TrimSuffix(v.Help, ".") + " ($" + strings.Join(s.vars(), ", $") + ")."
}

// mapper reads a value for one setting. A value that cannot be read is kept
// for the report, so that the first is not the only one that is told.
type mapper struct{ s *setting }

func (m mapper) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("value", &text); err != nil {
		return err
	}
	return m.take(text, target)
}

func (m mapper) take(text string, target reflect.Value) error {
	// This is called for the command line before it is called for the default,
	// so a later success takes nothing back.
	if err := parseInto(target, text, m.s.oneOf); err != nil {
		m.s.bad = &badValue{text: text, err: err}
	}
	return nil
}

// boolMapper is a mapper whose flag may stand alone.
type boolMapper struct{ mapper }

func (m boolMapper) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		return m.take("true", target)
	}
	return m.mapper.Decode(ctx, target)
}

// IsBool implements kong.BoolMapper.
func (boolMapper) IsBool() bool { return true }

// resolve answers for flags that were not given: environment, then file.
func (l *Loader) resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	s := l.byName[flag.Name]
	if s == nil {
		return nil, nil
	}
	l.start(ctx)
	if text, ok := l.fromEnv(s); ok {
		return text, nil
	}
	if l.file == nil || s.env == "OUTBOX_CONFIG" {
		return nil, nil
	}
	if e, ok := l.file.entries[s.key()]; ok && e.text != "" {
		s.origin, s.from = FromFile, l.file.name+":"+strconv.Itoa(e.line)
		return e.text, nil
	}
	return nil, nil
}

// start marks what came by flag and reads the file, whose name may be a flag
// or a variable.
func (l *Loader) start(ctx *kong.Context) {
	if l.started {
		return
	}
	l.started = true
	path := l.environ["OUTBOX_CONFIG"]
	for _, p := range ctx.Path {
		if p.Flag == nil || p.Resolved {
			continue
		}
		if s := l.byName[p.Flag.Name]; s != nil {
			s.origin, s.from = FromFlag, "--"+s.name
			if s.env == "OUTBOX_CONFIG" {
				path, _ = ctx.FlagValue(p.Flag).(string)
			}
		}
	}
	if path != "" {
		l.file = readFile(path, l.settings)
	}
}

// fromEnv looks a setting up under all of its names.
func (l *Loader) fromEnv(s *setting) (string, bool) {
	var name, text string
	for _, v := range s.vars() {
		t, set := l.environ[v]
		switch {
		case !set:
		case name == "":
			name, text = v, t
		case !s.same(text, t) && !l.conflicted[s]:
			l.conflicted[s] = true
			l.faults = append(l.faults, fault.New(fault.ConfigInvalid, "%s and %s are both set, and differ", name, v).
				WithWhy("they are two names of one setting").WithFix("keep %s", s.env))
		}
	}
	if name == "" {
		return "", false
	}
	s.origin, s.from = FromEnv, name
	return text, true
}

// Load judges everything and returns the settings. The error is Problems.
func (l *Loader) Load(needs ...Need) (Config, error) {
	faults := slices.Clone(l.faults)
	if l.file != nil {
		faults = append(faults, l.file.faults...)
	}
	for _, s := range l.settings {
		if s.bad != nil {
			faults = append(faults, s.fault())
		}
	}
	faults = append(faults, l.sound(l.judge(needs))...)
	l.warn()
	if len(faults) > 0 {
		return l.cfg, Problems(faults)
	}
	return l.cfg, nil
}

// Warnings returns what Load found odd.
func (l *Loader) Warnings() []Warning { return l.warnings }

// fault says what is wrong with a value that could not be read.
func (s *setting) fault() *fault.Error {
	name := s.env
	if s.origin == FromEnv {
		name = s.from // it may be the other name
	}
	detail := name + " is " + quoted(s.bad.text)
	if s.secret() {
		detail = name + " cannot be read"
	}
	if s.origin == FromFlag || s.origin == FromFile {
		detail += " (" + s.from + ")"
	}
	f := fault.New(fault.ConfigInvalid, "%s", detail).WithWhy("%s", s.bad.err)
	if s.def != "" {
		f = f.WithFix("%s=%s is the default", s.env, s.def)
	}
	return f
}

// quoted makes a value fit for a message.
func quoted(text string) string {
	if len(text) > 80 {
		text = text[:80] + "..."
	}
	return fmt.Sprintf("%+q", text)
}
