package harness

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// tools are the programs of Kafka's bin folder that the documentation uses, by
// name, with the class behind each.
var tools = map[string]string{
	"kafka-acls.sh":             "org.apache.kafka.tools.AclCommand",
	"kafka-configs.sh":          "org.apache.kafka.tools.ConfigCommand",
	"kafka-console-consumer.sh": "org.apache.kafka.tools.consumer.ConsoleConsumer",
	"kafka-topics.sh":           "org.apache.kafka.tools.TopicCommand",
	"kafka-transactions.sh":     "org.apache.kafka.tools.TransactionsCommand",
}

// KafkaTools returns a folder with Kafka's own programs under the names that
// people type, for the PATH of what a page tells them to run.
func KafkaTools(t testing.TB) string {
	t.Helper()
	java, err := findJava(t.Context())
	need(t, err)
	libs, err := kafkaJars(t.Context())
	need(t, err)
	dir := t.TempDir()
	for _, name := range slices.Sorted(maps.Keys(tools)) {
		script := fmt.Sprintf("#!/bin/sh\nexec '%s' -Xmx128m -cp '%s' %s \"$@\"\n", java, filepath.Join(libs, "*"), tools[name])
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
