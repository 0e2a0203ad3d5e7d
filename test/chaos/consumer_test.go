package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// The members are this test binary, told by its environment to be one.
const (
	memberBrokers  = "OUTBOX_CHAOS_MEMBER_BROKERS"
	memberTopic    = "OUTBOX_CHAOS_MEMBER_TOPIC"
	memberDatabase = "OUTBOX_CHAOS_MEMBER_DATABASE"

	memberSession = 6 * time.Second // what brokers allow at least
	consumerKeys  = 40
)

// TestConsumerMember is no test: it is what a member runs.
func TestConsumerMember(t *testing.T) {
	if os.Getenv(memberBrokers) == "" {
		t.Skip("for TestChaosConsumer")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() { // the parent is gone
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	pool, err := pgxpool.New(ctx, os.Getenv(memberDatabase))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var rngMu sync.Mutex
	rng := rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(time.Now().UnixNano())))
	roll := func(n int) int {
		rngMu.Lock()
		defer rngMu.Unlock()
		return rng.IntN(n)
	}
	topic := os.Getenv(memberTopic)
	c, err := consumer.New(consumer.Config{
		Group: topic + ".group", Topics: []string{topic}, DeadLetterTopic: topic + ".dlq",
		Client: []kgo.Opt{
			kgo.SeedBrokers(strings.Split(os.Getenv(memberBrokers), ",")...), kgo.SessionTimeout(memberSession),
			kgo.HeartbeatInterval(200 * time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		},
		Concurrency: 4, Attempts: 1000, CommitInterval: 100 * time.Millisecond, DrainTimeout: 2 * time.Second,
		Backoff: func(int) time.Duration { return time.Duration(roll(50)) * time.Millisecond },
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Handler: consumer.Inbox(pool, "chaos", func(ctx context.Context, tx pgx.Tx, ev consumer.Event) error {
			if roll(40) == 0 {
				return errors.New("failing before the effect")
			}
			_, err := tx.Exec(ctx, `INSERT INTO effects (key, seq, id, pid) VALUES ($1, $2, $3, $4)`, ev.AggregateID, string(ev.Payload), ev.ID, os.Getpid())
			if err != nil {
				return err
			}
			switch roll(80) {
			case 0:
				return errors.New("failing after the effect")
			case 1:
				panic("failing after the effect")
			}
			return nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(ctx); err != nil {
		t.Fatal(err)
	}
	pool.Close()
	os.Exit(0) // past the search for goroutines: one still watches the parent
}

// Three members in inbox mode, a handler that fails at 5 %, and one of them
// killed, frozen beyond its session or stopped in order every few seconds:
// every event has exactly one effect, and a key's effects are in its order.
func TestChaosConsumer(t *testing.T) {
	rig.Real(t)
	kafka, db := harness.Kafka(t), harness.Postgres(t).NewDatabase(t)
	topics := kafka.NewTopics(t)
	topic := topics.Create(t, "events", 12, nil)
	topics.Create(t, "events.dlq", 1, nil)
	db.Exec(t, consumer.InboxSQL(), `CREATE TABLE effects (n bigserial PRIMARY KEY, key text, seq bigint, id text, pid int)`)

	length := 40 * time.Second
	if s := os.Getenv("OUTBOX_CONSUMER_MINUTES"); s != "" {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatalf("OUTBOX_CONSUMER_MINUTES: %v", err)
		}
		length = time.Duration(n * float64(time.Minute))
	}
	s := seed(t)
	t.Logf("seed %d, %s", s, length)
	rng := rand.New(rand.NewPCG(s, 4))

	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var published int
	var publisher sync.WaitGroup
	publisher.Go(func() { published = publishKeys(ctx, t, kafka, topic, rand.New(rand.NewPCG(s, 5))) })

	env := []string{
		memberBrokers + "=" + strings.Join(kafka.Direct(), ","), memberTopic + "=" + topic, memberDatabase + "=" + db.URL(),
	}
	members := []*chaosMember{startMember(t, env), startMember(t, env), startMember(t, env)}
	what := map[string]int{}
	for ctx.Err() == nil {
		// The random moment is the point.
		if !pauseFor(ctx, time.Duration(300+rng.IntN(3000))*time.Millisecond) {
			break
		}
		i := rng.IntN(len(members))
		switch rng.IntN(6) {
		case 0:
			what["stopped"]++
			members[i].end(t, syscall.SIGTERM)
			members[i] = startMember(t, env)
		case 1:
			what["frozen"]++
			members[i].signal(t, syscall.SIGSTOP)
			pauseFor(ctx, memberSession+2*time.Second)
			members[i].signal(t, syscall.SIGCONT)
		default:
			what["killed"]++
			members[i].end(t, syscall.SIGKILL)
			members[i] = startMember(t, env)
		}
	}
	publisher.Wait()
	conn := db.Connect(t)
	awaitEffects(t, conn, published)
	for _, m := range members {
		m.end(t, syscall.SIGTERM)
	}

	one := func(sql string) (n int) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	effects, distinct := one(`SELECT count(*) FROM effects`), one(`SELECT count(DISTINCT id) FROM effects`)
	disorder := one(`SELECT count(*) FROM (SELECT seq, lag(seq) OVER (PARTITION BY key ORDER BY n) AS before FROM effects) e WHERE seq <= before`)
	holes := one(`SELECT count(*) FROM (SELECT key FROM effects GROUP BY key HAVING min(seq) <> 1 OR max(seq) <> count(DISTINCT seq)) e`)
	noted := one(`SELECT count(*) FROM outbox.consumed`)
	pids := one(`SELECT count(DISTINCT pid) FROM effects`)
	letters := 0
	(&rig.Rig{Kafka: kafka}).Each(t.Context(), t, topic+".dlq", func(*kgo.Record) { letters++ })
	t.Logf("%v; %d published, %d effects, %d distinct, %d out of order, %d keys with holes, %d noted, %d letters, by %d processes",
		what, published, effects, distinct, disorder, holes, noted, letters, pids)
	if effects != published || distinct != published || noted != published {
		t.Errorf("%d published: %d effects, %d distinct, %d noted", published, effects, distinct, noted)
	}
	if disorder > 0 || holes > 0 || letters > 0 {
		t.Errorf("%d out of order, %d keys with holes, %d letters", disorder, holes, letters)
	}
	if what["killed"] == 0 || published == 0 {
		t.Error("nothing was killed or nothing published: the run says nothing")
	}
}

// publishKeys writes transactions of events, some of which are rolled back,
// until ctx ends. Each key counts its own events from 1.
func publishKeys(ctx context.Context, t *testing.T, kafka *harness.KafkaServer, topic string, rng *rand.Rand) int {
	cl, err := kafka.Client(kgo.TransactionalID(topic))
	if err != nil {
		t.Error(err)
		return 0
	}
	defer cl.Close()
	h := func(name, value string) kgo.RecordHeader { return kgo.RecordHeader{Key: name, Value: []byte(value)} }
	var last [consumerKeys]int
	total, lsn := 0, 0
	for pauseFor(ctx, time.Duration(20+rng.IntN(60))*time.Millisecond) {
		if err := cl.BeginTransaction(); err != nil {
			t.Error(err)
			return total
		}
		next, lsnText := last, fmt.Sprintf("1/%08X", lsn)
		lsn += 100
		n := 1 + rng.IntN(60)
		for i := range n {
			k := rng.IntN(consumerKeys)
			next[k]++
			key := "k" + strconv.Itoa(k)
			cl.Produce(context.Background(), &kgo.Record{
				Topic: topic, Key: []byte(key), Value: []byte(strconv.Itoa(next[k])),
				Headers: []kgo.RecordHeader{
					h(outbox.HeaderID, key+"-"+strconv.Itoa(next[k])), h(outbox.HeaderType, "Counted"),
					h(outbox.HeaderAggregateType, "counter"), h(outbox.HeaderAggregateID, key), h(outbox.HeaderSource, "chaos/relay"),
					h(outbox.HeaderLSN, lsnText), h(outbox.HeaderTimeline, "1"), h(outbox.HeaderOrdinal, strconv.Itoa(i+1)),
				},
			}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		if err := cl.Flush(context.Background()); err != nil {
			t.Error(err)
			return total
		}
		commit := kgo.TransactionEndTry(rng.IntN(10) > 0)
		if err := cl.EndTransaction(context.Background(), commit); err != nil {
			t.Error(err)
			return total
		}
		if commit {
			last = next
			total += n
		}
	}
	return total
}

// awaitEffects returns when as many distinct events have had an effect as were
// published, or nothing has moved for a while.
func awaitEffects(t *testing.T, conn *pgx.Conn, want int) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	last, moved := -1, time.Now()
	for range tick.C {
		var n int
		if err := conn.QueryRow(t.Context(), `SELECT count(DISTINCT id) FROM effects`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n != last {
			last, moved = n, time.Now()
		}
		if n >= want || time.Since(moved) > 30*time.Second {
			return
		}
	}
}

// chaosMember is one process.
type chaosMember struct {
	cmd  *exec.Cmd
	in   io.Closer
	out  bytes.Buffer
	done chan error
}

func startMember(t *testing.T, env []string) *chaosMember {
	t.Helper()
	m := &chaosMember{cmd: exec.Command(os.Args[0], "-test.run", "^TestConsumerMember$", "-test.timeout", "1h"), done: make(chan error, 1)}
	m.cmd.Env = append(os.Environ(), env...)
	m.cmd.Stdout, m.cmd.Stderr = &m.out, &m.out
	in, err := m.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.in = in
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { m.done <- m.cmd.Wait() }()
	t.Cleanup(func() {
		_ = m.cmd.Process.Kill() // may have ended
		in.Close()
	})
	return m
}

func (m *chaosMember) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := m.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("signal %v: %v", sig, err)
	}
}

// end sends a signal that ends the member. A member that ends by itself, or
// with an error after SIGTERM, is a failure.
func (m *chaosMember) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := m.cmd.Process.Signal(sig); err != nil {
		t.Errorf("the member has ended: %v\n%s", err, m.last())
		return
	}
	select {
	case err := <-m.done:
		if sig == syscall.SIGTERM && err != nil {
			t.Errorf("the member ended with %v\n%s", err, m.last())
		}
	case <-time.After(30 * time.Second):
		t.Errorf("the member does not end\n%s", m.last())
	}
	m.in.Close()
}

func (m *chaosMember) last() string {
	s := m.out.String()
	return s[max(0, len(s)-3000):]
}

func pauseFor(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
