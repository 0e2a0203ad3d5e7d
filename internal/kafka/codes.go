package kafka

import (
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// brokerCodes maps an answer of a broker to a fault. A retriable answer that is
// not here is KafkaUnavailable; any other is Unclassified and halts, so a code
// earns its line by being understood.
var brokerCodes = map[int16]*fault.Code{
	kerr.SaslAuthenticationFailed.Code: fault.KafkaAuth,
	kerr.UnsupportedSaslMechanism.Code: fault.KafkaSASLMechanism,
	kerr.IllegalSaslState.Code:         fault.KafkaSASLUnwanted,

	kerr.TopicAuthorizationFailed.Code:           fault.KafkaDenied,
	kerr.GroupAuthorizationFailed.Code:           fault.KafkaDenied,
	kerr.ClusterAuthorizationFailed.Code:         fault.KafkaDenied,
	kerr.TransactionalIDAuthorizationFailed.Code: fault.KafkaDenied,

	kerr.UnknownTopicOrPartition.Code: fault.KafkaTopicMissing,
	kerr.UnknownTopicID.Code:          fault.KafkaTopicMissing,

	kerr.UnsupportedVersion.Code:          fault.KafkaVersion,
	kerr.UnsupportedForMessageFormat.Code: fault.KafkaVersion,

	kerr.InvalidTransactionTimeout.Code:  fault.KafkaSetting,
	kerr.UnsupportedCompressionType.Code: fault.KafkaSetting,
	kerr.PolicyViolation.Code:            fault.KafkaSetting,
	kerr.InvalidConfig.Code:              fault.KafkaSetting,
	kerr.InvalidReplicationFactor.Code:   fault.KafkaSetting,
	kerr.InvalidPartitions.Code:          fault.KafkaSetting,

	// An older epoch is what a fenced producer has; brokers before 2.7 say it
	// with the first code, later ones with the second.
	kerr.InvalidProducerEpoch.Code: fault.Fenced,
	kerr.ProducerFenced.Code:       fault.Fenced,

	// The transaction is gone, the producer is not: the next session begins
	// with a new one and the slot resends.
	kerr.InvalidTxnState.Code:              fault.TransactionFailed,
	kerr.InvalidProducerIDMapping.Code:     fault.TransactionFailed,
	kerr.UnknownProducerID.Code:            fault.TransactionFailed,
	kerr.OutOfOrderSequenceNumber.Code:     fault.TransactionFailed,
	kerr.TransactionAbortable.Code:         fault.TransactionFailed,
	kerr.OperationNotAttempted.Code:        fault.TransactionFailed,
	kerr.ConcurrentTransactions.Code:       fault.TransactionFailed,
	kerr.TransactionCoordinatorFenced.Code: fault.TransactionFailed,
	kerr.NotEnoughReplicasAfterAppend.Code: fault.TransactionFailed,

	// One record is at fault: it becomes a dead letter.
	kerr.MessageTooLarge.Code:       fault.RowTooLarge,
	kerr.RecordListTooLarge.Code:    fault.RowTooLarge,
	kerr.InvalidTopicException.Code: fault.RowTopic,
	kerr.InvalidRecord.Code:         fault.RowRefused,
	kerr.InvalidTimestamp.Code:      fault.RowRefused,
}
