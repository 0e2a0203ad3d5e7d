package eventstore_test

import (
	"testing"

	"github.com/holdwall/outbox-relay/outbox/eventstore/storetest"
)

func TestDatabaseConforms(t *testing.T) { storetest.Run(t, databaseRig(newTables(t))) }
func TestKafkaConforms(t *testing.T)    { storetest.Run(t, kafkaRig) }
func TestHybridConforms(t *testing.T)   { storetest.Run(t, hybridRig(newTables(t))) }

func TestDatabaseModel(t *testing.T) { storetest.RunModel(t, databaseRig(newTables(t))) }
func TestKafkaModel(t *testing.T)    { storetest.RunModel(t, kafkaRig) }
