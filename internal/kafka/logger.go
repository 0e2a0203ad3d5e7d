package kafka

import (
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
)

// repeatEvery is how often a line that keeps coming is written again.
const repeatEvery = 30 * time.Second

// logger hands the client's lines to zerolog. A cluster that is away makes the
// client say the same sentence many times a second: the first is written, the
// following ones are counted, and the count goes out with the next line or
// after repeatEvery.
type logger struct {
	log zerolog.Logger
	now func() time.Time

	mu       sync.Mutex
	last     string
	lastAt   time.Time
	repeated int
}

func newLogger(log zerolog.Logger) *logger { return &logger{log: log, now: time.Now} }

// Level implements kgo.Logger. Info of the client is debug of ours: it tells
// of each metadata update and each connection.
func (l *logger) Level() kgo.LogLevel {
	switch lv := l.log.GetLevel(); {
	case lv <= zerolog.TraceLevel:
		return kgo.LogLevelDebug
	case lv == zerolog.DebugLevel:
		return kgo.LogLevelInfo
	case lv == zerolog.InfoLevel, lv == zerolog.WarnLevel:
		return kgo.LogLevelWarn
	case lv == zerolog.ErrorLevel, lv == zerolog.FatalLevel, lv == zerolog.PanicLevel:
		return kgo.LogLevelError
	}
	return kgo.LogLevelNone
}

// Log implements kgo.Logger.
func (l *logger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	event, known := l.event(level)
	if !known || !event.Enabled() {
		return
	}
	// Two lines are the same if level, sentence and error are; addresses and
	// attempt numbers may differ.
	same := fmt.Sprint(level, msg, errorOf(keyvals))
	now := l.now()

	l.mu.Lock()
	if same == l.last && now.Sub(l.lastAt) < repeatEvery {
		l.repeated++
		l.mu.Unlock()
		event.Discard().Send()
		return
	}
	// A count that is still open belongs to the last line, unless that is the
	// line at hand, which then carries it.
	last, repeated := l.last, l.repeated
	l.last, l.lastAt, l.repeated = same, now, 0
	l.mu.Unlock()

	if repeated > 0 {
		if last == same {
			event = event.Int("repeated", repeated)
		} else {
			l.log.Warn().Int("repeated", repeated).Msg("the kafka client repeated its last line")
		}
	}
	for i := 0; i+1 < len(keyvals); i += 2 {
		key := fmt.Sprint(keyvals[i])
		switch v := keyvals[i+1].(type) {
		case nil:
		case error:
			event = event.AnErr(fieldName(key), v)
		case time.Duration:
			event = event.Float64(fieldName(key)+"_seconds", v.Seconds())
		default:
			event = event.Interface(fieldName(key), v)
		}
	}
	event.Msg(msg)
}

func (l *logger) event(level kgo.LogLevel) (*zerolog.Event, bool) {
	switch level {
	case kgo.LogLevelError:
		return l.log.Error(), true
	case kgo.LogLevelWarn:
		return l.log.Warn(), true
	case kgo.LogLevelInfo:
		return l.log.Debug(), true
	case kgo.LogLevelDebug:
		return l.log.Trace(), true
	}
	return nil, false
}

// fieldName keeps the client's keys apart from the fields every line has.
func fieldName(key string) string {
	switch key {
	case "err":
		return "error"
	case "level", "time", "msg", "component", "role":
		return "client_" + key
	}
	return key
}

func errorOf(keyvals []any) error {
	for _, v := range keyvals {
		if err, ok := v.(error); ok {
			return err
		}
	}
	return nil
}
