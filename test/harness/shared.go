package harness

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// shared holds the servers of this test binary. It is a variable of the
// package because TestMain and the tests have no other way to meet.
var shared struct {
	kafka    once[*KafkaServer]
	postgres once[*PostgresServer]
}

// once starts a server at its first use and remembers how that went.
type once[T interface{ Close() error }] struct {
	mu     sync.Mutex
	tried  bool
	server T
	err    error
}

func (o *once[T]) get(start func() (T, error)) (T, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.tried {
		o.tried = true
		o.server, o.err = start()
	}
	return o.server, o.err
}

func (o *once[T]) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.tried || o.err != nil {
		return nil
	}
	return o.server.Close()
}

// errNoMain reminds a package of its TestMain: without it the shared servers'
// data would stay behind.
var errNoMain = errors.New("this package has no TestMain that calls harness.Main")

var mainRuns bool // written before any test runs

var ends []func() error

// AtEnd has Main call f when all tests are done: for what a test has begun that
// others of its package go on to use.
func AtEnd(f func() error) { ends = append(ends, f) }

// Main is the TestMain of a package that uses the harness. It runs the tests,
// ends the shared servers, removes what was built, fails the run if a
// goroutine is left over, and exits.
func Main(m *testing.M, options ...goleak.Option) {
	mainRuns = true
	code := m.Run()
	var err error
	for _, end := range ends {
		err = errors.Join(err, end())
	}
	err = errors.Join(err, shared.kafka.close(), shared.postgres.close(), builds.remove())
	if err == nil && code == 0 {
		err = goleak.Find(options...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// Kafka returns the broker that the tests of this binary share, or the one of
// OUTBOX_TEST_KAFKA. It is not to be stopped or killed. The test is skipped
// where there is no Java.
func Kafka(t testing.TB) *KafkaServer {
	t.Helper()
	k, err := shared.kafka.get(func() (*KafkaServer, error) {
		if brokers := os.Getenv("OUTBOX_TEST_KAFKA"); brokers != "" {
			list := strings.Split(brokers, ",")
			return &KafkaServer{brokers: list, direct: list}, nil
		}
		if !mainRuns {
			return nil, errNoMain
		}
		// Not the test's context: the server is not the test's.
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		return StartKafka(ctx, KafkaConfig{})
	})
	need(t, err)
	return k
}

// Postgres returns the server that the tests of this binary share, or the one
// of OUTBOX_TEST_POSTGRES. It is not to be stopped or killed. The test is
// skipped where Postgres is not installed.
func Postgres(t testing.TB) *PostgresServer {
	t.Helper()
	pg, err := shared.postgres.get(func() (*PostgresServer, error) {
		if given := os.Getenv("OUTBOX_TEST_POSTGRES"); given != "" {
			u, err := url.Parse(given)
			if err != nil {
				return nil, errors.New("OUTBOX_TEST_POSTGRES is no URL") // the cause would repeat the password
			}
			return &PostgresServer{url: u}, nil
		}
		if !mainRuns {
			return nil, errNoMain
		}
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		return StartPostgres(ctx, PostgresConfig{})
	})
	need(t, err)
	return pg
}
