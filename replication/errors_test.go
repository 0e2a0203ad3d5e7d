package replication_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	state := func(code string) error {
		return fmt.Errorf("tried: %w", &pgconn.PgError{Severity: "ERROR", Code: code, Message: "m"})
	}
	for _, c := range []struct {
		name string
		err  error
		want *fault.Code
	}{
		{"pg_hba.conf", state("28000"), fault.PostgresAuth},
		{"password", state("28P01"), fault.PostgresAuth},
		{"no database", state("3D000"), fault.DatabaseMissing},
		{"no right", state("42501"), fault.NoReplicationRole},
		{"too many connections", state("53300"), fault.PostgresUnreachable},
		{"no slot left", state("53400"), fault.SlotsExhausted},
		{"slot invalidated", state("55000"), fault.SlotLost},
		{"slot in use", state("55006"), fault.SlotHeld},
		{"admin shutdown", state("57P01"), fault.PostgresStopping},
		{"crash shutdown", state("57P02"), fault.PostgresStopping},
		{"starting up", state("57P03"), fault.PostgresStopping},
		{"idle session", state("57P05"), fault.PostgresLost},
		{"statement_timeout of the role", state("57014"), fault.PostgresUnreachable},
		{"lock_timeout of the role", state("55P03"), fault.PostgresUnreachable},
		{"WAL removed", state("58P01"), fault.SlotLost},
		{"undefined object", state("42704"), fault.PublicationHole},
		{"connection failure", state("08006"), fault.PostgresLost},
		{"out of memory", state("53200"), fault.PostgresUnreachable},
		{"disk full", state("53100"), fault.PostgresUnreachable},
		{"I/O error", state("58030"), fault.PostgresUnreachable},
		{"internal error", state("XX000"), fault.Unclassified},
		{"a code nobody knows", state("ZZZZZ"), fault.Unclassified},
		{"a code that is none", state("9"), fault.Unclassified},
		{"no code at all", state(""), fault.Unclassified},
		{"row too long", fmt.Errorf("tried: %w", &pgproto3.ExceededMaxBodyLenErr{MaxExpectedBodyLen: 1, ActualBodyLen: 2}), fault.RowUnreadable},
		{"end of stream", io.ErrUnexpectedEOF, fault.PostgresLost},
		{"closed", net.ErrClosed, fault.PostgresLost},
		{"reset", &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, fault.PostgresLost},
		{"cancelled", context.Canceled, fault.PostgresLost},
		{"already has a code", fault.New(fault.WALDecode, "x"), fault.WALDecode},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := replication.ClassifyAs(c.err, fault.PublicationHole, "read the stream")
			if got := fault.CodeOf(err); got != c.want {
				t.Errorf("got %s, want %s", got.Name, c.want.Name)
			}
			if !errors.Is(err, c.err) {
				t.Error("the cause is lost")
			}
		})
	}
	if err := replication.ClassifyAs(nil, fault.Unclassified, "x"); err != nil {
		t.Errorf("nil became %v", err)
	}
}

// TestClassifyConnect: what was never there is not lost.
func TestClassifyConnect(t *testing.T) {
	t.Parallel()
	_, refused := net.Dial("tcp", closedPort(t))
	for _, c := range []struct {
		err  error
		want *fault.Code
	}{
		{refused, fault.PostgresUnreachable},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, fault.PostgresUnreachable},
		{io.ErrUnexpectedEOF, fault.PostgresUnreachable},
		{&pgconn.PgError{Code: "57P03"}, fault.PostgresStopping},
		{&pgconn.PgError{Code: "28P01"}, fault.PostgresAuth},
	} {
		if got := fault.CodeOf(replication.ClassifyConnect(c.err, "connect")); got != c.want {
			t.Errorf("%v: got %s, want %s", c.err, got.Name, c.want.Name)
		}
	}
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestStreamMessages: what a walsender may say instead of data.
func TestStreamMessages(t *testing.T) {
	t.Parallel()
	encode := func(m interface{ Encode([]byte) ([]byte, error) }) []byte {
		b, err := m.Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	copyData := func(b ...byte) []byte { return encode(&pgproto3.CopyData{Data: b}) }
	keepalive := func(ask byte) []byte {
		b := binary.BigEndian.AppendUint64([]byte{'k'}, 0x100)
		return copyData(append(binary.BigEndian.AppendUint64(b, 0), ask)...)
	}
	for _, c := range []struct {
		name string
		wire []byte
		want *fault.Code // nil: nothing, up to the end of the bytes
		idle int
	}{
		{"keepalive", keepalive(0), nil, 1},
		// Postgres up to 17 stops, from 18 on it warns and skips the rows.
		{"publication missing, before 18", encode(&pgproto3.ErrorResponse{Code: "42704", Message: `publication "p" does not exist`}), fault.PublicationHole, 0},
		{"publication missing, from 18 on", encode(&pgproto3.NoticeResponse{Severity: "WARNING", Code: "55000", Message: `skipped loading publication "p"`}), fault.PublicationHole, 0},
		{"the server waits for a standby, which has the same state", append(encode(&pgproto3.NoticeResponse{
			Severity: "WARNING", Code: "55000", Routine: "StandbySlotsHaveCaughtup",
			Message: `replication slot "a" specified in parameter "synchronized_standby_slots" does not have active_pid`,
		}), keepalive(0)...), nil, 1},
		{"a notice that means nothing to us", append(encode(&pgproto3.NoticeResponse{Severity: "NOTICE", Code: "00000", Message: "m"}), keepalive(0)...), nil, 1},
		{"slot invalidated", encode(&pgproto3.ErrorResponse{Code: "55000"}), fault.SlotLost, 0},
		{"an error without a code", encode(&pgproto3.ErrorResponse{Message: "m"}), fault.Unclassified, 0},
		{"end of the copy", encode(&pgproto3.CopyDone{}), fault.PostgresStopping, 0},
		{"end of the command", encode(&pgproto3.CommandComplete{CommandTag: []byte("COPY 0")}), fault.PostgresStopping, 0},
		{"empty copy data", copyData(), fault.WALDecode, 0},
		{"unknown replication message", copyData('x', 1, 2), fault.WALDecode, 0},
		{"short keepalive", copyData('k', 0, 0), fault.WALDecode, 0},
		{"short data", copyData('w', 0, 0), fault.WALDecode, 0},
		{"message beyond the limit", append([]byte{'d'}, 0, 1, 0, 0), fault.RowUnreadable, 0},
		{"a message that ends nowhere", []byte{'d', 0, 0, 0, 99, 'k'}, fault.PostgresLost, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := 0
			err := replication.DrainBytes(c.wire, replication.Config{MaxRowBytes: 1024, Schema: "s", Table: "t"}, func(*replication.Tx) { n++ })
			want := c.want
			if want == nil {
				want = fault.PostgresLost // the bytes end
			}
			if got := fault.CodeOf(err); got != want || n != c.idle {
				t.Errorf("got %v and %d positions, want %s and %d", err, n, want.Name, c.idle)
			}
		})
	}
}
