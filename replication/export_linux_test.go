package replication

import "net"

// Gulps tells whether a connection waits for gulps at this moment.
func Gulps(c net.Conn) bool { return c.(*gulper).gulps }
