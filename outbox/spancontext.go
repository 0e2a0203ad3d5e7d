package outbox

import (
	"strconv"
	"strings"
)

// spanContext reads a trace context from the text of Java properties, which is how
// Debezium's outbox keeps one: a line for each header of the context, among them
// traceparent and tracestate where the writer uses W3C. What it cannot read is no
// context; a trace is never a reason to refuse an event.
func spanContext(text string) (parent, state string) {
	// Usually nothing in it is escaped, and lines do not go on in the next one.
	for line := range strings.Lines(text) {
		line = strings.TrimLeft(line, " \t\f")
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		end := 0
		for end < len(line) && !strings.ContainsRune("=: \t\f", rune(line[end])) {
			if line[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(line) {
			continue
		}
		value := strings.TrimLeft(line[end:], " \t\f")
		if value != "" && (value[0] == '=' || value[0] == ':') {
			value = strings.TrimLeft(value[1:], " \t\f")
		}
		switch strings.ToLower(line[:end]) {
		case "traceparent":
			parent = unescape(value)
		case "tracestate":
			state = unescape(value)
		}
	}
	if !validParent(parent) {
		return "", ""
	}
	return parent, state
}

// unescape undoes what java.util.Properties does to values.
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch c := s[i]; c {
		case 't':
			b.WriteByte('\t')
		case 'n', 'r', 'f': // no header holds one
		case 'u':
			if i+4 < len(s) {
				if n, err := strconv.ParseUint(s[i+1:i+5], 16, 16); err == nil {
					b.WriteRune(rune(n))
					i += 4
				}
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// validParent tells whether a text has the form of a W3C traceparent, as the table's
// own column demands it.
func validParent(s string) bool {
	if len(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; i != 2 && i != 35 && i != 52 && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
