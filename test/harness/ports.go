package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

const (
	// Below the range from which Linux (32768) and others take the ports of
	// outgoing connections: a port from that range can be gone to a client
	// between a server's kill and its next start.
	firstPort, lastPort = 15000, 32000

	loopback = "127.0.0.1"
)

// freePorts returns n different loopback ports that nobody listens on. All
// are held until the last is found, so they differ from each other. Somebody
// may still take one before its owner does; among 17,000 that is rare enough,
// and it fails the start by name instead of hiding.
func freePorts(n int) ([]int, error) {
	var ports []int
	var held []net.Listener
	defer func() {
		for _, ln := range held {
			ln.Close()
		}
	}()
	for tries := 0; len(ports) < n; tries++ {
		port := firstPort + rand.IntN(lastPort-firstPort)
		ln, err := net.Listen("tcp", hostPort(port))
		if err != nil {
			if tries > 1000 {
				return nil, fmt.Errorf("find a free port: %w", err)
			}
			continue
		}
		held = append(held, ln)
		ports = append(ports, port)
	}
	return ports, nil
}

// listen opens a listener on a port outside the ephemeral range, so that it
// can be closed and opened again.
func listen() (net.Listener, error) {
	for tries := 0; ; tries++ {
		ln, err := net.Listen("tcp", hostPort(firstPort+rand.IntN(lastPort-firstPort)))
		if err == nil || tries > 1000 {
			return ln, err
		}
	}
}

func hostPort(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }
