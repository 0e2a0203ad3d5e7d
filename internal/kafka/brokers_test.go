package kafka

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/internal/fault"
)

var update = flag.Bool("update", false, "record golden files")

func TestBrokersThatAreUnderstood(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	for list, want := range map[string][]broker{
		"localhost:9092":                      {{"localhost", 9092}},
		"a:1,b:65535":                         {{"a", 1}, {"b", 65535}},
		" a:9092 , b:9092 ":                   {{"a", 9092}, {"b", 9092}},
		"10.0.0.1:9092":                       {{"10.0.0.1", 9092}},
		"[::1]:9092":                          {{"::1", 9092}},
		"[2001:DB8:0::1]:9094":                {{"2001:db8::1", 9094}},
		"[fe80::1%eth0]:9092":                 {{"fe80::1%eth0", 9092}},
		"Broker-1.Example.COM.:9092":          {{"broker-1.example.com", 9092}},
		"my_kafka:9092":                       {{"my_kafka", 9092}},
		"a:9092,a:9093":                       {{"a", 9092}, {"a", 9093}},
		"a:09092":                             {{"a", 9092}},
		long + ".x:9092":                      {{long + ".x", 9092}},
		"3com.example:9092":                   {{"3com.example", 9092}},
		"xn--bcher-kva.example:9092":          {{"xn--bcher-kva.example", 9092}},
		"broker.kafka.svc.cluster.local:9092": {{"broker.kafka.svc.cluster.local", 9092}},
	} {
		got, faults := parseBrokers(strings.Split(list, ","))
		if len(faults) > 0 {
			t.Errorf("%s: %v", list, faults[0])
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(broker{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", list, diff)
		}
	}
}

// The words of each fault are recorded: they are what a person reads first
// when nothing works yet.
func TestBrokersThatAreNot(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	for _, list := range []string{
		"", ",", "a:9092,", "a", "a:", ":9092", "a:0", "a:65536", "a:99999999999999999999", "a:-1", "a:+9092", "a:9092x", "a:kafka",
		"a:9092,A.:09092", "[::1]:9092,[0:0:0:0:0:0:0:1]:9092", "::1", "::1:9092", "fe80::1:9092", "[::1]", "[::1", "[::1]9092", "[a]:9092", "[10.0.0.1]:9092", "a:b:9092",
		"kafka://a:9092", "PLAINTEXT://a:9092", "user:hunter2@a:9092", "kafka://user:hun,ter2@a:9092",
		"a b:9092", "a:9092;b:9092", "a:9092/topic", "-a:9092", "a-:9092", "a..b:9092", "bücher:9092", "a!:9092", "10.0.0.300:9092", "10.1:9092", "010.0.0.1:9092",
		strings.Repeat("a", 64) + ":9092", strings.Repeat("a.", 127) + "b:9092",
		"a,b:0,c:9092,c:9092",
	} {
		_, faults := parseBrokers(strings.Split(list, ","))
		if len(faults) == 0 {
			t.Errorf("%q was accepted", list)
		}
		fmt.Fprintf(&out, "== %.100s\n", list)
		for _, f := range faults {
			if f.Code != fault.BrokerList {
				t.Errorf("%q: code %s", list, f.Code.ID)
			}
			if strings.Contains(f.Text(), "hun") || strings.Contains(f.Text(), "ter2") {
				t.Errorf("%q: the fault holds the password: %s", list, f.Text())
			}
			fmt.Fprintln(&out, f.Text())
		}
	}
	golden(t, "brokers", out.String())
}

func FuzzBrokers(f *testing.F) {
	for _, s := range []string{"a:9092,b:9093", "[::1]:9092", "kafka://u:p@h:1", "a:9092,A.:9092", "[fe80::1%a]:1", "\x00:1", ",,,", "10.0.0.1:9092"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		entries := strings.Split(list, ",")
		brokers, faults := parseBrokers(entries)
		if len(brokers)+len(faults) != len(entries) {
			t.Fatalf("%d entries gave %d brokers and %d faults", len(entries), len(brokers), len(faults))
		}
		seen := map[broker]bool{}
		for _, b := range brokers {
			if b.port == 0 || b.host == "" || seen[b] || strings.ContainsAny(b.host, "@/ ,;[]") {
				t.Fatalf("%q was accepted as %+v", list, b)
			}
			seen[b] = true
			// What was understood is understood again, as the same.
			s := fmt.Sprintf("%s:%d", b.host, b.port)
			if strings.Contains(b.host, ":") {
				s = fmt.Sprintf("[%s]:%d", b.host, b.port)
			}
			again, bad := parseBroker(s)
			if bad != nil || again != b {
				t.Fatalf("%q: %+v does not survive writing and reading: %+v %v", list, b, again, bad)
			}
		}
		for _, bad := range faults {
			if bad.Code != fault.BrokerList || bad.Reason() == "" || bad.Remedy() == "" || strings.ContainsAny(bad.Error(), "\n\r\x00\x1b") {
				t.Fatalf("%q: fault %q", list, bad.Text())
			}
		}
	})
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update records it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
