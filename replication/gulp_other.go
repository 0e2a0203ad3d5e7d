//go:build !linux

package replication

import "net"

func newGulper(conn *net.TCPConn) net.Conn { return conn }
