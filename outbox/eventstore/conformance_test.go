package eventstore_test

import (
	"testing"

	"github.com/holdwall/outbox-relay/outbox/eventstore/storetest"
)

func TestDatabaseConforms(t *testing.T) { storetest.Run(t, databaseRig) }
func TestKafkaConforms(t *testing.T)    { storetest.Run(t, kafkaRig) }
func TestHybridConforms(t *testing.T)   { storetest.Run(t, hybridRig) }

func TestDatabaseModel(t *testing.T) { storetest.RunModel(t, databaseRig) }
func TestKafkaModel(t *testing.T)    { storetest.RunModel(t, kafkaRig) }
