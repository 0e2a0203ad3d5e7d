package replication_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/replication"
)

// pair is a connection that gulps, and its other end.
func pair(t *testing.T) (reader net.Conn, writer *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dial := replication.Gulping((&net.Dialer{}).DialContext)
	reader, err = dial(context.Background(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	writer = conn.(*net.TCPConn)
	t.Cleanup(func() { reader.Close(); writer.Close() })
	return reader, writer
}

// What is written in small pieces arrives whole and in order, whether there is
// much of it or little, and the end is seen.
func TestGulpingLosesNothing(t *testing.T) {
	reader, writer := pair(t)
	var want bytes.Buffer
	begun := make(chan struct{}) // closed when the reader gulps
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		write := func(i, n int) {
			piece := bytes.Repeat([]byte{byte(i)}, n)
			want.Write(piece)
			_, _ = writer.Write(piece)
		}
		for i, more := 0, true; more && i < 5_000_000; i++ { // fast
			write(i, 100)
			select {
			case <-begun:
				more = false
			default:
			}
		}
		for i := range 2000 { // fast still
			write(i, 100)
		}
		for i := range 20 { // slow: it stops
			time.Sleep(3 * time.Millisecond)
			write(i, 10)
		}
		_ = writer.CloseWrite()
	}()
	var got bytes.Buffer
	buf := make([]byte, 64<<10)
	gulped := false
	for {
		if err := reader.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := reader.Read(buf)
		got.Write(buf[:n])
		if !gulped && replication.Gulps(reader) {
			gulped = true
			close(begun)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	<-sent
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes arrived, %d were sent, or in another order", got.Len(), want.Len())
	}
	if !gulped {
		t.Error("it never gulped, so nothing was shown")
	}
	if replication.Gulps(reader) {
		t.Error("it gulps still, after pieces that were slow to come")
	}
}

// The caller's deadline holds while gulping and afterwards, and an expired one
// does not spoil the connection.
func TestGulpingKeepsDeadlines(t *testing.T) {
	reader, writer := pair(t)
	buf := make([]byte, 16)
	for range 3 {
		if err := reader.SetReadDeadline(time.Now().Add(5 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := reader.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read of nothing: %v", err)
		}
	}
	if _, err := writer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := reader.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := reader.Read(buf); n != 1 || err != nil {
		t.Fatalf("read %d bytes, %v", n, err)
	}
}
