package replication_test

import (
	"errors"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// A server that is too old says so before anything else is asked of it.
func TestOldPostgres(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			err = speakAsVersion(conn, "130014")
		}
		ended <- err
	}()
	cfg, err := pgconn.ParseConfig("postgres://relay@" + ln.Addr().String() + "/shop?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	_, err = replication.Connect(t.Context(), replication.Config{Conn: cfg, Slot: "s", Publication: "p", Schema: "outbox", Table: "events"})
	if !fault.Has(err, fault.PostgresVersion) {
		t.Errorf("got %v", err)
	}
	_ = ln.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// speakAsVersion answers one query: the version, and that this is no standby.
func speakAsVersion(conn net.Conn, version string) error {
	defer conn.Close()
	b := pgproto3.NewBackend(conn, conn)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return err
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: "13.14"})
	b.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	b.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for {
		if err := b.Flush(); err != nil {
			return err
		}
		msg, err := b.Receive()
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		row := func() {
			b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(version), []byte("f")}})
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
		}
		fields := &pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{
			{Name: []byte("version"), DataTypeOID: 23, DataTypeSize: 4}, {Name: []byte("recovery"), DataTypeOID: 16, DataTypeSize: 1},
		}}
		switch msg.(type) {
		case *pgproto3.Query:
			b.Send(fields)
			row()
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Parse:
			b.Send(&pgproto3.ParseComplete{})
		case *pgproto3.Describe:
			b.Send(&pgproto3.ParameterDescription{})
			b.Send(fields)
		case *pgproto3.Bind:
			b.Send(&pgproto3.BindComplete{})
		case *pgproto3.Execute:
			row()
		case *pgproto3.Sync:
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Terminate:
			return nil
		}
	}
}
