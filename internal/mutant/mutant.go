// Package mutant holds the switches of the builds that are wrong on purpose.
//
// Each constant is a known mistake in a transactional relay. A build tag turns
// one of them on; the delivery tests must then fail, otherwise they prove
// nothing. In the ordinary build all are false constants and the wrong
// branches are not even compiled into the binary (a test looks for that).
package mutant
