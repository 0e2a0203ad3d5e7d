package replication

import (
	"context"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// gulping makes a connection read large pieces while much arrives.
//
// A walsender sends every row by itself. A reader that is woken for each costs
// both sides more than the row: about 10 us of a core at the server, where the
// waking happens, against 4 us if nobody is woken. Sleeping before the next
// read does not help, because the runtime's poller is woken all the same. What
// helps is to tell the kernel (SO_RCVLOWAT) not to wake anybody for less than a
// gulp. See docs/decisions/0004.
func gulping(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if tcp, ok := conn.(*net.TCPConn); err == nil && ok {
			return newGulper(tcp), nil
		}
		return conn, err
	}
}
