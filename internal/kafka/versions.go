package kafka

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Versions asks one broker which requests and features it knows, over a
// connection of its own and without authentication. Brokers answer that to
// strangers, but once: to a second such request a listener with SASL hangs up,
// so a client of the library, which has asked already, cannot be used for it.
//
// Errors are for Classify; KAFKA_CONNECTION_TIMEOUT bounds it.
func (c *Config) Versions(ctx context.Context, broker string) (*kmsg.ApiVersionsResponse, error) {
	d := dialler{timeout: c.connectionTimeout(), final: true}
	if on, _ := c.TLSEnabled(); on {
		d.tls = &c.TLS
	}
	return d.versions(ctx, broker)
}

// newest is the form of the request in which brokers since 2.4 tell features.
// Older ones answer in the oldest form that they do not know it.
const newest = 3

func (d dialler) versions(ctx context.Context, broker string) (*kmsg.ApiVersionsResponse, error) {
	c, err := d.dial(ctx, "tcp", broker)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	defer stop()
	resp, err := askVersions(c, newest, d.timeout)
	if err == nil && kerr.ErrorForCode(resp.ErrorCode) == kerr.UnsupportedVersion {
		resp, err = askVersions(c, 0, d.timeout)
	}
	if err != nil {
		return nil, err
	}
	return resp, kerr.ErrorForCode(resp.ErrorCode)
}

func askVersions(c net.Conn, version int16, timeout time.Duration) (*kmsg.ApiVersionsResponse, error) {
	// The connection takes the sooner of this and the deadline of its dial.
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	req := &kmsg.ApiVersionsRequest{Version: version, ClientSoftwareName: "outbox-relay", ClientSoftwareVersion: "1"}
	if _, err := c.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("outbox-relay-verify")).AppendRequest(nil, req, int32(version))); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 6 || size > maxGreeting {
		return nil, &connError{stage: alien, addr: c.RemoteAddr().String(), err: errAlien}
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint32(body) != uint32(version) {
		return nil, &connError{stage: alien, addr: c.RemoteAddr().String(), err: errAlien}
	}
	resp := &kmsg.ApiVersionsResponse{Version: version}
	// An answer of refusal comes in the oldest form, whatever was asked.
	if code := int16(binary.BigEndian.Uint16(body[4:])); code == kerr.UnsupportedVersion.Code {
		resp.Version = 0
	}
	if err := resp.ReadFrom(body[4:]); err != nil {
		return nil, &connError{stage: alien, addr: c.RemoteAddr().String(), err: fmt.Errorf("read versions: %w", err)}
	}
	return resp, nil
}

// HandshakeFailed marks an error of a TLS handshake that somebody else than
// this package has made: an EOF there means something else than later.
func HandshakeFailed(broker string, err error) error {
	return &connError{stage: handshaking, addr: broker, tls: true, first: true, final: true, err: err}
}
