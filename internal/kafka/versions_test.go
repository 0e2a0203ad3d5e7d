package kafka

import (
	"net"
	"testing"
	"time"
)

// Whatever a port answers, it is an answer or an error, and no panic.
func FuzzVersions(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x10\x00\x00\x00\x03\x00\x00\x02\x00\x00\x00\x00\x0b\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x0a\x00\x00\x00\x03\x00\x23\x00\x00\x00\x00"))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Add([]byte("\x15\x03\x03\x00\x02\x02\x50"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer theirs.Close()
			_, _ = theirs.Read(make([]byte, 1<<10))
			_, _ = theirs.Write(answer)
		}()
		c := &conn{Conn: ours, deadline: time.Now().Add(10 * time.Second)}
		resp, err := askVersions(c, newest, 10*time.Second)
		ours.Close()
		<-done
		if err == nil && resp == nil || err != nil && Classify("x", err) == nil {
			t.Fatalf("%v, %v", resp, err)
		}
	})
}
