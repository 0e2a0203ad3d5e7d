package fault

// Connection names the class of a connection fault: dns, network, timeout, tls,
// sasl, authz or protocol. It is empty for a code that says nothing about
// reaching Kafka and being let in.
//
// It is a property of the code, so that a log line, a metric and a health page
// cannot disagree about it.
func (c *Code) Connection() string {
	switch c {
	case KafkaNameUnknown, KafkaResolver:
		return "dns"
	case KafkaUnreachable, KafkaRefused, KafkaNoRoute, KafkaReset, KafkaClosed:
		return "network"
	case KafkaTimeout, KafkaSilent:
		return "timeout"
	case KafkaTLS, KafkaCertExpired, KafkaCertAuthority, KafkaCertName, KafkaPlaintextPort, KafkaTLSPort,
		KafkaClientCert, KafkaClientRefused, KafkaTLSFile:
		return "tls"
	case KafkaAuth, KafkaSASLMechanism, KafkaSASLMissing, KafkaSASLUnwanted, KafkaSASLFile, KafkaSASLExchange:
		return "sasl"
	case KafkaDenied:
		return "authz"
	case KafkaVersion, KafkaNotKafka:
		return "protocol"
	}
	return ""
}

// IsConnection tells whether an error is about reaching Kafka and being let in,
// as opposed to what was asked of it.
func IsConnection(err error) bool { return CodeOf(err).Connection() != "" }
