package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// nowhere are settings with which nobody answers.
func nowhere() []string {
	return []string{"DATABASE_URL=postgres://relay:" + planted + "@127.0.0.1:1/shop", "KAFKA_BROKERS=127.0.0.1:1", "HEALTH_ADDR=127.0.0.1:0", "KAFKA_TOPIC=x"}
}

// With everything down it says what it can, in 80 columns, and ends with 4.
func TestDoctorOffline(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := try(t, nowhere(), "doctor")
	if status != 4 || strings.Contains(stdout+stderr, planted) || strings.Contains(stdout, "\x1b") {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	for _, want := range []string{"config ", "warn OBX-1301 meant: ", "fail OBX-3001 connect: ", "fail OBX-5022 brokers: ", "needs a connection to Postgres", "host ", "fail: "} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q:\n%s", want, stdout)
		}
	}
	for line := range strings.Lines(stdout) {
		if len(line) > reportWidth+1 && !strings.HasPrefix(line, "       fix: ") {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}

func TestDoctorJSON(t *testing.T) {
	t.Parallel()
	status, stdout, _ := try(t, nowhere(), "doctor", "-o", "json", "--only", "config,postgres")
	var said struct {
		Result                            string
		Passed, Warnings, Failed, Skipped int
		Seconds                           float64 `json:"duration_seconds"`
		Checks                            []checkView
	}
	if err := json.Unmarshal([]byte(stdout), &said); err != nil {
		t.Fatal(err)
	}
	if status != 4 || said.Result != "fail" || said.Failed != 1 || said.Warnings != 1 || said.Seconds <= 0 || said.Passed+said.Warnings+said.Failed+said.Skipped != len(said.Checks) {
		t.Errorf("status %d: %+v", status, said)
	}
	for _, c := range said.Checks {
		bad := c.Status == "fail" || c.Status == "warn"
		if c.Group != "config" && c.Group != "postgres" || c.Finding == "" || bad != (c.Code != "" && c.Name != "" && c.Why != "" && c.Fix != "" && c.Docs != "") {
			t.Errorf("%+v", c)
		}
	}
}

// Warnings alone are well, unless somebody is strict.
func TestDoctorStrict(t *testing.T) {
	t.Parallel()
	if status, stdout, _ := try(t, nowhere(), "doctor", "--only", "config"); status != 0 || !strings.Contains(stdout, "warn: ") {
		t.Errorf("status %d\n%s", status, stdout)
	}
	if status, _, _ := try(t, nowhere(), "doctor", "--only", "config", "--strict"); status != 4 {
		t.Errorf("status %d", status)
	}
	if status, _, stderr := try(t, nowhere(), "doctor", "--only", "moon"); status != 2 || !strings.Contains(stderr, "OBX-1004") {
		t.Errorf("status %d\n%s", status, stderr)
	}
}

// Rights are printed for the names in the settings, and nobody is asked.
func TestDoctorPrintsRights(t *testing.T) {
	t.Parallel()
	environ := append(nowhere(), "OUTBOX_NAME=orders", "OUTBOX_ADMIN_URL=postgres://owner@127.0.0.1:1/shop")
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"--print-sql"}, []string{`ALTER ROLE "relay" REPLICATION;`, `GRANT CREATE ON DATABASE "shop" TO "owner";`, `GRANT INSERT ON "outbox"."events" TO "outbox_writer";`}},
		{[]string{"--print-acls", "--principal", "User:CN=relay,O=shop"}, []string{"acls 'User:CN=relay,O=shop' --operation Write --transactional-id outbox-orders-0", "--topic outbox.orders.checkpoint"}},
		{[]string{"--print-sql", "-o", "json"}, []string{`"undo": "ALTER ROLE \"relay\" NOREPLICATION"`, `"after_init": true`}},
		{[]string{"--print-acls", "-o", "json"}, []string{`"resource_name": "outbox-orders-0"`, `"operation": "Write"`}},
	} {
		status, stdout, stderr := try(t, environ, append([]string{"doctor"}, c.args...)...)
		for _, want := range c.want {
			if status != 0 || !strings.Contains(stdout, want) {
				t.Errorf("%v: status %d, no %s\n%s%s", c.args, status, want, stdout, stderr)
			}
		}
	}
}
