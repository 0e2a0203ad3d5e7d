package pipeline

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// Lines are cut and counted, and all of the output is read.
func TestStderrIsBounded(t *testing.T) {
	t.Parallel()
	r := newRecord()
	from := strings.NewReader("first\r\n\n" + strings.Repeat("x", 1<<20) + "\n" + strings.Repeat("more\n", 1000) + "no break at the end")
	logLines(from, zerolog.New(r))
	said, left := 0, 0.0
	for _, line := range r.lines {
		switch text := fmt.Sprint(line["line"]); {
		case line["lines"] != nil:
			left += line["lines"].(float64)
		case text == "first", text == "more", text == "no break at the end":
			said++
		case len(text) == maxLogLine && line["cut"] == true:
			said++
		default:
			t.Errorf("%v", line)
		}
	}
	if said != maxLogRate || said+int(left) != 1003 {
		t.Errorf("%d lines and %v left out", said, left)
	}
	if from.Len() != 0 {
		t.Errorf("%d bytes were not read", from.Len())
	}
}
