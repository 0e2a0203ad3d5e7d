package demo

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

const ctrlC = 3 // raw mode delivers it as a byte

// readKeys puts the terminal into raw mode and passes single keys on until the
// context ends. It polls, because a blocked read of a terminal cannot be
// called off and would outlive the demo.
func readKeys(ctx context.Context, in *os.File, pressed func(byte)) error {
	fd := int(in.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return err
	}
	defer term.Restore(fd, before) //nolint:errcheck // nothing is left to do about it
	for ctx.Err() == nil {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if ready <= 0 || err != nil {
			continue // a time-out, or a signal that interrupted the wait
		}
		var b [1]byte
		n, err := in.Read(b[:])
		if n == 0 || err != nil {
			return nil // the terminal is gone; the signal for that is on its way
		}
		pressed(b[0])
	}
	return nil
}
