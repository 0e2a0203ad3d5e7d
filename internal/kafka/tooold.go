package kafka

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// isTooOld tells whether the library refused to send a request because the
// broker does not know it. The library keeps that value to itself, without a
// type and without a function to ask. It is had by asking a client for what its
// broker has not announced; the broker is a pipe in this process. That happens
// for errors only that nothing else explains.
func isTooOld(err error) bool {
	sample := tooOld()
	return sample != nil && errors.Is(err, sample)
}

func tooOld() error {
	ours, theirs := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer theirs.Close()
		announceProduce(theirs)
	}()
	defer func() { ours.Close(); <-served }()
	cl, err := kgo.NewClient(
		kgo.SeedBrokers("none:1"), kgo.RequestRetries(0),
		kgo.Dialer(func(context.Context, string, string) (net.Conn, error) { return ours, nil }),
	)
	if err != nil {
		return nil
	}
	defer cl.Close()
	_, err = cl.SeedBrokers()[0].Request(context.Background(), kmsg.NewPtrListGroupsRequest())
	return err
}

// announceProduce answers one request of the kind ApiVersions: produce, and
// nothing else, is known here.
func announceProduce(c net.Conn) {
	var head [12]byte // length, key, version, correlation id
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return
	}
	rest := int64(head[2])<<8 | int64(head[3])
	if _, err := io.CopyN(io.Discard, c, rest-8); err != nil {
		return
	}
	resp := kmsg.NewApiVersionsResponse()
	resp.Version = int16(head[6])<<8 | int16(head[7])
	resp.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: 0, MaxVersion: 3}}
	body := resp.AppendTo(append([]byte{0, 0, 0, 0}, head[8:12]...))
	n := len(body) - 4
	body[2], body[3] = byte(n>>8), byte(n)
	_, _ = c.Write(body)
	_, _ = io.Copy(io.Discard, c) // until the client hangs up
}
