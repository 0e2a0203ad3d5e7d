package fault_test

import (
	"strings"
	"testing"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// A connection fault says its class wherever it is shown.
func TestConnection(t *testing.T) {
	t.Parallel()
	for code, want := range map[*fault.Code]string{
		fault.KafkaNameUnknown: "dns", fault.KafkaResolver: "dns", fault.KafkaRefused: "network", fault.KafkaTimeout: "timeout",
		fault.KafkaCertExpired: "tls", fault.KafkaAuth: "sasl", fault.KafkaDenied: "authz", fault.KafkaVersion: "protocol",
		fault.KafkaUnavailable: "", fault.Fenced: "", fault.PostgresUnreachable: "", fault.RowDecode: "",
	} {
		err := fault.New(code, "x")
		shown := strings.Contains(err.Text(), "\n  class: "+want+"\n")
		if code.Connection() != want || fault.IsConnection(err) != (want != "") || shown != (want != "") {
			t.Errorf("%s: %q\n%s", code.Name, code.Connection(), err.Text())
		}
		if class, ok := err.Fields()["connection"]; ok != (want != "") || ok && class != want || err.Fields()["code"] != code.ID {
			t.Errorf("%s: fields %v", code.Name, err.Fields())
		}
	}
}
