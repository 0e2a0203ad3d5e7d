package main

import (
	"os"
	"sync/atomic"
	"syscall"
)

// watch begins an orderly stop at the first interrupt, and ends the process at
// the second, whatever it is doing: whoever asks twice does not want to wait
// for a drain. It watches until ended is closed. The function returned gives
// the status of the first interrupt, 0 if there was none.
func watch(signals <-chan os.Signal, ended <-chan struct{}, stop func(), exit func(int)) (interrupted func() int) {
	var first atomic.Int32
	go func() {
		for {
			select {
			case s := <-signals:
				if !first.CompareAndSwap(0, int32(statusOf(s))) {
					exit(statusOf(s))
					return
				}
				stop()
			case <-ended:
				return
			}
		}
	}()
	return func() int { return int(first.Load()) }
}

// statusOf is the exit status that a shell gives to death by a signal.
func statusOf(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return 128 + int(n)
	}
	return 1
}
