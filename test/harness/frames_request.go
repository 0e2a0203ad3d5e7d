package harness

import (
	"encoding/binary"
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Request is one Kafka request as a rule sees it.
type Request struct {
	Key         kmsg.Key
	Version     int16
	Correlation int32
	ClientID    string
	Body        []byte // without size and header; not to be changed
}

// Decode returns the request as the message it is, such as
// *kmsg.EndTxnRequest.
func (r Request) Decode() (kmsg.Request, error) {
	req := kmsg.RequestForKey(r.Key.Int16())
	if req == nil {
		return nil, errors.New("no such api key")
	}
	req.SetVersion(r.Version)
	return req, req.ReadFrom(r.Body)
}

// Commits matches an EndTxn that wants a commit.
func Commits(r Request) bool { return endsTxn(r, true) }

// Aborts matches an EndTxn that wants an abort.
func Aborts(r Request) bool { return endsTxn(r, false) }

func endsTxn(r Request, commit bool) bool {
	if r.Key != kmsg.EndTxn {
		return false
	}
	req, err := r.Decode()
	return err == nil && req.(*kmsg.EndTxnRequest).Commit == commit
}

var errShortRequest = errors.New("a request too short for its header")

// parseRequest reads the header: key, version, correlation id, client id, and
// in flexible versions tagged fields.
func parseRequest(b []byte) (Request, error) {
	if len(b) < 8 {
		return Request{}, errShortRequest
	}
	r := Request{
		Key:         kmsg.Key(binary.BigEndian.Uint16(b)),
		Version:     int16(binary.BigEndian.Uint16(b[2:])),
		Correlation: int32(binary.BigEndian.Uint32(b[4:])),
	}
	b = b[8:]
	if len(b) < 2 {
		return Request{}, errShortRequest
	}
	n := int16(binary.BigEndian.Uint16(b))
	b = b[2:]
	if n > 0 {
		if len(b) < int(n) {
			return Request{}, errShortRequest
		}
		r.ClientID, b = string(b[:n]), b[n:]
	}
	req := kmsg.RequestForKey(r.Key.Int16())
	if req == nil {
		r.Body = b
		return r, nil // newer than the library: passed on, by key only
	}
	req.SetVersion(r.Version)
	if req.IsFlexible() {
		var err error
		if b, err = skipTags(b); err != nil {
			return Request{}, err
		}
	}
	r.Body = b
	return r, nil
}

func skipTags(b []byte) ([]byte, error) {
	next := func() (uint64, bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, false
		}
		b = b[n:]
		return v, true
	}
	count, ok := next()
	for ; ok && count > 0; count-- {
		if _, ok = next(); !ok {
			break
		}
		var size uint64
		if size, ok = next(); !ok || size > uint64(len(b)) {
			return nil, errShortRequest
		}
		b = b[size:]
	}
	if !ok {
		return nil, errShortRequest
	}
	return b, nil
}
