//go:build unix

package doctor

import "syscall"

// fileLimit is how many files may be open, at most: the runtime raises the soft
// limit to the hard one.
func fileLimit() (uint64, bool) {
	var l syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
	return l.Max, err == nil
}
