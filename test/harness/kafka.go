package harness

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// errNotOurs answers an attempt to break a server that the environment gave.
var errNotOurs = errors.New("this server was given by the environment and is not the harness's to stop")

type kafkaPorts struct {
	client, direct, controller int
	more                       []int // of KafkaConfig.Listeners
}

// KafkaServer is one Apache Kafka node, broker and controller in one JVM.
// Its methods are for one goroutine at a time.
type KafkaServer struct {
	brokers []string          // what clients under test are told
	direct  []string          // past any proxy
	more    map[string]string // addresses of KafkaConfig.Listeners
	cfg     KafkaConfig
	java    string
	libs    string
	dir     string
	log     serverLog
	proc    *process // nil: given by the environment
}

// StartKafka formats a data folder, starts a broker and returns when it
// answers. ctx bounds the start only. The caller owes a Close.
func StartKafka(ctx context.Context, cfg KafkaConfig) (*KafkaServer, error) {
	java, err := findJava(ctx)
	if err != nil {
		return nil, err
	}
	libs, err := kafkaJars(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "outbox-kafka-")
	if err != nil {
		return nil, err
	}
	k := &KafkaServer{cfg: cfg, java: java, libs: libs, dir: dir, log: serverLog(filepath.Join(dir, "kafka.log"))}
	if err := k.format(ctx); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	if err := k.Start(ctx); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// NewKafka starts a broker for one test, or skips the test where there is no
// Java. The broker is gone at the end of the test; if the test failed, the
// broker's last words are in its log.
func NewKafka(t testing.TB, cfg KafkaConfig) *KafkaServer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	k, err := StartKafka(ctx, cfg)
	need(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("kafka:\n%s", k.Log(30))
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// startTimeout covers the download of the jars; a start takes seconds.
const startTimeout = 3 * time.Minute

func (k *KafkaServer) properties() string { return filepath.Join(k.dir, "server.properties") }

// format chooses the ports and writes the configuration and the data folder.
func (k *KafkaServer) format(ctx context.Context) error {
	free, err := freePorts(3 + len(k.cfg.Listeners))
	if err != nil {
		return err
	}
	ports := kafkaPorts{client: free[0], direct: free[1], controller: free[2], more: free[3:]}
	k.more = make(map[string]string, len(ports.more))
	for i, l := range k.cfg.Listeners {
		k.more[l.Name] = hostPort(ports.more[i])
	}
	advertised := hostPort(ports.client)
	if k.cfg.Advertised != nil {
		if advertised, err = k.cfg.Advertised(advertised); err != nil {
			return fmt.Errorf("choose the advertised address: %w", err)
		}
	}
	k.brokers, k.direct = []string{advertised}, []string{hostPort(ports.direct)}

	text := k.cfg.serverProperties(filepath.Join(k.dir, "data"), ports, advertised)
	if err := os.WriteFile(k.properties(), []byte(text), 0o644); err != nil {
		return err
	}
	var id [16]byte
	rand.Read(id[:])
	id[0] &= 0x3f // Kafka refuses ids that begin with a dash
	args := []string{"format", "-t", base64.RawURLEncoding.EncodeToString(id[:]), "-c", k.properties()}
	for _, credential := range k.cfg.Scram {
		args = append(args, "--add-scram", credential)
	}
	cmd := exec.CommandContext(ctx, k.java, KafkaConfig{}.javaArgs(k.libs, "kafka.tools.StorageTool", args...)...)
	cmd.Dir = k.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format the kafka storage: %w\n%s", err, tail(out, 20))
	}
	return nil
}

// Start runs the broker on the data and ports it had before and returns when
// it answers.
func (k *KafkaServer) Start(ctx context.Context) error {
	if k.dir == "" {
		return errNotOurs
	}
	if k.proc != nil && k.proc.running() {
		return errors.New("start kafka: it is running")
	}
	out, err := k.log.open()
	if err != nil {
		return err
	}
	defer out.Close() // the child has its own
	cmd := exec.Command(k.java, k.cfg.javaArgs(k.libs, "kafka.Kafka", k.properties())...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = k.dir, out, out
	if k.proc, err = start(cmd, syscall.SIGKILL); err != nil {
		return err
	}
	if err := k.waitReady(ctx); err != nil {
		return errors.Join(fmt.Errorf("start kafka: %w\n%s", err, k.log.last(30)), k.proc.kill())
	}
	return nil
}

// waitReady asks for metadata until the answer names a live broker: the port
// is open a while before the node has joined its own cluster.
func (k *KafkaServer) waitReady(ctx context.Context) error {
	// A new connection begins with a request that obeys this and no context.
	cl, err := k.Client(kgo.RequestTimeoutOverhead(2 * time.Second))
	if err != nil {
		return err
	}
	defer cl.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		asked, cancel := context.WithTimeout(ctx, 2*time.Second)
		meta, err := kmsg.NewPtrMetadataRequest().RequestWith(asked, cl.SeedBrokers()[0])
		cancel()
		if err == nil && len(meta.Brokers) > 0 && meta.ControllerID >= 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-k.proc.done:
			return fmt.Errorf("it ended: %w", k.proc.err)
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// Brokers returns the addresses for the code under test.
func (k *KafkaServer) Brokers() []string { return k.brokers }

// Direct returns the addresses past any proxy, for what checks.
func (k *KafkaServer) Direct() []string { return k.direct }

// Listener returns the address of one of KafkaConfig.Listeners.
func (k *KafkaServer) Listener(name string) string { return k.more[name] }

// Client returns a client on the direct listener. The caller closes it.
func (k *KafkaServer) Client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(k.direct...), kgo.ClientID("outbox-harness")}, opts...)...)
}

// Kill ends the broker with SIGKILL.
func (k *KafkaServer) Kill() error {
	if k.proc == nil {
		return errNotOurs
	}
	return k.proc.kill()
}

// Stop ends the broker in an orderly way. If ctx ends first the broker goes on
// stopping.
func (k *KafkaServer) Stop(ctx context.Context) error {
	if k.proc == nil {
		return errNotOurs
	}
	if err := k.proc.signal(syscall.SIGTERM); err != nil {
		return err
	}
	return k.proc.wait(ctx)
}

// Pause freezes the broker: connections stay, nothing is answered.
func (k *KafkaServer) Pause() error { return k.send(syscall.SIGSTOP) }

// Resume ends a Pause.
func (k *KafkaServer) Resume() error { return k.send(syscall.SIGCONT) }

func (k *KafkaServer) send(sig syscall.Signal) error {
	if k.proc == nil {
		return errNotOurs
	}
	return k.proc.signal(sig)
}

// Log returns the last n lines that the broker wrote.
func (k *KafkaServer) Log(n int) string {
	if k.dir == "" {
		return "(given by the environment: " + strings.Join(k.brokers, ",") + ")"
	}
	return k.log.last(n)
}

// Close ends the broker and removes its data.
func (k *KafkaServer) Close() error {
	if k.dir == "" {
		return nil
	}
	var err error
	if k.proc != nil {
		err = k.proc.kill()
	}
	return errors.Join(err, os.RemoveAll(k.dir))
}
