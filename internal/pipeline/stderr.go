package pipeline

import (
	"bufio"
	"errors"
	"io"
	"time"

	"github.com/rs/zerolog"
)

const (
	maxLogLine = 2 << 10 // bytes of one line that are logged
	maxLogRate = 50      // lines per second that are logged
)

// logLines logs what a child says on its standard error, line by line. It
// reads on whatever comes, so that a child never waits for the log.
func logLines(from io.Reader, log zerolog.Logger) {
	in := bufio.NewReaderSize(from, maxLogLine)
	var second time.Time
	lines, dropped := 0, 0
	for {
		text, err := in.ReadSlice('\n')
		line := string(text)
		cut := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n') // the rest of a long line
		}
		if now := time.Now(); now.Sub(second) >= time.Second {
			second, lines = now, 0
			if dropped > 0 {
				log.Warn().Int("lines", dropped).Msg("child said too much: lines left out")
				dropped = 0
			}
		}
		if line = trimBreak(line); line != "" {
			if lines++; lines > maxLogRate {
				dropped++
			} else {
				e := log.Info().Str("line", line)
				if cut {
					e = e.Bool("cut", true)
				}
				e.Msg("child says")
			}
		}
		if err != nil {
			if dropped > 0 {
				log.Warn().Int("lines", dropped).Msg("child said too much: lines left out")
			}
			return
		}
	}
}

func trimBreak(s string) string {
	for len(s) > 0 && (s[len(s)-1] == '\n' || s[len(s)-1] == '\r') {
		s = s[:len(s)-1]
	}
	return s
}
