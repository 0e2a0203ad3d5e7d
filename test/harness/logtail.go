package harness

import (
	"bytes"
	"fmt"
	"os"
)

// tail returns the last n lines of text.
func tail(text []byte, n int) []byte {
	text = bytes.TrimRight(text, "\n")
	at := len(text)
	for ; n > 0 && at >= 0; n-- {
		at = bytes.LastIndexByte(text[:at], '\n')
	}
	return text[at+1:]
}

// serverLog is the file that a server writes its output to. It is a file and
// no pipe so that nothing in the test binary has to read for the server to go
// on, and so that a child of the server that lingers holds nothing up.
type serverLog string

// open appends: a server that is started again tells one story.
func (l serverLog) open() (*os.File, error) {
	return os.OpenFile(string(l), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

// last returns the last n lines, or why there are none.
func (l serverLog) last(n int) string {
	text, err := os.ReadFile(string(l))
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	return string(tail(text, n))
}
