package kafka

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// tlsPort is the port that says "TLS" by custom. When every broker has it,
// plaintext would only meet a closed connection and a riddle.
const tlsPort = 9094

// broker is one entry that was understood.
type broker struct {
	host string // lower case, no trailing dot, IPv6 in canonical form
	port uint16
}

// parseBrokers reads each entry and returns one fault for each that cannot be
// used. Entries are quoted in faults, cut short, but not if any of them has an
// @: a URL with a password pasted into the list must not end in a log, and a
// comma in that password has spread it over several entries.
func parseBrokers(entries []string) ([]broker, []*fault.Error) {
	shown := quote
	if slices.ContainsFunc(entries, func(s string) bool { return strings.Contains(s, "@") }) {
		shown = func(string) string { return "(not shown)" }
	}
	var faults []*fault.Error
	brokers := make([]broker, 0, len(entries))
	first := make(map[broker]int, len(entries))
	for i, entry := range entries {
		b, bad := parseBroker(strings.TrimSpace(entry))
		if bad != nil {
			bad.Detail = fmt.Sprintf("entry %d of KAFKA_BROKERS, %s, %s", i+1, shown(entry), bad.Detail)
			faults = append(faults, bad)
			continue
		}
		if j, twice := first[b]; twice {
			faults = append(faults, fault.New(fault.BrokerList, "entry %d of KAFKA_BROKERS, %s, repeats entry %d", i+1, shown(entry), j).
				WithWhy("each broker is named once, else one of them is likely a typing error for another").
				WithFix("remove one of the two"))
			continue
		}
		first[b] = i + 1
		brokers = append(brokers, b)
	}
	return brokers, faults
}

// parseBroker reads one entry. Detail of a fault is only the predicate; the
// caller says which entry it is about.
func parseBroker(s string) (broker, *fault.Error) {
	bad := func(what, why, fix string) (broker, *fault.Error) {
		return broker{}, &fault.Error{Code: fault.BrokerList, Detail: what, Why: why, Fix: fix}
	}
	switch {
	case s == "":
		return bad("is empty", "a comma stands at an end of the list or beside another comma", "remove the surplus comma")
	case strings.Contains(s, "@"):
		return bad("holds a user", "credentials are no part of a broker's address", "use KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD")
	case strings.Contains(s, "://"):
		return bad("begins with a scheme", "an address is host:port alone; TLS is switched by KAFKA_TLS", "write host:port, without what stands before ://")
	case strings.ContainsAny(s, " \t\r\n;"):
		return bad("holds a space or semicolon", "entries are divided by commas", "KAFKA_BROKERS=broker-1:9092,broker-2:9092")
	case strings.ContainsAny(s, "/?#"):
		return bad("holds a path", "an address is host:port alone", "write host:port")
	}
	host, port, bracketed, what := splitHostPort(s)
	if what != "" {
		return bad(what, "", "")
	}
	n, what := parsePort(port)
	if what != "" {
		return bad(what, "a port is a decimal number from 1 to 65535", "write host:9092")
	}
	host, what = checkHost(host, bracketed)
	if what != "" {
		return bad(what, "a host is an IPv4 address, an IPv6 address in brackets, or a name of labels of 1 to 63 letters, digits, hyphens and underscores", "correct the name")
	}
	return broker{host: host, port: n}, nil
}

func splitHostPort(s string) (host, port string, bracketed bool, what string) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		switch {
		case end < 0:
			return "", "", false, "has an opening bracket without a closing one"
		case end+1 == len(s):
			return "", "", false, "has no port"
		case s[end+1] != ':':
			return "", "", false, "has text between the closing bracket and the port"
		}
		return s[1:end], s[end+2:], true, ""
	}
	switch strings.Count(s, ":") {
	case 0:
		return "", "", false, "has no port"
	case 1:
		host, port, _ = strings.Cut(s, ":")
		return host, port, false, ""
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return "", "", false, "is an IPv6 address without brackets and port"
	}
	if i := strings.LastIndexByte(s, ':'); i > 0 {
		if _, err := netip.ParseAddr(s[:i]); err == nil {
			return "", "", false, "is an IPv6 address without brackets"
		}
	}
	return "", "", false, "has more than one colon"
}

func parsePort(s string) (uint16, string) {
	if s == "" {
		return 0, "has an empty port"
	}
	for _, r := range s {
		if r < '0' || r > '9' {
			return 0, "has a port that is no number"
		}
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, "has a port out of range"
	}
	return uint16(n), ""
}

// checkHost returns the host in the form that equal hosts share.
func checkHost(host string, bracketed bool) (string, string) {
	if bracketed {
		a, err := netip.ParseAddr(host)
		if err != nil || !a.Is6() {
			return "", "has brackets around something that is no IPv6 address"
		}
		return a.String(), ""
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" {
		return "", "has no host"
	}
	if len(host) > 253 {
		return "", "has a host name of more than 253 characters"
	}
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if what := checkLabel(l); what != "" {
			return "", what
		}
	}
	// No top-level domain is a number: what ends in one is meant as IPv4, and
	// resolvers disagree about 10.1 or 010.0.0.1.
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		a, err := netip.ParseAddr(host)
		if err != nil {
			return "", "has a host that is neither a name nor an IPv4 address"
		}
		return a.String(), ""
	}
	return host, ""
}

func checkLabel(l string) string {
	switch {
	case l == "":
		return "has an empty part in its host name"
	case len(l) > 63:
		return "has a part of more than 63 characters in its host name"
	case l[0] == '-' || l[len(l)-1] == '-':
		return "has a part that begins or ends with a hyphen in its host name"
	}
	for _, r := range l {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
		case r > 127:
			return "has a host name that is not ASCII; write it as punycode (xn--...)"
		default:
			return fmt.Sprintf("has %q in its host name", r)
		}
	}
	return ""
}

// quote makes an entry fit for a message.
func quote(entry string) string {
	entry = strings.TrimSpace(entry)
	if len(entry) > 80 {
		entry = entry[:80] + "..."
	}
	return strconv.QuoteToASCII(entry)
}
