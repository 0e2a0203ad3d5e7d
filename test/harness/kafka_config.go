package harness

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// KafkaConfig says how a broker is started. The zero value is a broker for
// functional tests.
type KafkaConfig struct {
	// FullJIT leaves the compiler of the JVM as it is. The default stops at
	// the first tier, which starts faster and is slower for ever after:
	// benchmarks must set this.
	FullJIT bool
	// Heap is the -Xmx of the JVM, "384m" if empty.
	Heap string
	// JVMArgs are added to the command line.
	JVMArgs []string
	// Properties are added to server.properties and win over the defaults.
	Properties map[string]string
	// Listeners are further ones, each on a port of its own.
	Listeners []KafkaListener
	// Scram are credentials made with the storage, as its tool reads them:
	// SCRAM-SHA-256=[name=u,password=p].
	Scram []string
	// Advertised is called once with the address of the client listener
	// before the broker starts, and returns the address that the broker tells
	// clients: the place to put a proxy in front. The direct listener, which
	// the broker itself and the checker use, is not affected.
	Advertised func(listener string) (advertised string, err error)
}

// KafkaListener is a listener besides those that every broker has.
type KafkaListener struct {
	Name       string            // upper case
	Protocol   string            // SSL, SASL_SSL, SASL_PLAINTEXT
	Properties map[string]string // of this listener, without listener.name.<name>
}

func (c KafkaConfig) heap() string {
	if c.Heap == "" {
		return "384m"
	}
	return c.Heap
}

func (c KafkaConfig) javaArgs(libs, main string, args ...string) []string {
	java := []string{"-Xmx" + c.heap()}
	if !c.FullJIT {
		java = append(java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
	}
	java = append(java, c.JVMArgs...)
	java = append(java, "-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.showThreadName=false",
		"-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS", "-cp", libs+"/*", main)
	return append(java, args...)
}

// ShortExpiry returns properties that forget idle transactional ids and
// producers within seconds. They are no default: an idle relay is a normal
// thing in a test, and here it loses its id.
func ShortExpiry() map[string]string {
	return map[string]string{
		"transactional.id.expiration.ms":           "20000",
		"producer.id.expiration.ms":                "20000",
		"producer.id.expiration.check.interval.ms": "2000",
	}
}

const (
	clientListener     = "CLIENT"
	directListener     = "DIRECT"
	controllerListener = "CONTROLLER"
)

// serverProperties is the text of server.properties for one node that is
// broker and controller.
func (c KafkaConfig) serverProperties(dir string, ports kafkaPorts, advertised string) string {
	client, direct, controller := hostPort(ports.client), hostPort(ports.direct), hostPort(ports.controller)
	props := map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        "1",
		"controller.quorum.voters":       "1@" + controller,
		"controller.listener.names":      controllerListener,
		"listeners":                      fmt.Sprintf("%s://%s,%s://%s,%s://%s", clientListener, client, directListener, direct, controllerListener, controller),
		"advertised.listeners":           fmt.Sprintf("%s://%s,%s://%s", clientListener, advertised, directListener, direct),
		"listener.security.protocol.map": fmt.Sprintf("%s:PLAINTEXT,%s:PLAINTEXT,%s:PLAINTEXT", clientListener, directListener, controllerListener),
		// The broker writes transaction markers to itself through this one: a
		// proxy must not come between.
		"inter.broker.listener.name": directListener,
		"log.dirs":                   dir,

		"auto.create.topics.enable":  "false",
		"default.replication.factor": "1",
		"min.insync.replicas":        "1",

		// One node holds all replicas, and few partitions make a start short.
		"offsets.topic.replication.factor":                 "1",
		"offsets.topic.num.partitions":                     "3",
		"transaction.state.log.replication.factor":         "1",
		"transaction.state.log.min.isr":                    "1",
		"transaction.state.log.num.partitions":             "3",
		"share.coordinator.state.topic.num.partitions":     "1",
		"share.coordinator.state.topic.replication.factor": "1",
		"share.coordinator.state.topic.min.isr":            "1",

		// Shrunken clocks: a test does not wait 10 s for an abandoned
		// transaction to be aborted, nor 3 s for a group's first member.
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
		"transaction.remove.expired.transaction.cleanup.interval.ms":  "2000",
		"group.initial.rebalance.delay.ms":                            "0",
		"log.cleaner.backoff.ms":                                      "500",
		// A killed broker is let in again only when its old session has ended,
		// which by default takes 9 s.
		"broker.session.timeout.ms":       "2000",
		"broker.heartbeat.interval.ms":    "500",
		"log.retention.check.interval.ms": "1000",
		"log.segment.delete.delay.ms":     "500",
		"log.initial.task.delay.ms":       "500",
	}
	for i, l := range c.Listeners {
		address := "," + l.Name + "://" + hostPort(ports.more[i])
		props["listeners"] += address
		props["advertised.listeners"] += address
		props["listener.security.protocol.map"] += "," + l.Name + ":" + l.Protocol
		for key, value := range l.Properties {
			props["listener.name."+strings.ToLower(l.Name)+"."+key] = value
		}
	}
	maps.Copy(props, c.Properties)

	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(props)) {
		fmt.Fprintf(&b, "%s=%s\n", key, props[key])
	}
	return b.String()
}
