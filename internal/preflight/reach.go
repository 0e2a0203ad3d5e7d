package preflight

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// expirySoon is how long before its end a certificate is warned about.
const expirySoon = 14 * 24 * time.Hour

// seedSteps is the number of ranks that one broker of the list takes.
const seedSteps = 8

// seeds takes every broker of the list through its steps, side by side, and
// returns those that let us in.
func (r *run) seeds(ctx context.Context, all []kafka.Endpoint) []kafka.Endpoint {
	ok := make([]bool, len(all))
	var wg sync.WaitGroup
	for i, e := range all {
		wg.Go(func() { ok[i] = r.seed(ctx, i*seedSteps, e) })
	}
	wg.Wait()
	var in []kafka.Endpoint
	for i, e := range all {
		if ok[i] {
			in = append(in, e)
		}
	}
	return in
}

// seed takes one broker from its name to an authenticated connection.
func (r *run) seed(ctx context.Context, rank int, e kafka.Endpoint) bool {
	// Name, TCP and TLS share what a client gives them: one time-out.
	dial, cancel := context.WithTimeout(ctx, r.connection)
	defer cancel()
	var addrs []netip.Addr
	var conn net.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	failed := ""
	for i, st := range []struct {
		name string
		do   func(*step) bool
	}{
		{StepResolve, func(s *step) (ok bool) { addrs, ok = r.resolve(dial, s, e); return ok }},
		{StepConnect, func(s *step) (ok bool) { conn, ok = r.connect(dial, s, e, addrs); return ok }},
		{StepTLS, func(s *step) bool { return r.handshake(dial, s, e, conn) }},
		{StepAPI, func(s *step) bool { return r.api(ctx, s, e) }},
		{StepSASL, func(s *step) bool { return r.sasl(ctx, s, e) }},
	} {
		s := r.begin(rank+i, st.name, e.String())
		switch {
		case failed != "":
			s.skip("needs " + failed)
		case !st.do(s):
			failed = st.name
		}
	}
	return failed == ""
}

func (r *run) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	if r.cfg.Lookup != nil {
		return r.cfg.Lookup(ctx, host)
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

func (r *run) resolve(ctx context.Context, s *step, e kafka.Endpoint) ([]netip.Addr, bool) {
	addrs, err := r.lookup(ctx, e.Host)
	if err != nil {
		s.fail(kafka.Classify("resolve "+e.Host, err))
		return nil, false
	}
	if len(addrs) == 1 && addrs[0].String() == e.Host {
		s.pass("is an address")
		return addrs, true
	}
	s.pass(join(addrs))
	return addrs, true
}

func join(addrs []netip.Addr) string {
	text := make([]string, len(addrs))
	for i, a := range addrs {
		text[i] = a.Unmap().String()
	}
	return strings.Join(text, ", ")
}

// dialed is what one address gave.
type dialed struct {
	addr string
	conn net.Conn
	took time.Duration
	err  error
}

// dialAll tries every address, side by side.
func dialAll(ctx context.Context, port uint16, addrs []netip.Addr) []dialed {
	all := make([]dialed, len(addrs))
	var wg sync.WaitGroup
	for i, a := range addrs {
		wg.Go(func() {
			d, since := &all[i], time.Now()
			d.addr = net.JoinHostPort(a.Unmap().String(), strconv.Itoa(int(port)))
			d.conn, d.err = (&net.Dialer{}).DialContext(ctx, "tcp", d.addr)
			d.took = time.Since(since)
		})
	}
	wg.Wait()
	return all
}

// connect tries every address of a broker and returns the connection to the
// first that took one. A client tries them in turn, so one is enough to work,
// and one that is silent costs it time at every connection.
func (r *run) connect(ctx context.Context, s *step, e kafka.Endpoint, addrs []netip.Addr) (net.Conn, bool) {
	conn, good, err := first(dialAll(ctx, e.Port, addrs))
	switch {
	case conn == nil:
		s.fail(kafka.Classify("connect to "+e.String(), err))
	case err != nil:
		why := fault.As(kafka.Classify("connect", err))
		s.warn(fault.Wrap(err, fault.AddressUnreachable, "%s", good).WithWhy("one of the addresses of %s cannot be used: %s", e.Host, why.Reason()))
	default:
		s.pass(good)
	}
	return conn, conn != nil
}

// first keeps the first connection and closes the others. It also returns which
// addresses took one, and the first error.
func first(all []dialed) (conn net.Conn, good string, err error) {
	var texts []string
	for _, d := range all {
		switch {
		case d.err != nil && err == nil:
			err = d.err
		case d.err != nil:
		default:
			texts = append(texts, fmt.Sprintf("%s in %s", d.addr, short(d.took)))
			if conn == nil {
				conn = d.conn
			} else {
				d.conn.Close()
			}
		}
	}
	return conn, strings.Join(texts, ", "), err
}

// short rounds a duration for people.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}

func (r *run) handshake(ctx context.Context, s *step, e kafka.Endpoint, conn net.Conn) bool {
	if on, why := r.cfg.Kafka.TLSEnabled(); !on {
		if why == "set" {
			why = "KAFKA_TLS=false"
		}
		s.skip("off: " + why)
		return true
	}
	state, err := r.shake(ctx, e.Host, conn)
	if err != nil {
		op := "handshake with " + e.String()
		if bad := (*tls.CertificateVerificationError)(nil); errors.As(err, &bad) && len(bad.UnverifiedCertificates) > 0 {
			op += ", which shows a certificate of " + describe(bad.UnverifiedCertificates[0])
		}
		s.fail(r.cfg.Kafka.Diagnose(ctx, e.String(), kafka.Classify(op, kafka.HandshakeFailed(e.String(), err))))
		return false
	}
	finding := tls.VersionName(state.Version)
	if len(state.PeerCertificates) > 0 {
		finding += ", certificate of " + describe(state.PeerCertificates[0])
	}
	left, cert := time.Duration(1<<62), (*x509.Certificate)(nil)
	for _, c := range state.PeerCertificates {
		if d := time.Until(c.NotAfter); d < left {
			left, cert = d, c
		}
	}
	switch {
	case r.cfg.Kafka.TLS.InsecureSkipVerify:
		s.warn(fault.New(fault.TLSUnverified, "%s", finding))
	case left < expirySoon:
		s.warn(fault.New(fault.CertificateExpires, "%s", finding).WithWhy("the certificate of %s ends in %d days", cert.Subject, int(left.Hours()/24)))
	default:
		s.pass(finding)
	}
	return true
}

// shake makes the handshake that a client would make with the host.
func (r *run) shake(ctx context.Context, host string, conn net.Conn) (tls.ConnectionState, error) {
	cfg, err := r.cfg.Kafka.Handshake(host)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	t := tls.Client(conn, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return tls.ConnectionState{}, err
	}
	return t.ConnectionState(), nil
}

// describe names a certificate by what people compare.
func describe(c *x509.Certificate) string {
	names := c.DNSNames
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	text := c.Subject.String()
	if len(names) > 0 {
		text += " for " + strings.Join(names, ", ")
	}
	verb := "ends"
	if time.Now().After(c.NotAfter) {
		verb = "ended"
	}
	return fmt.Sprintf("%s, issued by %s, %s %s", text, c.Issuer, verb, c.NotAfter.UTC().Format("2006-01-02"))
}
